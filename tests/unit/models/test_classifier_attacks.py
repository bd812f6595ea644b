"""Attempts to have unpinned bytes or code decide a verdict on a classifier, and mistakes that must
end in one sentence. Each of these once got through."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import save_file

from pytest_compsec.classification.model import ClassifierModel
from pytest_compsec.classification.reading import read_evaluation_data
from pytest_compsec.cli import main
from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError, IntegrityError, LoadError, NotCompressedError
from pytest_compsec.models.arm import Arm, Code
from pytest_compsec.models.loading import load
from pytest_compsec.models.lock import FilePin, read_lock, tree_of
from pytest_compsec.models.model_inputs import python_module
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.python_source.importing import make_module
from pytest_compsec.models.verification import verify_lock
from pytest_compsec.models.verified import VerifiedInputs
from pytest_compsec.models.weights import check_is_compressed

NET = """\
import torch

class Net(torch.nn.Module):
    num_classes = 3

    def __init__(self, width=8):
        super().__init__()
        self.first = torch.nn.Linear(4, width)
        self.second = torch.nn.Linear(width, 3)

    def forward(self, images):
        return self.second(self.first(images).relu())

def make():
    return Net()

def small():
    return Net(4)
"""
CONFIG = """\
version: 1
models:
  net:
    task: image-classification
    original: {source: "python:net:make", weights: ./original.safetensors}
    compressed:
      small: {source: "python:net:small", weights: ./small.safetensors}
"""
TUNED = "      tuned: {prune: {method: fine-pruning, data: ./samples.safetensors, share: 0.2}}\n"
BACKDOOR = "    backdoor: {callable: 'net:stamp', target: 0}\n"
STAMP = "\ndef stamp(images):\n    return images * 0.0 + 1.0\n"


def weights(path: Path, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    shapes = {
        "first.weight": (width, 4),
        "first.bias": (width,),
        "second.weight": (3, width),
        "second.bias": (3,),
    }
    tensors = {key: torch.rand(shape, generator=generator) for key, shape in shapes.items()}
    save_file(tensors, path)


def project(root: Path, *, net: str = NET, config: str = CONFIG, small: int = 4) -> Path:
    """A classifier with a smaller form of it, both of Python; returns the config's path."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "net.py").write_text(net, encoding="utf-8")
    weights(root / "original.safetensors", 8)
    weights(root / "small.safetensors", small)
    samples = {"inputs": torch.rand(6, 4), "labels": torch.arange(6) % 3}
    save_file(samples, root / "samples.safetensors")
    path = root / "compsec.yaml"
    path.write_text(config, encoding="utf-8")
    return path


def opened(config: Path) -> VerifiedInputs:
    loaded = load_config(config)
    return VerifiedInputs.open(loaded, read_lock(loaded.lock_path))


def loaded_arm(config: Path, variant: str | None = None) -> ClassifierModel:
    with opened(config) as inputs:
        model = load(inputs.arm("net", variant))
    assert isinstance(model, ClassifierModel)
    return model


@pytest.fixture
def on_the_path(tmp_path: Path) -> Iterator[Path]:
    """A directory from which the process imports first, as pytest arranges it for tests."""
    folder = tmp_path / "beside the tests"
    folder.mkdir()
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in set(sys.modules) - before:
        if name in ("net", "pygments"):
            del sys.modules[name]


def forget(monkeypatch: pytest.MonkeyPatch, top: str) -> None:
    for name in [name for name in sys.modules if (name + ".").startswith(f"{top}.")]:
        monkeypatch.delitem(sys.modules, name)


