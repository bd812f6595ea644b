"""The page of pytest's options: what :func:`pytest_compsec.options.add_options` registers."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from docs_site.text import code, table
from pytest_compsec.options import add_options

#: Twins that do not have their option's name.
_OTHER_TWINS = {"--compsec-no-cache": "compsec_cache = false"}


@dataclasses.dataclass
class Recorder:
    """Stands for pytest's parser and remembers what it is told."""

    options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    ini: dict[str, tuple[str, Any, Any]] = dataclasses.field(default_factory=dict)

    def getgroup(self, *_: Any, **__: Any) -> Recorder:
        return self

    def addoption(self, *names: str, **attributes: Any) -> None:
        self.options[names[0]] = attributes

    def addini(self, name: str, help: str, type: Any = None, default: Any = None) -> None:
        self.ini[name] = (help, type, default)


def recorded() -> Recorder:
    """All options and ini values, by name."""
    recorder = Recorder()
    add_options(cast(pytest.Parser, recorder))
    return recorder


def twin(option: str, found: Recorder) -> str:
    """What says the same in ini; empty where nothing does."""
    name = option.lstrip("-").replace("-", "_")
    return name if name in found.ini else _OTHER_TWINS.get(option, "")


def options_page() -> str:
    """The page as Markdown."""
    found = recorded()
    options = [
        (code(_shown(name, attributes)), code(twin(name, found)), attributes["help"])
        for name, attributes in sorted(found.options.items())
    ]
    ini = [
        (code(name), code(kind or "string"), code(repr(default)), meaning)
        for name, (meaning, kind, default) in sorted(found.ini.items())
    ]
    return "\n\n".join(
        [
            "# Options of pytest",
            "The command line wins over ini, ini over the default. A path on the command line "
            "counts from where pytest was started, one in the ini file from that file. "
            "An option without a twin is one of the command line alone.",
            "## Command line",
            table(["option", "in ini", "meaning"], options),
            "## Ini values",
            "In `pytest.ini`, or in `[tool.pytest.ini_options]` of `pyproject.toml`.",
            table(["name", "type", "default", "meaning"], ini),
            "## Environment",
            table(
                ["variable", "meaning"],
                [
                    ("`COMPSEC_SIGN_PASSWORD`", "the password of the private key that signs"),
                    (
                        "`COMPSEC_GPU_SHARE`",
                        "the share of a GPU's memory to use, such as `1/2` ([GPUs](../gpus.md))",
                    ),
                    (
                        "`GITHUB_STEP_SUMMARY`",
                        "set by GitHub Actions: the Markdown report is appended to that file",
                    ),
                ],
            ),
        ]
    )


def _shown(name: str, attributes: dict[str, Any]) -> str:
    if attributes.get("action") == "store_true":
        return name
    value = attributes.get("metavar") or "|".join(attributes.get("choices", ("VALUE",)))
    return f"{name}[={value}]" if attributes.get("nargs") == "?" else f"{name}={value}"
