"""The workflows and the hook that users copy: their commands parse, they run when they must, and
the hook does what `compsec verify` does, under the real pre-commit where it is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.command_lines import problem
from tests.docs.fences import DOCS, ROOT, every_fence
from tests.docs.workflows import steps_of_github, steps_of_gitlab
from tests.docs.yaml_blocks import kind

GITHUB = DOCS / "examples" / "github-compsec.yml"
GITLAB = DOCS / "examples" / "gitlab-ci.yml"
NETS = "from torch import nn\n\n\ndef build():\n    return nn.Linear(2, 2)\n"
GITHUB_SCHEMA, GITLAB_SCHEMA = "vendor.github-workflows", "vendor.gitlab-ci"
HOOKS = ROOT / ".pre-commit-hooks.yaml"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "steps"), [(GITHUB, steps_of_github), (GITLAB, steps_of_gitlab)], ids=["hub", "lab"]
)
def test_commands_of_the_workflows_parse(
    path: Path, steps: Any, pytestconfig: pytest.Config
) -> None:
    found = list(steps(read(path)))
    assert {words[0] for words in found} == {"pip", "compsec", "pytest"}
    for words in found:
        assert problem(words, pytestconfig) is None, " ".join(words)
    (run,) = (words for words in found if words[0] == "pytest")
    # A cache that a pull request could have written decides nothing in a gate.
    assert "--compsec-no-cache" in run
    assert any(word.startswith("--compsec-lock-digest=") for word in run)


def test_the_workflow_runs_when_a_model_changes_and_by_the_clock() -> None:
    workflow = read(GITHUB)
    # YAML 1.1 reads `on` as a boolean; GitHub does not.
    events = workflow[True]
    for event in ("push", "pull_request"):
        assert {"compsec.lock", "compsec.yaml"} <= set(events[event]["paths"])
    assert events["schedule"]
    assert workflow["permissions"] == {"contents": "read", "security-events": "write"}


def check_schema(path: Path, schema: str) -> subprocess.CompletedProcess[str]:
    """By the schemas that check-jsonschema brings; nothing is fetched."""
    if importlib.util.find_spec("check_jsonschema") is None and not os.environ.get("CI"):
        pytest.skip("check-jsonschema is not installed")
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )


def shown_workflows() -> list[tuple[str, str, str]]:
    """Whole workflows that the pages show: where, the schema, the text."""
    schemas = {"github": GITHUB_SCHEMA, "gitlab": GITLAB_SCHEMA}
    found = []
    for fence in every_fence("yaml"):
        schema = schemas.get(kind(fence))
        if schema is not None and isinstance(yaml.safe_load(fence.text), dict):
            found.append((str(fence), schema, fence.text))
    return found


@pytest.mark.heavy
@pytest.mark.parametrize(("path", "schema"), [(GITHUB, GITHUB_SCHEMA), (GITLAB, GITLAB_SCHEMA)])
def test_the_files_follow_the_schemas_of_their_systems(path: Path, schema: str) -> None:
    done = check_schema(path, schema)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_show_a_workflow_of_each_system() -> None:
    found = {where.partition(":")[0]: schema for where, schema, _ in shown_workflows()}
    assert found["docs/how-to/github-actions.md"] == GITHUB_SCHEMA
    assert found["docs/how-to/gitlab-ci.md"] == GITLAB_SCHEMA


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("where", "schema", "text"), shown_workflows(), ids=[found[0] for found in shown_workflows()]
)
def test_what_the_pages_show_follows_them_too(
    where: str, schema: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "shown.yml").write_text(text, encoding="utf-8")
    done = check_schema(tmp_path / "shown.yml", schema)
    assert done.returncode == 0, where + done.stdout + done.stderr


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("path", "schema", "slip"),
    [
        (GITHUB, GITHUB_SCHEMA, ("timeout-minutes:", "timeout-minuets:")),
        (GITLAB, GITLAB_SCHEMA, ("when: always", "when: allways")),
    ],
)
def test_a_slip_in_a_workflow_would_be_seen(
    path: Path, schema: str, slip: tuple[str, str], tmp_path: Path
) -> None:
    text = path.read_text("utf-8")
    assert slip[0] in text
    (tmp_path / path.name).write_text(text.replace(*slip), encoding="utf-8")
    assert check_schema(tmp_path / path.name, schema).returncode == 1


def test_the_pages_show_what_gates() -> None:
    """Who copies the block instead of the file has the lock's digest and the alerts too."""
    hub = (DOCS / "how-to" / "github-actions.md").read_text("utf-8")
    lab = (DOCS / "how-to" / "gitlab-ci.md").read_text("utf-8")
    for page, file in ((hub, GITHUB), (lab, GITLAB)):
        block = page.split("```yaml\n", 1)[1].split("```", 1)[0]
        for kept in re.findall(r"\$\{\w+:\+[^}]*\}", file.read_text("utf-8")):
            assert kept in block
    assert "upload-sarif" in hub.split("```yaml\n", 1)[1].split("```", 1)[0]


