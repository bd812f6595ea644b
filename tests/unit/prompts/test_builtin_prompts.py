"""The built-in sets: size, spread, no repeats, and digests that notice a change."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.prompts import (
    Prompt,
    builtin_names,
    load_builtin,
    near_duplicates,
    prompt_digest,
)
from pytest_compsec.prompts.builtin import load_from
from pytest_compsec.prompts.refresh import refresh

DATA = Path(load_builtin.__code__.co_filename).parent / "data"


def texts(name: str) -> list[str]:
    return [prompt.text for prompt in load_builtin(name).prompts]


def lookalike_ids() -> set[str]:
    lines = (DATA / "benign.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    return {row["id"] for row in rows if row.get("lookalike")}


def test_names() -> None:
    assert builtin_names() == ("benign", "harmful", "jailbreak")


def test_harmful_is_large_and_spread_over_categories() -> None:
    prompts = load_builtin("harmful").prompts
    assert len(prompts) >= 800
    counts = Counter(prompt.category for prompt in prompts)
    assert len(counts) >= 14
    assert min(counts.values()) >= 40
    assert counts.keys() >= {
        *("violence", "weapons", "drugs", "cyber", "fraud", "privacy", "hate", "harassment"),
        *("self-harm", "sexual-content", "exploitation", "disinformation", "illegal-trade"),
        "dangerous-advice",
    }


def test_benign_is_large_and_half_look_alikes() -> None:
    prompts = load_builtin("benign").prompts
    assert len(prompts) >= 400
    ids = {prompt.id for prompt in prompts}
    assert lookalike_ids() <= ids
    assert len(lookalike_ids()) >= len(prompts) / 2


@pytest.mark.parametrize("name", ["harmful", "benign"])
def test_ids_are_unique_and_say_their_set(name: str) -> None:
    ids = [prompt.id for prompt in load_builtin(name).prompts]
    assert len(set(ids)) == len(ids)
    assert all(identifier.startswith(f"{name}-") for identifier in ids)


@pytest.mark.parametrize("name", ["harmful", "benign"])
def test_prompts_are_one_short_line(name: str) -> None:
    for text in texts(name):
        assert 15 < len(text) < 200, text
        assert text == text.strip()
        assert "\n" not in text


def test_harmful_prompts_hold_no_operational_detail() -> None:
    # A request that carries quantities, steps, addresses or code is more than a request.
    detail = re.compile(
        r"\d\s*(mg|ml|g|kg|grams?|°|degrees|volts?)\b|https?://|www\.|```|[Ss]tep \d|;\s*\w+;|\{"
    )
    assert [text for text in texts("harmful") if detail.search(text)] == []
    assert detail.search("Mix 20 g of it")
    assert max(len(text.split()) for text in texts("harmful")) <= 24


@pytest.mark.parametrize("name", ["harmful", "benign"])
def test_no_near_duplicates_within_a_set(name: str) -> None:
    prompts = load_builtin(name).prompts
    pairs = near_duplicates(texts(name))
    assert [(prompts[i].text, prompts[j].text) for i, j, _ in pairs] == []


def test_no_near_duplicates_between_harmful_and_benign_but_look_alikes() -> None:
    harmful, benign = load_builtin("harmful").prompts, load_builtin("benign").prompts
    allowed = lookalike_ids()
    pairs = near_duplicates(texts("harmful"), texts("benign"))
    assert [
        (harmful[i].text, benign[j].text) for i, j, _ in pairs if benign[j].id not in allowed
    ] == []


def test_a_planted_near_duplicate_would_be_found() -> None:
    sample = texts("harmful")
    planted = sample[17].replace("How", "Please tell me how")
    assert near_duplicates([*sample, planted])[0][:2] == (17, len(sample))


def test_sets_carry_version_digest_and_source() -> None:
    harmful = load_builtin("harmful")
    assert harmful.name == "harmful"
    assert harmful.version == "1"
    assert harmful.source == "builtin:harmful"
    assert harmful.digest == prompt_digest(harmful.prompts)
    assert re.fullmatch(r"[0-9a-f]{64}", harmful.digest)


def test_digest_is_of_the_documented_canonical_json() -> None:
    # sha256 of [["a","c","t\u00e9"]] without spaces, computed with sha256sum.
    assert (
        prompt_digest([Prompt("a", "té", "c")])
        == "17832fdeee65772f1f0f88bae84bc75eaa5eb14770c0f967d1af91ab7cc18f13"
    )


def test_digest_notices_id_category_text_and_order() -> None:
    first, second = Prompt("a", "one", "x"), Prompt("b", "two", "y")
    reference = prompt_digest([first, second])
    changed = [
        [second, first],
        [first],
        [Prompt("z", "one", "x"), second],
        [Prompt("a", "ONE", "x"), second],
        [Prompt("a", "one", "z"), second],
        [Prompt("a", "x", "one"), second],
    ]
    assert reference not in {prompt_digest(prompts) for prompts in changed}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    shutil.copytree(DATA, directory)
    return directory


def test_an_edited_set_is_an_integrity_error(copy: Path) -> None:
    file = copy / "harmful.jsonl"
    original = file.read_text(encoding="utf-8")
    assert load_from(copy, "harmful").digest == load_builtin("harmful").digest
    file.write_text(original.replace("How do I", "How do we", 1), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"'harmful' .*harmful\.jsonl.*sets\.json.*reinstall"):
        load_from(copy, "harmful")


def test_a_removed_prompt_is_an_integrity_error(copy: Path) -> None:
    file = copy / "benign.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n")
    file.write_text("\n".join(lines[1:]), encoding="utf-8")
    with pytest.raises(IntegrityError, match="benign"):
        load_from(copy, "benign")


def test_a_missing_file_is_an_integrity_error(copy: Path) -> None:
    (copy / "harmful.jsonl").unlink()
    with pytest.raises(IntegrityError, match=r"harmful\.jsonl cannot be read"):
        load_from(copy, "harmful")


def test_other_formatting_of_the_same_prompts_is_not_a_change(copy: Path) -> None:
    file = copy / "harmful.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    text = "\r\n\r\n".join(json.dumps(dict(reversed(row.items())), indent=None) for row in rows)
    file.write_bytes(text.encode())
    assert load_from(copy, "harmful") == load_builtin("harmful")


def test_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(CompsecError, match=r"'harmfull'.*benign, harmful"):
        load_builtin("harmfull")


def test_refresh_records_an_edit(copy: Path) -> None:
    assert refresh(copy) == {}
    file = copy / "harmful.jsonl"
    old = load_from(copy, "harmful").digest
    file.write_text(
        file.read_text(encoding="utf-8").replace("How do I", "How do we", 1), encoding="utf-8"
    )
    changed = refresh(copy)
    assert list(changed) == ["harmful", "jailbreak"]
    assert changed["harmful"] == (old, load_from(copy, "harmful").digest)
    assert load_from(copy, "harmful").digest != old


def test_the_committed_index_is_what_refresh_writes(copy: Path) -> None:
    refresh(copy)
    written = (copy / "sets.json").read_text(encoding="utf-8")
    assert written == (DATA / "sets.json").read_text(encoding="utf-8")
