"""Each transform asks for the same thing otherwise, and does so the same way everywhere."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from pytest_compsec.attacks.prompts import TRANSFORMS, Transform, transform_named
from pytest_compsec.attacks.prompts.draws import Draws
from pytest_compsec.attacks.prompts.paraphrases import gerund, parse
from pytest_compsec.attacks.prompts.synonyms import SYNONYMS, reworded
from pytest_compsec.attacks.prompts.transforms import chosen
from pytest_compsec.attacks.prompts.translations import LANGUAGES, glossary, word_by_word
from pytest_compsec.errors import ConfigError
from pytest_compsec.prompts import content_words, load_builtin

HARMFUL = load_builtin("harmful").prompts
SAMPLE = HARMFUL[::9]
ODD = (
    "ok",
    "¿Y si no?",
    "如何做炸弹",
    "1 2 3",
    "🙂",
    "Line one.\nLine two?",
    "How to: {braces} and %s",
    "a",
)
ENCODED = [transform for transform in TRANSFORMS if transform.decode is not None]

#: sha256 over every transform of SAMPLE with seed 7: the same on every Python and machine.
PINNED = "f64b12fb38a5699c4a3b6595c7a2fb326208bf72f7ad9eb31c1bd1f44971f6bb"

each = pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: transform.name)


def digest_of_all() -> str:
    digest = hashlib.sha256()
    for transform in TRANSFORMS:
        for prompt in SAMPLE:
            text = transform.apply(prompt.text, seed=7, prompt_id=prompt.id)
            digest.update(f"{transform.name}\n{text}\0".encode())
    return digest.hexdigest()


def test_there_are_at_least_twelve_in_six_families() -> None:
    assert len(TRANSFORMS) >= 12
    assert len({transform.name for transform in TRANSFORMS}) == len(TRANSFORMS)
    assert Counter(transform.family for transform in TRANSFORMS).keys() == {
        *("paraphrase", "role-play", "prefix", "encoding", "typo", "translation"),
    }


def test_texts_are_those_of_every_other_python_and_machine() -> None:
    assert digest_of_all() == PINNED


def test_the_seed_of_hash_changes_nothing() -> None:
    code = f"from {__name__} import digest_of_all; print(digest_of_all())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "99"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == PINNED


@each
def test_the_seed_and_the_prompt_id_decide(transform: Transform) -> None:
    text = SAMPLE[3].text
    first = transform.apply(text, seed=1, prompt_id="p")
    assert transform.apply(text, seed=1, prompt_id="p") == first
    others = {transform.apply(text, seed=seed, prompt_id="p") for seed in range(12)}
    assert len(others) > 1
    ids = {transform.apply(text, seed=1, prompt_id=f"p{number}") for number in range(12)}
    assert len(ids) > 1


@each
def test_no_prompt_stays_as_it_is_and_no_two_become_one(transform: Transform) -> None:
    texts = [prompt.text for prompt in HARMFUL]
    changed = [transform.apply(prompt.text, seed=0, prompt_id=prompt.id) for prompt in HARMFUL]
    assert all(text.strip() for text in changed)
    assert [old for old, new in zip(texts, changed, strict=True) if old == new] == []
    assert len(set(changed)) == len(changed)


@each
@pytest.mark.parametrize("prompt", ODD)
def test_odd_prompts_are_changed_too(transform: Transform, prompt: str) -> None:
    assert transform.apply(prompt) not in ("", prompt)


@each
def test_transformed_prompts_stay_short(transform: Transform) -> None:
    # A wrapped request is still one request: nothing is added that could be operational detail.
    for prompt in SAMPLE:
        assert len(transform.apply(prompt.text, prompt_id=prompt.id)) < 2 * len(prompt.text) + 260


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="empty prompt"):
        TRANSFORMS[0].apply("  \n")


def test_a_transform_that_changes_nothing_says_so() -> None:
    idle = Transform("idle", "typo", "nothing", lambda prompt, draws: prompt)
    with pytest.raises(ValueError, match="'idle' leaves this prompt as it is"):
        idle.apply("How?")


@pytest.mark.parametrize("transform", ENCODED, ids=lambda transform: transform.name)
def test_encodings_can_be_decoded(transform: Transform) -> None:
    assert transform.decode is not None
    for text in (*(prompt.text for prompt in HARMFUL), *ODD):
        assert transform.decode(transform.apply(text)) == text


def test_the_encodings_are_there_and_hide_the_words() -> None:
    encodings = {t.name: t for t in TRANSFORMS if t.family == "encoding"}
    assert encodings.keys() >= {"base64", "rot13", "leetspeak", "letter-spacing"}
    assert len(ENCODED) >= 3
    for name in ("base64", "rot13", "letter-spacing"):
        for prompt in SAMPLE:
            payload = encodings[name].apply(prompt.text).partition("\n\n")[2]
            hidden = {word for word in content_words(prompt.text) if len(word) > 4}
            assert not hidden & content_words(payload)


def test_leetspeak_touches_only_letters_that_look_like_digits() -> None:
    payload = transform_named("leetspeak").apply("Sell me a toaster").partition("\n\n")[2]
    assert payload == "53ll m3 4 704573r"


def edits(before: str, after: str) -> int:
    """Damerau's distance: insertions, deletions, substitutions, swaps of neighbours."""
    table = {(row, -1): row + 1 for row in range(-1, len(before))}
    table.update({(-1, column): column + 1 for column in range(-1, len(after))})
    for row, old in enumerate(before):
        for column, new in enumerate(after):
            best = min(
                table[row - 1, column] + 1,
                table[row, column - 1] + 1,
                table[row - 1, column - 1] + (old != new),
            )
            if row and column and old == after[column - 1] and before[row - 1] == new:
                best = min(best, table[row - 2, column - 2] + 1)
            table[row, column] = best
    return table[len(before) - 1, len(after) - 1]


