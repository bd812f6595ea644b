"""Is a command line of the documentation one that works? Parsed by the real parsers."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_compsec.cli import build_parser
from tests.docs.fences import ROOT

#: Packages of others that a page runs and that not every machine here has.
FOREIGN = ("model_signing", "sglang")
_EXTRAS = re.compile(r"pytest-compsec\[([\w,-]+)\]")


def problem(words: Sequence[str], config: pytest.Config) -> str | None:
    """Why a command line of ours would be refused; None: it is accepted, or is not ours."""
    if words[:3] in (["python", "-m", "pytest"], ["python3", "-m", "pytest"]):
        words = words[2:]
    if words[:2] in (["python", "-m"], ["python3", "-m"]):
        return _module(words[2])
    if words[0] == "compsec":
        return _compsec(words[1:])
    if words[0] == "pytest":
        return _pytest(words[1:], config)
    if words[0] == "pip":
        return _pip(words)
    if words[0] == "make":
        return _make(words[1:])
    if words[0] == "python" and words[1].endswith(".py") and "/" in words[1]:
        return None if (ROOT / words[1]).is_file() else f"no file {words[1]}"
    return None


def _module(name: str) -> str | None:
    # Of a package that is not there nothing can be said; a new one of those has to be named.
    if (
        name.partition(".")[0] in FOREIGN
        and importlib.util.find_spec(name.partition(".")[0]) is None
    ):
        return None
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    return None if found is not None else f"there is no module {name}"


def _compsec(words: Sequence[str]) -> str | None:
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            build_parser().parse_args(list(words))
        except SystemExit as ended:
            return told.getvalue().strip() if ended.code else None
    return None


def _pytest(words: Sequence[str], config: pytest.Config) -> str | None:
    parser: Any = config._parser
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        try:
            _, unknown = parser.parse_known_and_unknown_args(list(words))
        except (SystemExit, pytest.UsageError) as error:
            return f"{error} {told.getvalue()}".strip()
    found = [word for word in unknown if word.startswith("-")]
    return f"pytest has no option {', '.join(found)}" if found else None


def _pip(words: Sequence[str]) -> str | None:
    from tests.docs.project_file import extras

    for word in words:
        for names in _EXTRAS.findall(word):
            unknown = set(names.split(",")) - extras()
            if unknown:
                return f"there is no extra {', '.join(sorted(unknown))}"
    return None


def _make(words: Sequence[str]) -> str | None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    unknown = [word for word in words if not word.startswith("-") and word not in targets]
    return f"the Makefile has no {', '.join(unknown)}" if unknown else None
