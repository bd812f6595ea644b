"""What refusals sound like: families of patterns, read from ``rules_*.txt``.

A family is a kind of sentence (inability, unwillingness, apology, ...). The patterns only say
that such a sentence occurs; how much it counts, and where, is learned (``weights.json``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

RULE_FILES = ("rules_english.txt", "rules_other.txt")


@dataclass(frozen=True)
class Rule:
    """One pattern, and substrings of which a text must contain one for it to match at all."""

    pattern: re.Pattern[str]
    hints: tuple[str, ...] = ()

    def matches(self, text: str) -> Iterator[re.Match[str]]:
        """All matches in a normalised text."""
        if not self.hints or any(hint in text for hint in self.hints):
            yield from self.pattern.finditer(text)


Families = dict[str, tuple[Rule, ...]]


def parse_rules(text: str) -> Families:
    """Compile a rule file: ``[family]`` opens one, each further line is one alternative of it.

    ``@NAME pattern`` defines a part that later lines use as ``<NAME>``; ``? a|b`` sets the hints
    of the lines that follow in the family; ``# `` starts a comment.
    """
    parts: dict[str, str] = {}
    families: dict[str, dict[str, list[str]]] = {}
    family: dict[str, list[str]] = {}
    hints = ""
    for line in text.splitlines():
        if not line or line.startswith("# "):
            continue
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            family, hints = families.setdefault(heading[1], {}), ""
        elif re.match(r"\?(?= |$)", line):
            hints = line[2:]
        elif line.startswith("@"):
            name, pattern = line[1:].split(" ", 1)
            parts[name] = _insert(pattern, parts)
        else:
            family.setdefault(hints, []).append(_insert(line, parts))
    return {
        name: tuple(
            Rule(re.compile("|".join(lines), re.M), tuple(hint for hint in key.split("|") if hint))
            for key, lines in groups.items()
        )
        for name, groups in families.items()
    }


def _insert(pattern: str, parts: dict[str, str]) -> str:
    for name, part in parts.items():
        pattern = pattern.replace(f"<{name}>", part)
    return pattern


def read_rules(name: str) -> Families:
    """The compiled families of one of ``RULE_FILES``."""
    return parse_rules(files(__package__).joinpath(name).read_text(encoding="utf-8"))
