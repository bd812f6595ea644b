"""YAML text to plain values, with the line of every key kept and every trap of YAML refused:
duplicate keys, anchors (a few lines can grow to gigabytes), deep nesting, keys that are no text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

MAX_BYTES = 256 * 1024
MAX_DEPTH = 40

Path = tuple["str | int", ...]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong at a line (1-based) of the file."""

    line: int
    message: str


@dataclasses.dataclass(frozen=True)
class Document:
    """Plain values, the line of each path, and what was wrong with the YAML itself."""

    value: Any
    lines: Mapping[Path, int]
    problems: tuple[Problem, ...]

    def line(self, path: Path) -> int:
        """The line of the longest known beginning of ``path``; names that are not in the file
        (a union's tag in a validation error) are skipped."""
        known: Path = ()
        for part in path:
            if (*known, part) in self.lines:
                known = (*known, part)
        return self.lines.get(known, 1)


def read_document(text: str) -> Document:
    """Parse one YAML document; problems of syntax are returned, not raised."""
    try:
        problem = _refused_structure(text)
        if problem is not None:
            return Document(None, {}, (problem,))
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return Document(None, {}, (_syntax_problem(error, text),))
    if node is None:
        return Document(None, {(): 1}, (Problem(1, "the file is empty"),))
    builder = _Builder()
    value = builder.build(node, ())
    return Document(value, builder.lines, tuple(builder.problems))


def _refused_structure(text: str) -> Problem | None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            return Problem(line, "anchors and aliases (& and *) are not accepted: write it out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            return Problem(line, f"nested more than {MAX_DEPTH} levels deep")
    return None


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        message = str(getattr(error, "problem", "") or "is not valid YAML")
        if "\\t" in message or _tab_indents(text, mark.line):
            message = "a tab is used for indentation: YAML takes spaces only"
        return Problem(mark.line + 1, message)
    position = getattr(error, "position", None)
    if isinstance(position, int):
        line = text.count("\n", 0, position) + 1
        return Problem(line, "holds a character that YAML does not allow")
    return Problem(1, str(error).splitlines()[0])


def _tab_indents(text: str, line: int) -> bool:
    lines = text.splitlines()
    if line >= len(lines):
        return False
    indentation = lines[line][: len(lines[line]) - len(lines[line].lstrip())]
    return "\t" in indentation


class _Builder:
    """Builds values from nodes as SafeLoader would, keeping lines and refusing double keys."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        try:
            return self._scalars.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            problem = getattr(error, "problem", None) or str(error)
            self.problems.append(Problem(node.start_mark.line + 1, str(problem)))
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(line, "a key must be plain text"))
                continue
            if key_node.tag != "tag:yaml.org,2002:str":
                message = f"the key {key_node.value} is no text for YAML: put it in quotes"
                self.problems.append(Problem(line, message))
            key = str(key_node.value)
            child = (*path, key)
            if key in result:
                first = self.lines[child]
                self.problems.append(
                    Problem(line, f"the key {key!r} is given twice (first on line {first})")
                )
                continue
            self.lines[child] = line
            result[key] = self.build(value_node, child)
        return result