def test_the_workflow_uploads_what_pytest_wrote() -> None:
    steps = read(GITHUB)["jobs"]["safety"]["steps"]
    written = set(re.findall(r"--compsec-report=(\S+)", GITHUB.read_text("utf-8")))
    uploads = [step for step in steps if "upload" in step.get("uses", "")]
    named = " ".join(str(step["with"]) for step in uploads)
    assert {Path(name).suffix for name in written} == {".html", ".json", ".sarif"}
    assert all(name in named for name in written)
    # A red run is the one that people read.
    assert all("always()" in step["if"] for step in uploads)
    assert read(GITLAB)["model-safety"]["artifacts"]["when"] == "always"


def test_the_hook_runs_on_config_and_lock(pytestconfig: pytest.Config) -> None:
    (hook,) = read(HOOKS)
    assert hook["id"] == "compsec-verify"
    assert "pass_filenames" not in hook  # each file's own suite is verified
    assert problem(hook["entry"].split(), pytestconfig) is None
    matches = re.compile(hook["files"]).search
    assert all(map(matches, ("compsec.lock", "compsec.yaml", "suites/a/compsec.lock")))
    assert not any(map(matches, ("xcompsec.lock", "compsec.lock.txt", "test_compsec.py")))


@pytest.mark.heavy
def test_the_hook_under_pre_commit(tmp_path: Path) -> None:
    """`pre-commit try-repo` passes on a lock that matches, and stops on a file that changed."""
    if importlib.util.find_spec("pre_commit") is None:
        pytest.skip("pre-commit is not installed")
    hooks, project = tmp_path / "hooks", tmp_path / "project"
    for folder in (hooks, project):
        folder.mkdir()
        git(folder, "init", "-q")
    shutil.copy(HOOKS, hooks)
    commit(hooks)
    (project / "bin").mkdir()
    command = project / "bin" / "compsec"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pytest_compsec.cli "$@"\n')
    command.chmod(0o755)
    made_suite(project)
    commit(project)
    done = try_hook(hooks, project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Passed" in done.stdout
    with (project / "net.safetensors").open("ab") as file:
        file.write(b"\0")
    done = try_hook(hooks, project)
    assert done.returncode == 1
    assert "net.safetensors" in done.stdout


def made_suite(folder: Path) -> None:
    """A pinned classifier of a few bytes."""
    import torch
    from safetensors.torch import save_file

    from pytest_compsec.models.pinning import pin

    save_file(torch.nn.Linear(2, 2).state_dict(), folder / "net.safetensors")
    (folder / "nets.py").write_text(NETS)
    (folder / "compsec.yaml").write_text(
        "version: 1\nmodels:\n  net:\n    task: image-classification\n"
        '    original: {source: "python:nets:build", weights: ./net.safetensors}\n'
        "    compressed: {int4: {quantize: {method: round-to-nearest, bits: 4}}}\n"
    )
    pin(folder / "compsec.yaml", expect={}, notify=lambda text: None)


def try_hook(hooks: Path, project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pre_commit", "try-repo", str(hooks), "compsec-verify",
         "--files", "compsec.lock", "--verbose"],
        cwd=project,
        env={**environment(project), "PATH": f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """Nothing of the caller's git, and caches that end with the test."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return {
        **kept,
        "PRE_COMMIT_HOME": str(folder.parent / "pre-commit"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, env=environment(folder), check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "-m", "made for a test")
