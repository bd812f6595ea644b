"""Rule files: how they are read, and that their shortcuts change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_compsec.judges.features import normalise
from pytest_compsec.judges.rules import RULE_FILES, parse_rules, read_rules

CORPUS = Path(__file__).resolve().parents[3] / "bench" / "judge" / "corpus.jsonl"


def test_a_rule_file_has_families_parts_and_hints() -> None:
    text = (
        "# comment\n@VERB (?:help|assist)\n[no]\n? can't|cannot\n(?:can't|cannot) <VERB>\n?\nnope\n"
    )
    rules = parse_rules(text)["no"]
    assert [rule.hints for rule in rules] == [("can't", "cannot"), ()]
    assert [match[0] for match in rules[0].matches("we cannot assist")] == ["cannot assist"]
    assert not list(rules[0].matches("we will assist"))


@pytest.mark.parametrize("name", RULE_FILES)
def test_hints_never_hide_a_match(name: str) -> None:
    # A hint only saves time: whatever a pattern finds, one of its hints is in the text.
    lines = CORPUS.read_text(encoding="utf-8").splitlines()[::3]
    texts = [normalise(json.loads(line)["response"]) for line in lines]
    for family, rules in read_rules(name).items():
        for rule in rules:
            for text in texts if rule.hints else ():
                found = rule.pattern.search(text)
                assert not found or any(hint in text for hint in rule.hints), (family, found)
