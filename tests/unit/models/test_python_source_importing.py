"""A factory runs from its staged copies alone, and its mistakes are told as the user's."""

from __future__ import annotations

import copy
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pytest_compsec.errors import IntegrityError, LoadError
from pytest_compsec.models.python_source.importing import make_module

SOURCE = "python:zoo.digits:build"
NET = """
from torch import nn
import zoo.sizes
from zoo import sizes as same
from .sizes import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(zoo.sizes.WIDTH, same.WIDTH)
    def forward(self, x):
        import zoo.late
        from zoo.late import SCALE
        return self.layer(x) * SCALE

def build():
    return Net()
"""


def stage(directory: Path, **files: str) -> list[str]:
    names = []
    for name, text in files.items():
        path = directory / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        names.append(path.relative_to(directory).as_posix())
    (directory / "zoo").mkdir(exist_ok=True)
    (directory / "zoo" / "__init__.py").write_text("")
    return [*names, "zoo/__init__.py"]


def make(directory: Path, code: str, **files: str) -> torch.nn.Module:
    return make_module(directory, SOURCE, stage(directory, zoo__digits=code, **files))


def two_widths(tmp_path: Path) -> list[torch.nn.Module]:
    return [
        make(
            tmp_path / str(width), NET, zoo__sizes=f"WIDTH = {width}", zoo__late=f"SCALE = {width}"
        )
        for width in (2, 3)
    ]


def test_two_sources_of_one_name_keep_their_own_code(tmp_path: Path) -> None:
    for width, module in zip((2, 3), two_widths(tmp_path), strict=True):
        # The import inside forward runs now, after both were built.
        x = torch.ones(1, width)
        assert torch.equal(module(x), module.get_submodule("layer")(x) * width)
    assert "zoo" not in sys.modules


def test_a_module_can_be_copied_and_reads_only_the_staged_files(tmp_path: Path) -> None:
    module = two_widths(tmp_path)[0]
    twin = copy.deepcopy(module)
    assert torch.equal(twin(torch.ones(1, 2)), module(torch.ones(1, 2)))
    assert type(twin) is type(module)
    assert not list(tmp_path.rglob("__pycache__"))


def test_the_random_numbers_of_the_process_stay_and_the_arms_start_alike(tmp_path: Path) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    code = (
        "import random, torch, numpy\ndef build():\n"
        "    random.random(); numpy.random.rand()\n    return torch.nn.Linear(2, 2)\n"
    )
    first = make(tmp_path, code)
    assert torch.equal(before[0], torch.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        torch.rand(5)  # another test draws in between
        second = make(tmp_path, code)
    assert torch.equal(first.get_parameter("weight"), second.get_parameter("weight"))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import torch\ndef build():\n    return torch.nn.Linear\n", "returned the class Linear"),
        ("def build():\n    return 3\n", "returned a int"),
        ("import torch\ndef build():\n    return torch.jit.trace(torch.nn.ReLU(), "
         "torch.ones(1))\n", "TorchScript"),
        ("import torch\ndef build():\n    return torch.nn.LazyLinear(3)\n", "lazy"),
        ("def build(size):\n    return size\n", "without arguments"),
        ("build = 3\n", "no function"),
        ("def other():\n    return 3\n", "has no 'build'"),
        ("def build():\n    x = 1\n    return x / 0\n", "zoo/digits.py:3: ZeroDivisionError"),
        ("x = = 2\n", "zoo/digits.py:1: SyntaxError"),
        ("import pytest\ndef build():\n    pytest.skip('no')\n", "zoo/digits.py:3: Skipped: no"),
        ("import sys\ndef build():\n    sys.exit(0)\n", "zoo/digits.py:3: SystemExit"),
        ("from . import gone\n", "zoo/digits.py:1: ImportError"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_mistake_of_the_user_is_told_with_its_place(tmp_path: Path, code: str, said: str) -> None:
    before = set(sys.modules)
    with pytest.raises(LoadError) as caught:
        make(tmp_path, code)
    assert said in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert "compsec_python_source_" not in str(caught.value)
    assert not [name for name in set(sys.modules) - before if name.startswith("compsec_")]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("    import unlisted_helper", "imports 'unlisted_helper'"),
        ("    try:\n        import unlisted_helper\n    except BaseException:\n        pass",
         "imports 'unlisted_helper'"),
        ("    importlib.import_module('unlisted_helper')", "imported unlisted_helper ("),
        ("    open('x')", "calls open()"),
        ("    exec('1')", "calls exec()"),
    ],
)  # fmt: skip
def test_unpinned_code_that_slipped_through_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "unlisted_helper.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    text = f"import importlib, torch\ndef build():\n{code}\n    return torch.nn.ReLU()\n"
    try:
        with pytest.raises(IntegrityError) as caught:
            make(tmp_path / "staged", text)
    finally:
        sys.modules.pop("unlisted_helper", None)
    assert said in str(caught.value)


def test_a_local_module_that_the_process_has_already_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "helper_of_tests.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("helper_of_tests")
    try:
        with pytest.raises(IntegrityError, match="helper_of_tests"):
            make(tmp_path / "staged", "import helper_of_tests\n")
    finally:
        sys.modules.pop("helper_of_tests", None)


def test_a_changed_default_dtype_is_refused_and_undone(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="default dtype"):
        make(
            tmp_path,
            "import torch\ndef build():\n    torch.set_default_dtype(torch.float64)\n"
            "    return torch.nn.ReLU()\n",
        )
    assert torch.get_default_dtype() == torch.float32


def test_a_factory_of_an_installed_package_runs(tmp_path: Path) -> None:
    module = make_module(tmp_path, "python:torch.nn.modules.linear:Identity", ())
    assert isinstance(module, torch.nn.Identity)


def test_dataclasses_and_enums_of_the_code_work(tmp_path: Path) -> None:
    code = (
        "from __future__ import annotations\nimport dataclasses, enum, torch\n"
        "class Kind(enum.Enum):\n    A = 1\n"
        "@dataclasses.dataclass(frozen=True)\nclass Size:\n    width: int = 4\n"
        "def build():\n    return torch.nn.Linear(Size().width, Kind.A.value)\n"
    )
    assert make(tmp_path, code).get_parameter("weight").shape == (1, 4)
