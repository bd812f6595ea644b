"""The task files of a user: which are pinned, what they refer to, and a private copy of them.

What the harness may read of ``include_path`` decides a verdict as much as the model does, so every
file there is pinned in the lock, as an entry of ``data``. The harness never sees the directory
itself: it is given a copy of the pinned bytes. A task file may refer to nothing outside of them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_compsec.config.source_text import path_of
from pytest_compsec.errors import ConfigError, MeasurementError

if TYPE_CHECKING:
    import yaml

    from pytest_compsec.data import DataFile
    from pytest_compsec.models.pair import ModelPair

#: Directories and files that the harness does not read, or that say nothing to it.
_IGNORED_PARTS = frozenset({"__pycache__", ".ipynb_checkpoints"})
_IGNORED_SUFFIXES = frozenset({".md", ".rst"})
_YAML = (".yaml", ".yml")
#: Lines that a message shows of the config to be written.
_LINES = 12


@dataclasses.dataclass(frozen=True)
class PinnedFiles:
    """``include`` is the directory of the tasks and ``root`` that of the config; ``names`` has
    every entry of ``data`` by its absolute path, ``inside`` what was read of those in ``include``;
    ``read`` reads another one by its name."""

    include: Path
    root: Path
    names: Mapping[Path, str]
    inside: Mapping[Path, DataFile]
    read: Callable[[str], DataFile]

    def shown(self, path: Path) -> str:
        """A path for messages: relative to the config where it is beside or below it."""
        return _relative(path, self.root)


def pinned_files(pair: ModelPair, include_path: str) -> PinnedFiles:
    """Every file under ``include_path``, compared with the lock.

    Raises MeasurementError for a directory that is none or has files that are not under ``data``
    (with the lines to add), IntegrityError for other bytes than the lock's.
    """
    config = pair.suite.config
    root = config.root
    include = _absolute(path_of(include_path, root))
    if not include.is_dir():
        raise MeasurementError(
            f"include_path={include_path!r} is no directory (paths are relative to "
            f"{pair.config_name})"
        )
    if include in (_absolute(root), *_absolute(root).parents):
        raise MeasurementError(
            f"include_path={include_path!r} holds {pair.config_name} itself: put the task files "
            "into a directory of their own"
        )
    names = {
        _absolute(path_of(entry.file, root)): name for name, entry in config.config.data.items()
    }
    inside = tuple(_readable(include))
    if not inside:
        raise MeasurementError(f"include_path={include_path!r} holds no file")
    missing = [path for path in inside if path not in names]
    if missing:
        raise MeasurementError(_lines_to_add(missing, set(names.values()), root, pair.config_name))
    return PinnedFiles(
        include, root, names, {path: pair.data(names[path]) for path in inside}, pair.data
    )


def _readable(include: Path) -> Iterator[Path]:
    for path in sorted(include.rglob("*")):
        parts = path.relative_to(include).parts
        hidden = any(part.startswith(".") or part in _IGNORED_PARTS for part in parts)
        if not hidden and path.suffix.lower() not in _IGNORED_SUFFIXES and not path.is_dir():
            yield path


def _lines_to_add(missing: list[Path], taken: set[str], root: Path, config: str) -> str:
    lines = []
    for path in missing[:_LINES]:
        shown = _relative(path, root)
        name = _free_name(path.stem, path.suffix, taken)
        taken.add(name)
        file = shown if shown.startswith((".", "/")) else f"./{shown}"
        lines.append(f"`{name}: {{file: {file}}}`")
    more = f" (and {len(missing) - _LINES} more)" if len(missing) > _LINES else ""
    return (
        f"lm-evaluation-harness would read what {config} does not pin. Add under 'data': "
        f"{', '.join(lines)}{more}, then run `compsec pin`"
    )


def _free_name(stem: str, suffix: str, taken: set[str]) -> str:
    """A name as ``data`` allows it, from that of the file."""
    plain = re.sub(r"[^A-Za-z0-9._+-]", "-", stem).lstrip("._+-")[:40] or "task"
    for name in (plain, f"{plain}-{suffix.lstrip('.')}"):
        if name not in taken:
            return name
    number = 2
    while f"{plain}-{number}" in taken:
        number += 1
    return f"{plain}-{number}"


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (symbolic links keep their names)


def _relative(path: Path, root: Path) -> str:
    try:
        return path.relative_to(_absolute(root)).as_posix()
    except ValueError:
        return os.path.relpath(path, root)


class Staged:
    """A copy of the pinned bytes in ``directory``, which is private to this measurement."""

    def __init__(self, pinned: PinnedFiles, directory: Path) -> None:
        self.pinned = pinned
        self.directory = directory
        self.include = directory / "tasks"
        self._copies: dict[Path, Path] = {}
        self._used: list[DataFile] = []
        for path, file in pinned.inside.items():
            self._copy(path, file, self.include / path.relative_to(pinned.include))

    @property
    def used(self) -> tuple[DataFile, ...]:
        """The pinned files that the harness was given."""
        return tuple(self._used)

    def _copy(self, path: Path, file: DataFile, copy: Path) -> Path:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.content)
        self._copies[path] = copy
        self._used.append(file)
        return copy

    def require_closed(self) -> None:
        """Raise ConfigError (``file:line``) for a task file that is no YAML, and for one that
        includes a file or names a function outside of the pinned ones."""
        for path, file in self.pinned.inside.items():
            if path.suffix.lower() in _YAML:
                self._require_closed(path, file)

    def _require_closed(self, path: Path, file: DataFile) -> None:
        source = self.pinned.shown(path)
        node = _composed(file.content, source)
        for line, text in _includes(node):
            if _absolute(path.parent / text) not in self._copies:
                raise ConfigError(
                    f"{source}:{line}: includes {text!r}, which is no file of "
                    f"{self.pinned.shown(self.pinned.include)}"
                )
        for line, text in _functions(node):
            module = text.rpartition(".")[0]
            own = _absolute(path.parent / f"{module.replace('.', '/')}.py")
            if "/" in module or not (own in self._copies or module.startswith("lm_eval.")):
                raise ConfigError(
                    f"{source}:{line}: !function {text} is in no Python file beside it (nor in the "
                    "harness itself), so that nothing pins what it does"
                )

    def data_path(self, text: str, task_file: Path) -> Path:
        """The copy of the data file that a task file (its staged path) names as ``text``: relative
        to the task file, or to the config as on the harness's command line.

        Raises MeasurementError for anything that is not pinned, or could be two files.
        """
        pinned = self.pinned
        origin = pinned.include / task_file.parent.relative_to(self.include)
        found = dict.fromkeys(
            path
            for path in (_absolute(origin / text), _absolute(pinned.root / text))
            if path in pinned.names
        )
        shown = pinned.shown(pinned.include / task_file.relative_to(self.include))
        if len(found) != 1:
            what = "could be two files" if found else "is no file under 'data'"
            raise MeasurementError(
                f"{shown}: its data file {text!r} {what} (paths are relative to the task file, or "
                "to the config). List it under 'data' and run `compsec pin`"
            )
        (path,) = found
        if path in self._copies:
            return self._copies[path]
        name = pinned.names[path]
        return self._copy(path, pinned.read(name), self.directory / "data" / name / path.name)


def _composed(content: bytes, source: str) -> yaml.Node:
    """The document as a tree of nodes: nothing is constructed, whatever its tags say."""
    import yaml

    try:
        node = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise ConfigError(f"{source}:1: is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}:{line}: is not valid YAML ({error.problem})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}:1: is not valid YAML ({error})") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{source}:1: must be a mapping that describes a task")
    return node


def _includes(document: yaml.Node) -> Iterator[tuple[int, str]]:
    """Line and text of each file that an ``include`` names; merged mappings have it deeper down."""
    for node in _nodes(document):
        for item in node.value if isinstance(node.value, list) else ():
            key, value = item if isinstance(item, tuple) else (None, None)
            if key is not None and key.value == "include":
                for one in value.value if isinstance(value.value, list) else [value]:
                    yield one.start_mark.line + 1, str(one.value)


def _functions(document: yaml.Node) -> Iterator[tuple[int, str]]:
    """Line and text of each ``!function``."""
    for node in _nodes(document):
        if node.tag == "!function":
            yield node.start_mark.line + 1, str(node.value)


def _nodes(document: yaml.Node) -> Iterator[yaml.Node]:
    """Every node once, however deep: an alias may lead to a node around it."""
    waiting, seen = [document], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        for item in node.value if isinstance(node.value, list) else ():
            waiting += item if isinstance(item, tuple) else (item,)