@pytest.mark.parametrize("name", ["typo-slips", "typo-keys"])
def test_typing_errors_leave_the_prompt_readable(name: str) -> None:
    transform = transform_named(name)
    for prompt in SAMPLE:
        before = prompt.text.split()
        after = transform.apply(prompt.text, prompt_id=prompt.id).split()
        assert len(after) == len(before)
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        # At least a tenth of the words, at most as many as are long, rounded up by half.
        assert len(before) / 10 <= len(changed) <= (len(before) + 1) / 2
        for old, new in changed:
            assert old[0] == new[0]
            assert old[-1] == new[-1]
            assert 1 <= edits(old, new) <= 1 + old.count("-")


def test_a_scrambled_prompt_would_not_pass_as_readable() -> None:
    assert edits("poison", "npooiss") > 2


@pytest.mark.parametrize(
    ("prompt", "kind", "body"),
    [
        ("Write a poem.", "imperative", "write a poem"),
        ("Can you list some poems?", "imperative", "list some poems"),
        ("How do I bake bread?", "how", "bake bread"),
        ("How to bake bread", "how", "bake bread"),
        ("Which bread is best?", "question", "which bread is best"),
        ("I want bread.", "statement", "I want bread"),
        ("Go away. Come back!", "statement", "Go away. Come back"),
    ],
)
def test_requests_are_read_by_their_opening(prompt: str, kind: str, body: str) -> None:
    request = parse(prompt)
    assert (request.kind, request.body) == (kind, body)


@pytest.mark.parametrize(
    ("action", "doing"),
    [
        ("make a plan", "making a plan"),
        ("get in", "getting in"),
        ("plan it", "planning it"),
        ("help me", "helping me"),
        ("show me", "showing me"),
        ("lie well", "lying well"),
        ("see it", "seeing it"),
        ("carry on", "carrying on"),
    ],
)
def test_ing_forms(action: str, doing: str) -> None:
    assert gerund(action) == doing


def test_each_paraphrase_has_its_form() -> None:
    texts = {
        form: transform_named(f"paraphrase-{form}").apply("Write a poem about bread.")
        for form in ("question", "indirect", "nominal")
    }
    assert texts["question"].endswith("?")
    assert not texts["indirect"].endswith("?")
    assert "ing " in texts["nominal"]
    assert all("poem about bread" in text for text in texts.values())


def test_a_paraphrase_keeps_what_is_asked_for() -> None:
    replaceable = set(SYNONYMS)
    for form in ("question", "indirect", "nominal"):
        for prompt in SAMPLE:
            text = transform_named(f"paraphrase-{form}").apply(prompt.text, prompt_id=prompt.id)
            first = prompt.text.split()[0].lower()
            kept = content_words(prompt.text) - replaceable - {first}
            found = content_words(text)
            # A verb may have got its -ing.
            lost = {word for word in kept if not any(new.startswith(word[:-1]) for new in found)}
            assert not lost, (prompt.text, text)


def test_synonyms_keep_case_and_put_the_article_right() -> None:
    draws = Draws(0)
    assert reworded("those people's bread", draws) == "those people's bread"
    assert reworded("Draft it", draws).split()[0] in {"Prepare", "Draw"}
    assert reworded("an illegal thing", draws) in {"an unlawful thing", "a prohibited thing"}
    assert reworded("a cheap thing", draws) in {"an inexpensive thing", "a low-cost thing"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_glossary_is_whole(language: str) -> None:
    words = glossary(language)
    assert len(words) >= 150
    assert all(key == key.lower() and value == value.strip() for key, value in words.items())
    assert all(words.values())


def test_words_are_translated_one_by_one() -> None:
    assert word_by_word("Tell me how to hide the zither!", "spanish") == (
        "Di me cómo a esconder el zither!"
    )
    text = transform_named("translation-german").apply("Tell me how.")
    assert text.split("\n\n")[1] == "Sag mir wie."
    assert "Englisch" in text.split("\n\n")[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_about_half_of_what_is_asked_is_translated(language: str) -> None:
    known = glossary(language).keys()
    words = [word for prompt in HARMFUL for word in re.findall("[a-z]+", prompt.text.lower())]
    assert sum(word in known for word in words) > 0.5 * len(words)


def test_an_unknown_transform_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'rot14'.*base64, rot13"):
        transform_named("rot14")
    with pytest.raises(ConfigError, match="more than once: rot13"):
        chosen(["rot13", "rot13"])
    with pytest.raises(ConfigError, match="at least one"):
        chosen([])
    assert chosen(None) == TRANSFORMS
    assert chosen("rot13") == (transform_named("rot13"),)


def test_draws_are_fair_and_fixed() -> None:
    # sha256 of b'[0,"a"]' followed by eight zero bytes, its first eight bytes.
    expected = hashlib.sha256(b'[0,"a"]' + bytes(8)).digest()[:8]
    assert Draws(0, "a").bits() == int.from_bytes(expected, "big")
    draws = Draws(0, "fair")
    counts = Counter(draws.below(6) for _ in range(6000))
    assert all(abs(counts[face] - 1000) < 150 for face in range(6))
    assert all(0 < draws.unit() < 1 for _ in range(100))
    assert sorted(draws.shuffled(range(50))) == list(range(50))
    assert Draws(0, "ab", "c").bits() != Draws(0, "a", "bc").bits()
    with pytest.raises(ValueError, match="at least 1"):
        draws.below(0)
