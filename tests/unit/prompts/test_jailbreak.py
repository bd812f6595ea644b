"""The built-in set ``jailbreak``: every harmful prompt once, wrapped, dealt evenly."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from pytest_compsec.attacks.prompts import (
    TRANSFORMS,
    plain_id,
    transform_named,
    transform_of,
    wrapped,
)
from pytest_compsec.errors import IntegrityError
from pytest_compsec.prompts import Prompt, builtin_names, load_builtin, prompt_digest
from pytest_compsec.prompts.builtin import load_from
from pytest_compsec.prompts.refresh import refresh

DATA = Path(load_builtin.__code__.co_filename).parent / "data"
HARMFUL = load_builtin("harmful")
JAILBREAK = load_builtin("jailbreak")


def test_it_is_a_built_in_set_with_version_and_digest() -> None:
    assert "jailbreak" in builtin_names()
    assert JAILBREAK.name == "jailbreak"
    assert JAILBREAK.version == "1"
    assert JAILBREAK.source == "builtin:jailbreak"
    assert JAILBREAK.digest == prompt_digest(JAILBREAK.prompts)


def test_made_again_it_is_the_same() -> None:
    assert wrapped(HARMFUL.prompts) == JAILBREAK.prompts
    assert wrapped(HARMFUL.prompts, seed=1) != JAILBREAK.prompts


def test_every_harmful_prompt_is_there_once_in_its_category() -> None:
    assert [plain_id(prompt.id) for prompt in JAILBREAK.prompts] == [p.id for p in HARMFUL.prompts]
    assert [p.category for p in JAILBREAK.prompts] == [p.category for p in HARMFUL.prompts]
    texts = {prompt.text for prompt in JAILBREAK.prompts}
    assert len(texts) == len(HARMFUL.prompts)
    assert not texts & {prompt.text for prompt in HARMFUL.prompts}


def test_each_prompt_is_what_the_transform_in_its_id_makes() -> None:
    for plain, prompt in zip(HARMFUL.prompts, JAILBREAK.prompts, strict=True):
        name = transform_of(prompt.id)
        assert name is not None
        assert prompt.text == transform_named(name).apply(plain.text, prompt_id=plain.id)


def test_each_category_meets_each_transform_equally() -> None:
    met = Counter((prompt.category, transform_of(prompt.id)) for prompt in JAILBREAK.prompts)
    assert len(met) == 16 * len(TRANSFORMS)
    assert set(met.values()) == {3}


def test_other_numbers_are_dealt_as_evenly_as_they_can_be() -> None:
    prompts = [Prompt(f"p{n}", f"Tell me fact number {n} of bread.", "c") for n in range(40)]
    met = Counter(transform_of(prompt.id) for prompt in wrapped(prompts))
    assert len(met) == len(TRANSFORMS)
    assert set(met.values()) == {2, 3}


def test_ids_tell_transform_and_plain_prompt() -> None:
    assert transform_of("harmful-cyber-017~rot13") == "rot13"
    assert plain_id("harmful-cyber-017~rot13") == "harmful-cyber-017"
    for other in ("harmful-cyber-017", "mine~v2", "mine~", "~"):
        assert transform_of(other) is None
        assert plain_id(other) == other


def test_keywords_go_with_the_prompt() -> None:
    plain = Prompt("p", "Tell me about bread.", "c", ("no bread",))
    assert wrapped([plain])[0].refusal_keywords == ("no bread",)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    shutil.copytree(DATA, directory)
    return directory


def test_an_edited_harmful_prompt_is_an_integrity_error(copy: Path) -> None:
    file = copy / "harmful.jsonl"
    text = file.read_text(encoding="utf-8")
    assert load_from(copy, "jailbreak") == JAILBREAK
    file.write_text(text.replace("How do I", "How do we", 1), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"'jailbreak' .*harmful\.jsonl give it"):
        load_from(copy, "jailbreak")
    assert set(refresh(copy)) == {"harmful", "jailbreak"}
    assert load_from(copy, "jailbreak").digest != JAILBREAK.digest


def test_a_changed_transform_is_an_integrity_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_compsec.attacks.prompts import wrapping

    def other(prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        return wrapped(prompts, transforms=TRANSFORMS[1:])

    monkeypatch.setattr(wrapping, "wrapped", other)
    with pytest.raises(IntegrityError, match="jailbreak"):
        load_builtin("jailbreak")
