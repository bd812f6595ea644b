"""Libraries are imported while files are hashed, and neither disturbs the other."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_compsec.models import hashing
from pytest_compsec.models.hashing import open_and_hash
from pytest_compsec.models.importing import import_libraries
from pytest_compsec.models.integrity import local_location


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for number in range(6):
        (tmp_path / f"model-{number}.safetensors").write_bytes(bytes([number]) * (3000 + number))
    return tmp_path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_meanwhile_runs_in_the_waiting_thread_while_files_are_hashed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    read = hashing._read_through

    def slow(descriptor: int, take: object) -> tuple[bytes, int]:
        go_on.wait(20)
        return read(descriptor, take)  # type: ignore[arg-type]

    monkeypatch.setattr(hashing, "_read_through", slow)
    seen: list[tuple[int, bool]] = []

    def meanwhile(waiting: Callable[[], bool]) -> None:
        seen.append((threading.get_ident(), waiting()))
        go_on.set()

    files, failures = open_and_hash(
        local_location(directory),
        names(directory),
        lambda file: None,
        meanwhile,
    )
    assert seen == [(threading.get_ident(), True)]
    assert not failures
    for file in files:
        assert file.sha256 == hashlib.sha256((directory / file.name).read_bytes()).hexdigest()
        file.close()
    assert [file.name for file in files] == names(directory)


def test_a_fault_in_meanwhile_leaves_no_file_open(directory: Path) -> None:
    opened: list[hashing.OpenFile] = []

    def remember(file: hashing.OpenFile) -> None:
        opened.append(file)

    def broken(waiting: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_and_hash(local_location(directory), names(directory), remember, broken)
    assert opened
    for file in opened:
        with pytest.raises(Exception, match="closed"):
            _ = file.descriptor


def test_libraries_are_imported_only_while_there_is_something_to_wait_for() -> None:
    code = (
        "import sys\n"
        "from pytest_compsec.models.importing import import_libraries\n"
        "asked = iter([True, False])\n"
        "import_libraries(lambda: next(asked), ('no_such_library', 'colorsys', 'this'))\n"
        "print('colorsys' in sys.modules, 'this' in sys.modules)\n"
        "asked = iter([True, True, False])\n"
        "import_libraries(lambda: next(asked), ('no_such_library', 'colorsys', 'this'))\n"
        "print('colorsys' in sys.modules, 'this' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "False", "True", "False"]


def test_a_warning_that_is_an_error_does_not_break_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old_library.py").write_text(
        "import warnings\nwarnings.warn('old', DeprecationWarning)\nready = True\n", "utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "old_library", raising=False)
    import_libraries(lambda: True, ("old_library",))
    assert sys.modules["old_library"].ready
