"""Write a directory whole or not at all: it is filled under another name and then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pytest_compsec.errors import CompsecError


def require_free(path: Path) -> None:
    """Raise CompsecError unless ``path`` does not exist or is an empty directory."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise CompsecError(f"{path}: is in the way: it is no directory. Choose another name")
    if path.is_dir() and any(path.iterdir()):
        raise CompsecError(
            f"{path}: is not empty, and nothing is overwritten. Choose another directory, or "
            "remove what is there"
        )


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside ``path``, renamed to ``path`` when the block is left normally
    and removed when it is left by an error or an interruption.

    Raises CompsecError when ``path`` holds something already, or cannot be written.
    """
    require_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    except OSError as error:
        raise CompsecError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        # safetensors writes for the owner alone; a server may run as somebody else.
        for file in temporary.rglob("*"):
            file.chmod((0o777 if file.is_dir() else 0o666) & ~umask)
        require_free(path)  # It took a while.
        if path.is_dir():
            path.rmdir()  # Windows renames onto nothing that exists.
        temporary.rename(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CompsecError(f"{path}: cannot be written ({error.strerror or error})") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
