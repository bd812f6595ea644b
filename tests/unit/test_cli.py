"""The ``compsec`` command as a user types it: output, exit codes, files."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_compsec.cli import main
from pytest_compsec.commands import shorthand
from pytest_compsec.config.loading import load_config
from pytest_compsec.config.pairs import all_pairs
from pytest_compsec.models import agreement
from pytest_compsec.models.lock import lock_digest
from tests.unit.models.tiny_files import CONFIG, safetensors, write_model, write_suite

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # The quantizer is an optional dependency; pinning a recipe only asks for its version.
    monkeypatch.setattr(agreement, "tool_version", lambda tool: "1.0")
    return tmp_path


@pytest.fixture
def pinned(project: Path, capsys: Capture) -> Path:
    write_suite(project)
    assert main(["pin"]) == 0
    capsys.readouterr()
    return project


def test_pin_then_verify(project: Path, capsys: Capture) -> None:
    write_suite(project)
    assert main(["pin"]) == 0
    out = capsys.readouterr().out
    assert "added    assistant: model.safetensors" in out
    assert "Wrote compsec.lock" in out
    assert lock_digest(project / "compsec.lock") in out
    assert main(["verify"]) == 0
    out = capsys.readouterr().out
    assert "All 8 pinned files" in out
    assert lock_digest(project / "compsec.lock") in out
    assert main(["pin"]) == 0
    assert "Nothing changed" in capsys.readouterr().out


def test_verify_names_the_file_and_both_digests(pinned: Path, capsys: Capture) -> None:
    (pinned / "other" / "model.safetensors").write_bytes(safetensors(b"\x09" * 64))
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert "CHANGED  ./other/model.safetensors" in out
    assert "locked sha256" in out
    assert "found  sha256" in out


def test_verify_goes_on_to_the_end(pinned: Path, capsys: Capture) -> None:
    (pinned / "other" / "model.safetensors").write_bytes(safetensors(b"\x09" * 64))
    (pinned / "other" / "added.json").write_text("{}", encoding="utf-8")
    (pinned / "model" / "config.json").unlink()
    (pinned / "model" / ".git").mkdir()
    (pinned / "model" / ".git" / "x.py").write_text("", encoding="utf-8")
    text = CONFIG.replace("other: {source: ./other}", "other: {source: ./other}\n"
                          "      new: {source: ./other}")  # fmt: skip
    (pinned / "compsec.yaml").write_text(text, encoding="utf-8")
    assert main(["verify", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    found = {(problem["kind"], problem["file"]) for problem in report["problems"]}
    assert found == {
        ("changed", "model.safetensors"),
        ("extra", "added.json"),
        ("missing", "config.json"),
        ("refused", ".git/x.py"),
        ("unlisted", "compsec.yaml"),
    }
    change = next(item for item in report["problems"] if item["kind"] == "changed")
    assert len({change["expected"], change["found"]}) == 2
    assert report["lock_digest"] == lock_digest(pinned / "compsec.lock")


def test_verify_as_json_when_all_is_well(pinned: Path, capsys: Capture) -> None:
    assert main(["verify", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["problems"] == []
    assert report["files"] == 8


def test_verify_when_a_source_is_gone(pinned: Path, capsys: Capture) -> None:
    (pinned / "other").rename(pinned / "moved")
    assert main(["verify"]) == 1
    assert "MISSING  ./other" in capsys.readouterr().out


def test_verify_notices_tools_prompts_and_stale_entries(
    project: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "mine.txt").write_text("How do I bake bread?\n", encoding="utf-8")
    write_suite(project, CONFIG + "prompts: {mine: {file: mine.txt}}\n")
    assert main(["pin"]) == 0
    (project / "mine.txt").write_text("How do I bake cake?\n", encoding="utf-8")
    monkeypatch.setattr(agreement, "tool_version", lambda tool: "2.0")
    monkeypatch.setattr("pytest_compsec.models.verification.tool_version", lambda tool: "2.0")
    capsys.readouterr()
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert "the version of pytest-compsec of 'assistant-half' is 2.0, the lock pins 1.0" in out
    assert "the prompt set 'mine' is not what the lock pins" in out


def test_entries_that_the_config_dropped_are_a_note(
    pinned: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_compsec.models.verification.tool_version", lambda tool: "1.0")
    text = CONFIG.replace("      other: {source: ./other}\n", "")
    (pinned / "compsec.yaml").write_text(text, encoding="utf-8")
    assert main(["verify"]) == 0
    assert "note: the lock lists variant assistant-other" in capsys.readouterr().out


@pytest.fixture(autouse=True)
def _same_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_compsec.models.verification.tool_version", lambda tool: "1.0")


@pytest.mark.parametrize("command", ["pin", "verify", "list"])
def test_without_a_config_the_exit_code_is_2(command: str, capsys: Capture) -> None:
    assert main([command]) == 2
    error = capsys.readouterr().err
    assert error.startswith("compsec: compsec.yaml: there is no such file")


def test_verify_without_a_lock_is_2(project: Path, capsys: Capture) -> None:
    write_suite(project)
    assert main(["verify"]) == 2
    assert "compsec pin" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["pin", "--nothing"], ["init"]])
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_expect(project: Path, capsys: Capture) -> None:
    write_suite(project)
    assert main(["pin", "--expect", f"model.safetensors={'0' * 64}"]) == 1
    assert "Nothing was pinned" in capsys.readouterr().err
    for item in ("model.safetensors", "model.safetensors=xyz", f"={'0' * 64}"):
        assert main(["pin", "--expect", item]) == 2
        assert "must be FILE=HEX" in capsys.readouterr().err
    twice = ["--expect", f"a={'0' * 64}", "--expect", f"a={'1' * 64}"]
    assert main(["pin", *twice]) == 2
    assert not (project / "compsec.lock").exists()


def test_config_elsewhere(project: Path, capsys: Capture) -> None:
    (project / "sub").mkdir()
    path = write_suite(project / "sub")
    assert main(["pin", "--config", str(path)]) == 0
    assert (project / "sub" / "compsec.lock").is_file()
    assert main(["verify", "--config", str(path)]) == 0


def test_list(project: Path, capsys: Capture) -> None:
    write_suite(project)
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "assistant: not pinned (no lock)" in out
    for words in ("original", "./model", "assistant-half", "prune: magnitude sparsity=0.5",
                  "assistant-other", "./other", "run `compsec pin`"):  # fmt: skip
        assert words in out
    assert main(["pin"]) == 0
    capsys.readouterr()
    assert main(["list"]) == 0
    assert "assistant: pinned, original's tree" in capsys.readouterr().out
    (project / "compsec.yaml").write_text(CONFIG.replace("0.5", "0.6"), encoding="utf-8")
    assert main(["list"]) == 0
    assert "assistant: the lock is out of date (the recipe of" in capsys.readouterr().out
    (project / "compsec.yaml").write_text(CONFIG.replace("assistant", "new"), encoding="utf-8")
    assert main(["list"]) == 0
    assert "new: not pinned: run `compsec pin`" in capsys.readouterr().out


def test_init_writes_a_config_and_a_test_that_work(project: Path, capsys: Capture) -> None:
    write_model(project / "models" / "assistant")
    write_model(project / "models" / "assistant-gptq", b"\x01" * 64)
    (project / "assistant.Q4_K_M.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    arguments = ["init", "models/assistant", "int8", "nf4", "fp4", "bf16", "fp16", "prune50",
                 "prune5", "models/assistant-gptq", "./assistant.Q4_K_M.gguf"]  # fmt: skip
    assert main([*arguments, "--pin"]) == 0
    loaded = load_config(project / "compsec.yaml")
    assert [pair.id for pair in all_pairs(loaded.config)] == [
        "assistant-int8",
        "assistant-nf4",
        "assistant-fp4",
        "assistant-bf16",
        "assistant-fp16",
        "assistant-prune50",
        "assistant-prune5",
        "assistant-assistant-gptq",
        "assistant-assistant.Q4_K_M",
    ]
    variants = loaded.config.models["assistant"].compressed
    derivation = variants["prune5"].derivation()
    assert derivation is not None
    assert derivation[1].model_dump()["sparsity"] == 0.05
    assert variants["assistant-gptq"].source == "./models/assistant-gptq"
    assert main(["verify"]) == 0
    tests = ast.parse((project / "test_compsec_safety.py").read_text(encoding="utf-8"))
    names = [node.name for node in tests.body if isinstance(node, ast.FunctionDef)]
    assert names == ["test_still_refuses_harmful_requests", "test_still_helps_with_benign_requests"]


def test_the_test_file_of_init_is_accepted_by_the_markers() -> None:
    """Its arguments go through the real markers when it is imported."""
    from pytest_compsec.commands.init import _TEST

    names: dict[str, object] = {}
    exec(compile(_TEST, "test_compsec_safety.py", "exec"), names)
    assert callable(names["test_still_refuses_harmful_requests"])


def test_init_without_pin_says_what_comes_next(project: Path, capsys: Capture) -> None:
    write_model(project / "model")
    assert main(["init", "model", "int8", "--name", "mine"]) == 0
    assert "compsec pin" in capsys.readouterr().out
    assert not (project / "compsec.lock").exists()
    assert all_pairs(load_config(project / "compsec.yaml").config)[0].id == "mine-int8"


@pytest.mark.parametrize("existing", ["compsec.yaml", "test_compsec_safety.py", "compsec.lock"])
@pytest.mark.parametrize("dangling", [False, True])
def test_init_overwrites_nothing(
    project: Path, capsys: Capture, existing: str, dangling: bool
) -> None:
    write_model(project / "model")
    if dangling:
        (project / existing).symlink_to(project / "nothing")
    else:
        (project / existing).write_text("mine", encoding="utf-8")
    before = {path.name for path in project.iterdir()}
    assert main(["init", "model", "int8"]) == 2
    assert f"{existing}: exists already" in capsys.readouterr().err
    assert {path.name for path in project.iterdir()} == before
    if not dangling:
        assert (project / existing).read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "int8"], "is no file or directory here"),
        (["./nothing", "int8"], "is no file or directory here"),
        (["model", "int3"], "no method (int8, nf4"),
        (["model", "prune0"], "no method"),
        (["model", "prune100"], "no method"),
        (["model", "int8", "int8"], "'int8' is given twice"),
        (["model", "int8", "--name", "a/b"], "the name 'a/b' must be"),
        (["model", "int8", "--dir", "nothing"], "there is no such directory"),
    ],
)
def test_init_leaves_nothing_behind_when_it_fails(
    project: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    write_model(project / "model")
    before = {path.name for path in project.iterdir()}
    assert main(["init", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in project.iterdir()} == before


def test_init_in_another_directory_writes_paths_relative_to_it(project: Path) -> None:
    write_model(project / "model")
    (project / "suite").mkdir()
    assert main(["init", "model", "int8", "--dir", "suite", "--pin"]) == 0
    loaded = load_config(project / "suite" / "compsec.yaml")
    assert loaded.config.models["model"].original.source == "../model"
    assert main(["verify", "--config", "suite/compsec.yaml"]) == 0


def test_init_with_a_hub_commit_asks_nobody(project: Path) -> None:
    commit = "0" * 40  # reads as a number for YAML, so it must be written in quotes
    write_model(project / "model")
    assert main(["init", f"org/some-model@{commit}", "./model", "int8"]) == 0
    source = load_config(project / "compsec.yaml").config.models["some-model"].original
    assert (source.source, source.revision) == ("org/some-model", commit)


@pytest.mark.parametrize("name", ["with space", "with: colon", "a#b", "com,ma", "{x}", "a'b\"c"])
def test_init_takes_paths_that_yaml_would_misread(project: Path, name: str) -> None:
    write_model(project / name)
    assert main(["init", f"./{name}", "int8"]) == 0
    model = next(iter(load_config(project / "compsec.yaml").config.models.values()))
    assert model.original.source == f"./{name}"


def test_the_documented_method_names_are_all_known() -> None:
    for name in ("int8", "nf4", "fp4", "bf16", "fp16", "prune50", "prune1", "prune99"):
        assert shorthand.derivation(name) is not None


def test_help_is_quick_to_import_and_loads_no_heavy_library() -> None:
    code = (
        "import sys\nfrom pytest_compsec.cli import build_parser\n"
        "build_parser().format_help()\n"
        "print(sorted({'torch', 'pydantic', 'huggingface_hub', 'pytest'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
