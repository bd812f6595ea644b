"""What the text of a ``source:`` means, decided from the text alone (and, for a bare ``a/b``,
from whether such a directory exists)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path, PurePosixPath
from typing import Literal

Kind = Literal["directory", "gguf", "package", "hub", "python"]

PACKAGE_PREFIX = "pkg:"
PYTHON_PREFIX = "python:"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB_LEGACY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB_FILE = re.compile(rf"({_HUB_ID.pattern})/([A-Za-z0-9][A-Za-z0-9._/-]*\.gguf)", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PYTHON_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclasses.dataclass(frozen=True)
class SourceText:
    """A classified source. ``location`` is the path, the package path or the hub id; ``file`` is
    set for one GGUF file out of a hub repository (``org/name/file.gguf``)."""

    kind: Kind
    location: str
    file: str | None = None


def path_of(text: str, root: Path) -> Path:
    """The path that a text of the config means; relative ones start from ``root``."""
    try:
        return root / Path(text).expanduser()
    except RuntimeError:  # ~name, and nobody here is called so
        return root / text


def is_file(path: Path) -> bool:
    """Whether there is such a file; no for a path that the system refuses, too."""
    try:
        return path.is_file()
    except OSError:  # a name too long, a directory that may not be entered
        return False


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit id, which can never move."""
    return _COMMIT.fullmatch(revision) is not None


def classify(source: str, revision: str | None, moving: bool, root: Path) -> SourceText:
    """Say what ``source`` is. ``root`` is the directory of ``compsec.yaml``.

    Raises ValueError (plain words, no position) when the text and the revision do not fit.
    """
    if not source or source != source.strip():
        raise ValueError(f"source {source!r} is empty or has spaces around it")
    if any(ord(char) < 32 or ord(char) == 127 for char in source):
        raise ValueError(f"source {source!r} has control characters")
    if _is_hub(source, revision, moving, root):
        _require_pinned(source, revision, moving)
        match = _HUB_FILE.fullmatch(source)
        if match is not None:
            return SourceText("hub", match[1], match[2])
        return SourceText("hub", source)
    if revision is not None or moving:
        raise ValueError(
            f"'revision' belongs to a Hugging Face id such as org/name; {source!r} is a path, "
            "whose content compsec.lock pins: leave 'revision' out"
        )
    if source.startswith(PACKAGE_PREFIX):
        return SourceText("package", package_path(source))
    if source.startswith(PYTHON_PREFIX):
        return SourceText("python", python_name(source))
    return SourceText("gguf" if source.lower().endswith(".gguf") else "directory", source)


def _is_hub(source: str, revision: str | None, moving: bool, root: Path) -> bool:
    if source.startswith((".", "/", "~", PACKAGE_PREFIX, PYTHON_PREFIX)) or "\\" in source:
        return False
    if revision is not None or moving:
        return any(pattern.fullmatch(source) for pattern in (_HUB_ID, _HUB_LEGACY_ID, _HUB_FILE))
    if _HUB_ID.fullmatch(source) is None or source.lower().endswith(".gguf"):
        return False
    return not (root / source).exists()


def _require_pinned(source: str, revision: str | None, moving: bool) -> None:
    if moving or (revision is not None and is_commit(revision)):
        return
    if revision is None:
        raise ValueError(
            f"{source!r} is no directory here, so it is a Hugging Face id, and it has no "
            "'revision'. Give the 40-hex commit ('revision: ...', shown on the model's page under "
            "Files > History), or 'allow_moving_revision: true' to let `compsec pin` resolve it"
        )
    raise ValueError(
        f"revision {revision!r} of {source!r} can move: give the 40-hex commit id in lower case, "
        "or add 'allow_moving_revision: true' to let `compsec pin` resolve and record it"
    )


def package_path(source: str) -> str:
    """The ``package/path`` of ``pkg:package/path``; ValueError when it names no inside path."""
    inside = source[len(PACKAGE_PREFIX) :]
    path = PurePosixPath(inside)
    if "\\" in inside or path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise ValueError(
            f"{source!r} must be pkg:PACKAGE/PATH with a path inside that package "
            "(no '..', no leading '/')"
        )
    return path.as_posix()


def python_name(source: str) -> str:
    """The ``module:function`` of ``python:module:function``; ValueError when it is none."""
    name = source[len(PYTHON_PREFIX) :]
    if _PYTHON_NAME.fullmatch(name) is None:
        raise ValueError(
            f"{source!r} must be python:package.module:function, a function without arguments that "
            "makes the untrained torch.nn.Module"
        )
    return name
