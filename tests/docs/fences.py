"""The fenced blocks of the documentation, and the command lines in them."""

from __future__ import annotations

import dataclasses
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
_OPENING = re.compile(r"^( *)```(.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_SHELL = ("bash", "console")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")


@dataclasses.dataclass(frozen=True)
class Fence:
    """One block: where it begins, its language tag, its text, dedented, and the file that it is."""

    page: str
    line: int
    language: str
    text: str
    title: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fences(page: Path) -> Iterator[Fence]:
    """Every block of a page. Raises ValueError for one that does not end."""
    lines = page.read_text(encoding="utf-8").splitlines()
    name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    number = 0
    while number < len(lines):
        opening = _OPENING.match(lines[number])
        number += 1
        if opening is None:
            continue
        start, closing = number, opening[1] + "```"
        while number < len(lines) and lines[number] != closing:
            number += 1
        if number == len(lines):
            raise ValueError(f"{name}:{start}: the block does not end")
        text = textwrap.dedent("\n".join(lines[start:number]) + "\n")
        language, _, rest = opening[2].strip().partition(" ")
        title = _TITLE.fullmatch(rest)
        yield Fence(name, start, language, text, title[1] if title else "")
        number += 1


def every_fence(*languages: str) -> list[Fence]:
    """Of all pages; of all languages unless some are named."""
    return [
        fence
        for page in PAGES
        for fence in fences(page)
        if not languages or fence.language in languages
    ]


def commands(fence: Fence) -> Iterator[list[str]]:
    """The command lines of a shell block, without prompts, comments and assignments."""
    assert fence.language in _SHELL
    lines = fence.text.replace("\\\n", " ").splitlines()
    # Where lines have a prompt, the others are output.
    prompted = [line[2:] for line in lines if line.startswith("$ ")]
    for line in prompted or lines:
        yield from command_lines(line)


def command_lines(line: str) -> Iterator[list[str]]:
    """The simple commands of one line of shell; expressions of CI systems stand for a digest."""
    line = re.sub(r"\$\{\{.*?\}\}", "0" * 64, line)
    line = re.sub(r"\$\{\w+:\+([^}]*)\}", r"\1", line)
    line = re.sub(r"\$\{?\w+\}?", "0" * 64, line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&;|"):
            if words:
                yield words
            words = []
        elif words or not _ASSIGNMENT.match(word):
            words.append(word)
