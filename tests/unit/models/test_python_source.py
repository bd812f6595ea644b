"""Which files of a user's code are pinned, and what is refused before any of it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_compsec.errors import ConfigError
from pytest_compsec.models.python_source.closure import code_files, installed_distribution
from pytest_compsec.models.python_source.text import PythonName, parse_python_source

SOURCE = "python:zoo.digits:build"


def write(root: Path, **files: str) -> Path:
    """Files by name, ``__`` for the slash and ``.py`` added."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def refusal(root: Path, code: str, source: str = SOURCE) -> str:
    (root / "zoo").mkdir(exist_ok=True)
    (root / "zoo" / "__init__.py").write_text("")
    (root / "zoo" / "digits.py").write_text(code + "\ndef build(): ...\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        code_files(source, root)
    return str(caught.value)


def test_a_source_is_read() -> None:
    assert parse_python_source(SOURCE) == PythonName("zoo.digits", "build")


@pytest.mark.parametrize(
    "source",
    ["python:", "python:zoo", "python:zoo.digits:", "python:zoo/digits.py:build", "zoo:build",
     "python:.zoo:build", "python:zoo:build:x", "python:zoo:class", "python:zoo: build"],
)  # fmt: skip
def test_another_source_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="python:"):
        parse_python_source(source)


def test_every_local_file_is_found_and_nothing_is_imported(tmp_path: Path) -> None:
    boom = "raise RuntimeError('was run')\n"
    write(
        tmp_path,
        zoo__digits=boom
        + "import torch, math\nfrom . import layers\nfrom .parts.head import Head\n"
        + "def build():\n    import shared.late\n    from shared import more\n",
        zoo__layers=boom + "from typing import TYPE_CHECKING\nimport blocks\n"
        "if TYPE_CHECKING:\n    import absent\n",
        zoo__parts__head=boom + "from ..layers import x\n",
        blocks=boom,
        shared__late="",
        shared__more="",
        unused=boom,
    )
    (tmp_path / "zoo" / "__init__.py").write_text(boom)
    (tmp_path / "zoo" / "parts" / "__init__.py").write_text("")
    assert code_files(SOURCE, tmp_path) == (
        "blocks.py", "shared/late.py", "shared/more.py", "zoo/__init__.py", "zoo/digits.py",
        "zoo/layers.py", "zoo/parts/__init__.py", "zoo/parts/head.py",
    )  # fmt: skip
    assert installed_distribution(SOURCE, tmp_path) is None
    assert "zoo" not in sys.modules


@pytest.mark.parametrize(
    "line",
    [
        "import importlib",
        "from importlib import import_module",
        "m = __import__('zoo.other')",
        "exec('import x')",
        "f = eval",
        "import pickle",
        "import sys\nsys.path.insert(0, 'x')",
        "from sys import path",
        "import torch as t\nt.load('x.pt')",
        "import torch\nload = torch.load",
        "import torch\nthing = torch\nthing.hub.load('a', 'b')",
        "import torch\ngetattr(torch, 'lo' + 'ad')('x')",
        "from torch import *",
        "from torch import load",
        "import numpy as np\nnp.load('x.npy')",
        "open('x').read()",
        "from pathlib import Path\nPath('x').read_text()",
        "import os\nflag = os.environ['X']",
        "from os import getenv",
        "import torch\ntorch.set_default_dtype(torch.float64)",
        "TYPE_CHECKING = True",
    ],
)
def test_what_cannot_be_pinned_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    last = len(line.splitlines()) + 1
    assert refusal(tmp_path, f"\n{line}").startswith(f"zoo/digits.py:{last}: ")


def test_methods_of_the_same_names_are_fine(tmp_path: Path) -> None:
    write(
        tmp_path,
        digits="import os, re, sys, torch\nfrom torch import nn\nw = re.compile('x')\n"
        "here = os.path.join('a', 'b')\nnew = sys.version_info >= (3, 10)\n"
        "def compile(x): return x\n"
        "class Net(nn.Module):\n    def load(self, x): return getattr(nn, x)\n"
        "def build():\n    net = compile(Net())\n    net.load('ReLU')\n"
        "    net.load_state_dict({})\n    return net.eval()\n",
    )
    assert code_files("python:digits:build", tmp_path) == ("digits.py",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import somewhere_else", "neither a file beside compsec.yaml nor installed"),
        ("from . import absent_part\nfrom .gone import x", "no module 'zoo.gone'"),
        ("from ... import outside", "leads out of the package"),
        ("x = (", "is no Python"),
    ],
)
def test_an_import_that_leads_nowhere_is_refused(tmp_path: Path, line: str, said: str) -> None:
    message = refusal(tmp_path, line)
    assert message.startswith("zoo/digits.py:")
    assert said in message


@pytest.mark.parametrize("name", ["torch", "json", "pytest_compsec"])
def test_a_local_module_that_shadows_another_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{name: ""})
    assert f"{name!r} is both" in refusal(tmp_path, f"import {name}")


def test_a_data_directory_of_an_installed_name_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    write(tmp_path, digits="import torch\ndef build(): ...\n")
    assert code_files("python:digits:build", tmp_path) == ("digits.py",)


def test_a_local_module_of_a_refused_modules_name_is_read_itself(tmp_path: Path) -> None:
    write(
        tmp_path,
        digits="import datasets\nfrom datasets import x\ndef build(): return datasets.x\n",
        datasets="x = 1\n",
    )
    assert code_files("python:digits:build", tmp_path) == ("datasets.py", "digits.py")
    write(tmp_path, datasets="x = open('x')\n")
    with pytest.raises(ConfigError, match=r"datasets\.py:1: open"):
        code_files("python:digits:build", tmp_path)


def test_a_directory_of_a_refused_modules_name_excuses_nothing(tmp_path: Path) -> None:
    write(tmp_path, pickle__part="")
    assert "pickle.loads reads" in refusal(tmp_path, "from pickle import loads")


def test_links_and_compiled_modules_are_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", helper="")
    root = tmp_path / "root"
    root.mkdir()
    (root / "helper.py").symlink_to(outside / "helper.py")
    assert "is a link" in refusal(root, "import helper")
    (root / "helper.py").unlink()
    (root / "helper.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    assert "compiled module" in refusal(root, "import helper")


def test_a_missing_module_or_factory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no module 'zoo\.digits'"):
        code_files(SOURCE, tmp_path)
    write(tmp_path, zoo__digits="def other(): ...\n")
    with pytest.raises(ConfigError, match=r"zoo/digits\.py has no 'build'"):
        code_files(SOURCE, tmp_path)


def test_star_imports_follow_all(tmp_path: Path) -> None:
    write(tmp_path, digits="from kit import *\ndef build(): ...\n", kit__one="", kit__two="")
    (tmp_path / "kit" / "__init__.py").write_text("__all__ = ['one']\n")
    assert code_files("python:digits:build", tmp_path) == (
        "digits.py", "kit/__init__.py", "kit/one.py",
    )  # fmt: skip


def test_a_factory_in_an_installed_package_has_its_version(tmp_path: Path) -> None:
    source = "python:torch.nn.modules.linear:Identity"
    assert code_files(source, tmp_path) == ()
    name, version = installed_distribution(source, tmp_path) or ("", "")
    assert name == "torch"
    assert version
    with pytest.raises(ConfigError, match=r"has no 'torch\.absent'"):
        code_files("python:torch.absent:x", tmp_path)
    with pytest.raises(ConfigError, match="Python itself"):
        code_files("python:json.decoder:x", tmp_path)