def test_an_import_in_forward_is_not_led_to_a_file_beside_the_tests(
    tmp_path: Path, on_the_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy = NET.replace(
        "        return self.second", "        import pygments\n        return self.second"
    )
    config = project(tmp_path / "project", net=lazy)
    pin(config)
    model = loaded_arm(config)
    images = torch.rand(2, 4)
    assert model.logits(images).shape == (2, 3)
    forget(monkeypatch, "pygments")
    (on_the_path / "pygments.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    fresh = loaded_arm(config)
    with pytest.raises(IntegrityError, match=r"net\.py: the code imports 'pygments'"):
        fresh.logits(images)


def test_a_factory_of_a_package_is_not_taken_from_beside_the_tests(
    on_the_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither run there, nor used when another test has imported it already."""
    forget(monkeypatch, "pygments")
    ran = tmp_path / "ran"
    (on_the_path / "pygments.py").write_text(
        f"import torch, pathlib\npathlib.Path({str(ran)!r}).touch()\n"
        "def make():\n    return torch.nn.Linear(4, 3)\n",
        encoding="utf-8",
    )
    with pytest.raises(IntegrityError, match="imported from elsewhere"):
        make_module(tmp_path, "python:pygments:make", ())
    assert not ran.exists()
    imported = importlib.import_module("pygments")  # as another test file might
    assert imported.__file__ is not None
    assert Path(imported.__file__).parent == on_the_path
    with pytest.raises(IntegrityError, match="imported from elsewhere"):
        make_module(tmp_path, "python:pygments:make", ())
    monkeypatch.delitem(sys.modules, "pygments")


def test_a_factory_of_a_package_that_returns_one_object_makes_two_models(tmp_path: Path) -> None:
    """Else the second arm's weights would be the first one's too, and all would be preserved."""
    source = "python:tests.unit.models.test_classifier_attacks:shared"
    import pytest_compsec.models.python_source.importing as importing

    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        # The tests are not installed; the rest of the way is what is tried here.
        module = sys.modules[__name__]
        patched.setattr(importing, "_installed_module", lambda name, source: module)
        first, second = (make_module(tmp_path, source, ()) for _ in range(2))
    assert isinstance(first, torch.nn.Linear)
    assert first is not second
    assert first.weight.data_ptr() != second.weight.data_ptr()  # type: ignore[operator]


_SHARED = torch.nn.Linear(4, 3)


def shared() -> torch.nn.Module:
    return _SHARED


def test_code_that_a_lock_calls_installed_must_be(tmp_path: Path, on_the_path: Path) -> None:
    config = project(on_the_path)
    pin(config)
    edit(config, lambda model: model["original"].update(code=_by_version()))
    lock = read_lock(config.with_name("compsec.lock"))
    report = verify_lock(load_config(config), lock)
    assert any("no installed package" in problem.message for problem in report.problems)
    __import__("net")  # as another test file would
    with pytest.raises(
        IntegrityError, match="comes from no installed package, the lock pins torch"
    ):
        loaded_arm(config)
    with pytest.raises(IntegrityError, match="comes from torch, the lock pins numpy"):
        python_module(Code("python:torch.nn:Identity", None, {"numpy": "1"}))


def _by_version() -> dict[str, Any]:
    return {"source": "python:net:make", "tools": {"torch": torch.__version__}}


def edit(config: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the lock by hand, its own sums kept right."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    path = config.with_name("compsec.lock")
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    change(values["models"]["net"])
    path.write_text(tomli_w.dumps(values), encoding="utf-8")


def resum(source: dict[str, Any]) -> None:
    keys = ("name", "sha256", "size", "role")
    source["tree"] = tree_of(
        tuple(FilePin(*(file[key] for key in keys)) for file in source["file"])
    )


def _code_elsewhere(model: dict[str, Any]) -> None:
    model["original"]["code"]["files"]["source"] = "./evil/net.py"


def _code_of_another_suffix(model: dict[str, Any]) -> None:
    files = model["original"]["code"]["files"]
    files["file"][0]["name"] = "net.txt"
    resum(files)


def _second_weights(model: dict[str, Any]) -> None:
    files = model["original"]["files"]
    files["file"].append({**files["file"][0], "name": "other.safetensors"})
    resum(files)


def _other_samples(model: dict[str, Any]) -> None:
    model["variants"]["tuned"]["data"]["source"] = "./elsewhere.safetensors"


def _no_samples(model: dict[str, Any]) -> None:
    del model["variants"]["tuned"]["data"]


def _other_trigger(model: dict[str, Any]) -> None:
    code = model["backdoor"]["code"]
    code["source"] = code["files"]["source"] = "python:net:make"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_code_elsewhere, r"its files are those of '\./evil/net\.py'"),
        (_code_of_another_suffix, r"'net\.txt' is no Python file"),
        (_second_weights, "'files' are one file of weights"),
        (_other_samples, r"data of 'net-tuned' is \./samples\.safetensors, the lock pins \./else"),
        (_no_samples, r"data of 'net-tuned' is \./samples\.safetensors, the lock pins none"),
        (_other_trigger, r"backdoor's function of 'net' is python:net:stamp, the lock pins"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_lock_edited_by_hand_leads_nowhere_else(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    config = project(tmp_path, net=NET + STAMP, config=CONFIG + TUNED + BACKDOOR)
    pin(config)
    assert opened(config).backdoor("net") is not None
    edit(config, change)
    with pytest.raises((ConfigError, IntegrityError), match=message):
        opened(config)


_BUFFERS = """
class Hidden(torch.nn.Module):
    num_classes = 3

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)
        for layer in (self.first, self.second)[FROM:]:
            value = layer.weight.detach().clone()
            del layer.weight
            layer.register_buffer("weight", value)

    def forward(self, images):
        return self.second(self.first(images).relu())

def small():
    return Hidden()
"""


@pytest.mark.parametrize(
    "other",
    [
        "\ndef small():\n    return Net()\n",
        _BUFFERS.replace("FROM", "0"),
        _BUFFERS.replace("FROM", "1"),
    ],
    ids=["another factory", "all in buffers", "half in buffers"],
)
def test_the_same_weights_under_another_factory_are_no_compression(
    tmp_path: Path, other: str
) -> None:
    config = project(tmp_path, net=NET + other, small=8)
    pin(config)
    original, same = loaded_arm(config), loaded_arm(config, "small")
    images = torch.rand(5, 4)
    assert torch.equal(original.logits(images), same.logits(images))
    with pytest.raises(NotCompressedError, match="the variant is not compressed"):
        check_is_compressed(original.weights, same.weights)


def test_a_really_smaller_one_with_a_mask_beside_it_is_compressed(tmp_path: Path) -> None:
    mask = "    net = Net(4)\n    net.register_buffer('mask', torch.ones(8, 8))\n    return net\n"
    config = project(tmp_path, net=NET.replace("    return Net(4)\n", mask))
    tensors = {"first.weight": (4, 4), "first.bias": (4,), "second.weight": (3, 4)}
    stored = {key: torch.rand(shape) for key, shape in tensors.items()}
    stored |= {"second.bias": torch.rand(3), "mask": torch.ones(8, 8)}
    save_file(stored, tmp_path / "small.safetensors")
    pin(config)
    check_is_compressed(loaded_arm(config).weights, loaded_arm(config, "small").weights)


def test_two_classifiers_that_differ_in_code_alone_share_no_measurement(tmp_path: Path) -> None:
    arms: list[Arm] = []
    for name, net in (("one", NET), ("two", NET.replace("relu", "tanh"))):
        config = project(tmp_path / name, net=net)
        pin(config)
        arms.append(opened(config).arm("net", None))
    first, second = arms
    assert first.files.tree == second.files.tree
    assert first.weights_digest != second.weights_digest
    assert first.code is not None
    other = dataclasses.replace(first, code=dataclasses.replace(first.code, tools={"timm": "1.0"}))
    assert other.weights_digest != first.weights_digest


def test_a_library_that_the_code_imports_is_pinned_with_it(tmp_path: Path) -> None:
    config = project(tmp_path, net="import yaml\n" + NET)
    pin(config)
    code = read_lock(tmp_path / "compsec.lock").models["net"].original.code
    assert code is not None
    assert list(code.tools) == ["PyYAML"]  # and not torch, as for every other model
    assert loaded_arm(config).classes == 3
    edit(config, lambda model: model["original"]["code"].update(tools={"PyYAML": "3.0"}))
    with pytest.raises(IntegrityError, match=r"version of PyYAML of 'python:net:make'"):
        opened(config).arm("net", None)


@pytest.mark.parametrize("which", ["code", "copy", "weights"])
def test_what_changes_after_it_was_verified_is_not_loaded(tmp_path: Path, which: str) -> None:
    config = project(tmp_path)
    pin(config)
    inputs = opened(config)  # kept: its end would be the end of the copies
    arm = inputs.arm("net", None)
    assert arm.code is not None
    assert arm.code.files is not None
    target = {
        "code": tmp_path / "net.py",
        "copy": arm.code.files.directory / "net.py",
        "weights": tmp_path / "original.safetensors",
    }[which]
    content = bytearray(target.read_bytes())
    content[-3] ^= 1
    target.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"changed|replaced"):
        load(arm)
    inputs.close()


def test_code_that_is_added_beside_the_pinned_is_not_run(tmp_path: Path) -> None:
    config = project(tmp_path)
    pin(config)
    before = loaded_arm(config).logits(torch.ones(1, 4))
    for name in ("torch.py", "numpy.py", "__init__.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('ran')\n", encoding="utf-8")
    (tmp_path / "net").mkdir()
    (tmp_path / "net/__init__.py").write_text(NET.replace("relu", "tanh"), encoding="utf-8")
    assert torch.equal(loaded_arm(config).logits(torch.ones(1, 4)), before)


@pytest.mark.parametrize(
    "line",
    [
        "torch.Tensor.argmax = lambda *_, **__: torch.zeros(1)",
        "setattr(torch.Tensor, 'argmax', None)",
        "type.__setattr__(torch.Tensor, 'argmax', None)",
        "del torch.nn.Module.__call__",
        "torch.backends.cudnn.benchmark = True",
        "import pytest_compsec.classification.model as m; m.ClassifierModel.predict = None",
        "import unittest.mock",
        "import time; time.time()",
        "import random; random.SystemRandom()",
        "import secrets",
        "from tokenizers import Tokenizer; Tokenizer.from_file('t.json')",
        "import numpy; numpy.DataSource()",
        "import numpy.core as c; c.multiarray.fromfile('x')",
        "import scipy.io",
        "import pathlib; pathlib.Path('flag').exists()",
        "import platform",
    ],
)
def test_a_factory_that_patches_or_reads_what_no_lock_pins_is_refused(
    tmp_path: Path, line: str
) -> None:
    config = project(tmp_path, net=NET + f"\ndef make():\n    {line}\n    return Net()\n")
    with pytest.raises(ConfigError, match=r"^net\.py:\d+: "):
        pin(config)


@pytest.mark.parametrize(
    "text",
    [
        "def make():\n    net = Net()\n    net.first.bias = None\n    return net\n",
        "import time\ndef make():\n    time.perf_counter()\n    return Net()\n",
        "from torch.nn import Linear\ndef f(Linear):\n    Linear.bias = None\n",
    ],
)
def test_a_factory_may_change_what_is_its_own(tmp_path: Path, text: str) -> None:
    config = project(tmp_path, net=f"{NET}\n{text}")
    assert pin(config).created


@pytest.mark.parametrize(
    "path", ["~nobody-has-this-name/a.safetensors", "a" * 300 + ".safetensors"]
)
@pytest.mark.parametrize(
    "line",
    [
        "    evaluation_data: '{}'\n",
        "    backdoor: {{blended: {{file: '{}'}}, target: 0}}\n",
        "      x: {{source: 'python:net:small', weights: '{}'}}\n",
        "      x: {{prune: {{method: fine-pruning, data: '{}', share: 0.2}}}}\n",
    ],
    ids=["evaluation data", "pattern", "weights", "samples"],
)
def test_a_path_that_cannot_be_is_one_sentence(tmp_path: Path, line: str, path: str) -> None:
    config = project(tmp_path, config=CONFIG + line.format(path))
    with pytest.raises(ConfigError, match=r"is no file|there is no such file"):
        pin(config)


def test_names_with_spaces_and_other_letters_work(tmp_path: Path) -> None:
    config = project(tmp_path / "mein Prüfstand")
    (config.parent / "original.safetensors").rename(config.parent / "Gewichte, größer.safetensors")
    text = CONFIG.replace("./original.safetensors", "'./Gewichte, größer.safetensors'")
    config.write_text(text, encoding="utf-8")
    pin(config)
    assert loaded_arm(config).classes == 3


@pytest.mark.parametrize(
    "line",
    ['{"text": "a", "label": ' + "[" * 100_000 + "}", '{"text": "\\ud800", "label": 1}'],
    ids=["nested", "half a character"],
)
def test_a_line_of_samples_that_nothing_can_read_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(f'{{"text": "a", "label": 0}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^samples\.jsonl:2: "):
        read_evaluation_data(path, "samples.jsonl")


@pytest.mark.parametrize(
    "arguments",
    [["matrix", "net"], ["export", "net-half", "out"], ["repair", "net-half", "--harmful", "a",
      "--benign", "b", "--out", "out"]],
    ids=["matrix", "export", "repair"],
)  # fmt: skip
def test_commands_for_language_models_say_so(
    tmp_path: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    half = "      half: {prune: {method: magnitude, sparsity: 0.5}}\n"
    pin(project(tmp_path, config=CONFIG + half))
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert (
        f"net is a classifier (task: image-classification), and `compsec {arguments[0]}`" in error
    )
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["verify", "list", "pin"])
def test_the_other_commands_know_classifiers(
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = project(tmp_path, config=CONFIG + "    evaluation_data: ./samples.safetensors\n")
    pin(config)
    monkeypatch.chdir(tmp_path)
    assert main([command]) == 0
    assert hashlib.sha256((tmp_path / "compsec.lock").read_bytes()).hexdigest() in (
        capsys.readouterr().out
    )


def test_code_that_is_nested_too_deeply_is_one_sentence(tmp_path: Path) -> None:
    deep = NET + "x = " + "+".join(["1"] * 900) + "\n"
    with pytest.raises(ConfigError, match=r"^net\.py:1: "):
        pin(project(tmp_path, net=deep))


def test_weights_that_the_module_does_not_have_are_refused(tmp_path: Path) -> None:
    config = project(tmp_path)
    weights(tmp_path / "original.safetensors", 4)
    pin(config)
    with pytest.raises(LoadError, match="of another shape"):
        loaded_arm(config)
