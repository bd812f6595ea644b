"""What a classifier is made of is pinned: weights, code with what it imports, samples, triggers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_compsec.cli import main
from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.models.agreement import pinned_sources
from pytest_compsec.models.lock import Lock, read_lock
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.verification import verify_lock
from pytest_compsec.models.verified import VerifiedInputs
from tests.plugin.classifier_suite import (
    CLEANED,
    HALF,
    LANGUAGE,
    SHAPES,
    TEXT_DATA,
    TEXTS,
    config,
    flip_a_byte,
    model,
    write_files,
)
from tests.unit.models.tiny_files import open_inputs

BLENDED = "{blended: {file: ./pattern.safetensors, share: 0.95}, target: 0}"
CALLED = "{callable: 'nets.stamps:corner', target: 0}"
TUNED = "tuned: {prune: {method: fine-pruning, data: ./training.safetensors, epochs: 1}}"
WHOLE = config(
    model(SHAPES, HALF, CLEANED, TUNED, backdoor=BLENDED),
    model(TEXTS, HALF, data=TEXT_DATA, backdoor="{phrase: cf, target: 1}"),
    model(SHAPES.replace("shapes:", "coded:", 1), HALF, backdoor=CALLED),
    LANGUAGE,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    pin(write_files(root, WHOLE))
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path


def lock_of(root: Path) -> Lock:
    return read_lock(root / "compsec.lock")


def ask_everything(root: Path) -> None:
    """What a run with every marker opens, or IntegrityError. No model is loaded."""
    with open_inputs(root / "compsec.yaml") as inputs:
        ask(inputs)


def ask(inputs: VerifiedInputs) -> None:
    for name, variants in (("shapes", ("half", "cleaned", "tuned")), ("texts", ("half",))):
        for variant in (None, *variants):
            inputs.arm(name, variant).recheck()
        assert inputs.evaluation_data(name) is not None
        assert inputs.backdoor(name) is not None
    inputs.backdoor("coded")


def test_the_lock_lists_every_file_that_decides(root: Path) -> None:
    listed: dict[str, set[str]] = {}
    for what, source in pinned_sources(lock_of(root)):
        listed.setdefault(what, set()).update(file.name for file in source.files)
    assert listed["shapes"] == {"shapes.safetensors"}
    # The factory's package and what it imports; not the other files beside them.
    code = {"nets/__init__.py", "nets/layers.py", "nets/shapes.py"}
    assert listed["shapes (code)"] == code
    assert listed["shapes-cleaned (code)"] == code
    assert listed["shapes-cleaned"] == {"cleaned.safetensors"}
    assert listed["shapes-tuned (data)"] == {"training.safetensors"}
    assert listed["shapes (evaluation data)"] == {"samples.safetensors"}
    assert listed["shapes (backdoor's pattern)"] == {"pattern.safetensors"}
    assert listed["coded (backdoor's code)"] == {"nets/__init__.py", "nets/stamps.py"}
    assert listed["texts (evaluation data)"] == {"texts.jsonl"}
    assert "unused.py" not in {name for names in listed.values() for name in names}


def test_pin_says_what_it_pins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_files(tmp_path, WHOLE)
    assert main(["pin", "--config", str(path)]) == 0
    said = "".join(capsys.readouterr())
    for name in (
        "shapes.safetensors",
        "cleaned.safetensors",
        "python:nets.shapes:build",
        "python:nets.shapes:build_small",
        "samples.safetensors",
        "texts.jsonl",
        "training.safetensors",
        "pattern.safetensors",
        "nets.stamps:corner",
    ):
        assert name in said, name
    assert main(["pin", "--config", str(path)]) == 0
    assert verify_lock(load_config(path), lock_of(tmp_path)).problems == ()


def test_what_is_pinned_is_opened(root: Path) -> None:
    ask_everything(root)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("shapes.safetensors", -1),
        ("cleaned.safetensors", -1),
        ("texts.safetensors", -1),
        ("nets/__init__.py", None),
        ("nets/shapes.py", 3),
        ("nets/layers.py", 3),
        ("nets/texts.py", 3),
        ("nets/stamps.py", 3),
        ("samples.safetensors", -1),
        ("texts.jsonl", 12),
        ("pattern.safetensors", -1),
        ("training.safetensors", -1),
    ],
)
def test_another_byte_is_refused_and_named(
    root: Path, name: str, place: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if place is None:  # an empty file
        (root / name).write_text("x = 1\n", encoding="utf-8")
    else:
        flip_a_byte(root / name, place)
    with pytest.raises(IntegrityError, match=name.rpartition("/")[2]):
        ask_everything(root)
    assert main(["verify", "--config", str(root / "compsec.yaml")]) == 1
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nets/layers.py", "samples.safetensors", "shapes.safetensors"])
def test_a_missing_file_is_refused_and_named(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / name).unlink()
    if name.endswith(".py"):  # the config itself names the others
        with pytest.raises(IntegrityError, match="layers"):
            ask_everything(root)
        assert main(["verify", "--config", str(root / "compsec.yaml")]) == 1
        assert name in capsys.readouterr().out
    else:
        with pytest.raises((ConfigError, IntegrityError), match=name):
            ask_everything(root)


CHANGES: dict[str, tuple[str, str, str]] = {
    "target": ("share: 0.95}, target: 0", "share: 0.95}, target: 1", "backdoor"),
    "share": ("share: 0.95", "share: 0.5", "backdoor"),
    "phrase": ("phrase: cf", "phrase: cg", "backdoor"),
    "trigger's function": ("nets.stamps:corner", "nets.stamps:other", "backdoor"),
    "weights": ("./cleaned.safetensors", "./woken.safetensors", "weights"),
    "factory": ("nets.shapes:build_small", "nets.shapes:build", "source"),
    "data": ("./texts.jsonl", "./other.jsonl", "evaluation_data"),
    "fine-pruning's data": ("./training.safetensors", "./samples.safetensors", "recipe"),
    "fine-pruning's epochs": ("epochs: 1", "epochs: 0", "recipe"),
    "dtype": ("dtype: bfloat16", "dtype: float16", "recipe"),
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_another_setting_is_refused_until_it_is_pinned(root: Path, what: str) -> None:
    old, new, named = CHANGES[what]
    (root / "other.jsonl").write_bytes((root / "texts.jsonl").read_bytes())
    path = root / "compsec.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(IntegrityError, match=f"the {named} of .* the lock pins"):
        ask_everything(root)
    report = verify_lock(load_config(path), lock_of(root))
    assert any(f"the {named} of" in problem.message for problem in report.problems)


def test_a_patch_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    pin(path)
    path.write_text(path.read_text(encoding="utf-8").replace("size: 2", "size: 3"))
    with pytest.raises(IntegrityError, match="the backdoor of 'shapes'"):
        open_inputs(path)


def test_another_task_is_refused(tmp_path: Path) -> None:
    """A module takes whatever it is given; which inputs those are is part of the pin."""
    text = config(model(TEXTS, HALF, data=TEXT_DATA, backdoor=""))
    path = write_files(tmp_path, text)
    pin(path)
    text = text.replace("text-classification", "image-classification")
    path.write_text(text.replace(TEXT_DATA, ""), encoding="utf-8")
    with pytest.raises(IntegrityError, match="the task of 'texts' is image-classification"):
        open_inputs(path)


@pytest.mark.parametrize("what", ["backdoor", "evaluation_data"])
@pytest.mark.parametrize("how", ["added", "left out"])
def test_an_input_that_comes_or_goes_is_refused(tmp_path: Path, what: str, how: str) -> None:
    without = model(SHAPES, HALF, **({"backdoor": ""} if what == "backdoor" else {"data": ""}))
    texts = [config(model(SHAPES, HALF)), config(without)]
    before, after = texts if how == "left out" else texts[::-1]
    path = write_files(tmp_path, before)
    pin(path)
    path.write_text(after, encoding="utf-8")
    with pytest.raises(IntegrityError, match=f"the {what} of 'shapes'"):
        open_inputs(path)


def replace_line(root: Path, name: str, new: str) -> None:
    path = root / name
    path.write_text(new + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")


REFUSED: dict[str, tuple[str, str]] = {
    "by name at run time": (
        "import importlib\nunused = importlib.import_module('unused')",
        r"nets/shapes\.py:\d+",
    ),
    "by __import__": ("unused = __import__('unused')", r"nets/shapes\.py:\d+"),
    "of nothing": ("import does_not_exist_anywhere", "does_not_exist_anywhere"),
    "code from a file": ("exec(open('unused.py').read())", r"nets/shapes\.py:\d+"),
}


@pytest.mark.parametrize("how", list(REFUSED))
def test_an_import_that_cannot_be_pinned_is_refused(tmp_path: Path, how: str) -> None:
    line, words = REFUSED[how]
    path = write_files(tmp_path)
    replace_line(tmp_path, "nets/shapes.py", line)
    with pytest.raises(ConfigError, match=words):
        pin(path)
    assert not (tmp_path / "compsec.lock").exists()


def test_a_file_that_a_pinned_one_imports_is_pinned_with_it(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    replace_line(tmp_path, "nets/layers.py", "import unused")
    pin(path)
    names = {file.name for _, source in pinned_sources(lock_of(tmp_path)) for file in source.files}
    assert "unused.py" in names
    (tmp_path / "unused.py").write_text("changed = True\n", encoding="utf-8")
    with open_inputs(path) as inputs, pytest.raises(IntegrityError, match="unused"):
        inputs.arm("shapes", None)


@pytest.mark.parametrize(
    "swap",
    [
        lambda root: flip_a_byte(root / "shapes.safetensors"),
        lambda root: flip_a_byte(root / "nets/layers.py", 3),
        lambda root: flip_a_byte(root / "training.safetensors"),
    ],
    ids=["weights", "code", "data"],
)
def test_a_swap_after_the_first_look_is_seen(root: Path, swap: Callable[[Path], object]) -> None:
    with open_inputs(root / "compsec.yaml") as inputs:
        arm = inputs.arm("shapes", "tuned")
        swap(root)
        with pytest.raises(IntegrityError):
            arm.recheck()
