"""Two sides, part by part: what differs, in short texts, and why that matters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_compsec.checks.template.probes import CONVERSATIONS
from pytest_compsec.checks.template.side import Side, probe_texts
from pytest_compsec.checks.template.template_text import first_lines, same_program
from pytest_compsec.findings_estimates import Difference

#: The parts by name, each with why a difference in it matters.
PARTS: Mapping[str, str] = {
    "chat_template": "the template is code that writes what the model reads, the system prompt and "
    "the marks of a turn among it",
    "rendering": "the model reads another text for the same conversation",
    "special_tokens": "turns, beginning and end of an answer are marked by other tokens",
    "added_tokens": "text of a user may become another token, or a token that ends a turn",
    "vocabulary": "the same number is another word",
    "tokenizer": "texts that no probe holds may be cut or changed otherwise",
    "token_ids": "the model reads other numbers for the same text",
    "added_by_tokenizer": "plain texts begin or end with other tokens",
    "decoding": "the same numbers become another text, which is what a judge reads",
    "generation_config": "whoever asks without settings of his own gets answers made otherwise",
    "config_tokens": "a text begins, ends or is filled up with another token",
    "settings": "prompts in a batch are filled up, or cut, at the other end",
}
#: Of a long list of differing entries, how many are shown.
_SHOWN = 4
_LONGEST = 160


def differences_of(
    original: Side, compressed: Side, options: Mapping[str, Any]
) -> tuple[Difference, ...]:
    """Every part in which the two are not alike; ``options`` are the arm's template arguments."""
    return (
        *_templates(original, compressed),
        *_renderings(original, compressed, options),
        *_named("special_tokens", original.special, compressed.special),
        *_added(original, compressed),
        *_table("vocabulary", original.vocabulary, compressed.vocabulary),
        *_descriptions(original, compressed),
        *_texts(original, compressed, options),
        *_named("generation_config", original.generation, compressed.generation),
        *_named("config_tokens", original.config_tokens, compressed.config_tokens),
        *_named("settings", original.settings, compressed.settings),
    )


def _difference(part: str, original: object, compressed: object, more: str = "") -> Difference:
    name = part.partition(".")[0]
    why = f"{PARTS[name]}{more}"
    return Difference(part, _short(original), _short(compressed), why)


def _short(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _templates(original: Side, compressed: Side) -> Iterator[Difference]:
    for name in dict.fromkeys([*original.templates, *compressed.templates]):
        before, after = original.templates.get(name), compressed.templates.get(name)
        if before == after:
            continue
        part = "chat_template" if name == "default" else f"chat_template.{name}"
        if before is None or after is None:
            yield _difference(part, _lines(before), _lines(after))
        elif not same_program(before, after):
            yield _difference(part, *first_lines(before, after))


def _lines(text: str | None) -> str | None:
    return None if text is None else f"{len(text.splitlines())} lines: {text.strip()}"


def _renderings(
    original: Side, compressed: Side, options: Mapping[str, Any]
) -> Iterator[Difference]:
    differing = []
    for name, messages, begun in CONVERSATIONS:
        before = original.rendered(messages, begun, options)
        after = compressed.rendered(messages, begun, options)
        if before != after:
            differing.append((name, before, after))
    if differing:
        name, before, after = differing[0]
        count = f" ({len(differing)} of {len(CONVERSATIONS)} conversations; shown: {name})"
        yield _difference("rendering", *_around(before, after), count)


def _around(before: str, after: str) -> tuple[str, str]:
    """Both texts from a little before the first place where they part."""
    at = next(
        (place for place, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    start = max(0, at - 20)
    lead = "…" if start else ""
    return f"{lead}{before[start:]!r}", f"{lead}{after[start:]!r}"


def _named(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    """One difference for each entry that is not the same."""
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield _difference(f"{part}.{name}", before.get(name), after.get(name))


def _table(part: str, before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Iterator[Difference]:
    """One difference for all entries of a long table."""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if not keys:
        return
    shown = keys[:_SHOWN]
    more = f" ({len(keys)} entries differ; {len(before)} in the original, {len(after)} here)"
    yield _difference(part, _entries(before, shown), _entries(after, shown), more)


def _added(original: Side, compressed: Side) -> Iterator[Difference]:
    """Which tokens were added; where they are the same, how each is found in a text."""
    if original.added != compressed.added or original.from_gguf != compressed.from_gguf:
        yield from _table("added_tokens", original.added, compressed.added)
    else:
        yield from _table("added_tokens", original.matching, compressed.matching)


def _entries(table: Mapping[Any, Any], keys: Sequence[Any]) -> str | None:
    found = {key: table[key] for key in keys if key in table}
    return f"{found}" if found else None


def _descriptions(original: Side, compressed: Side) -> Iterator[Difference]:
    """What the tokenizers are made of: a rule for one word shows in no probe that lacks it."""
    if original.merges != compressed.merges:
        before, after = original.merges or (), compressed.merges or ()
        known = set(before) & set(after)
        lost = [" + ".join(one) for one in before if one not in known][:_SHOWN]
        new = [" + ".join(one) for one in after if one not in known][:_SHOWN]
        texts = (
            f"{len(before)} merges{', among them ' + ', '.join(lost) if lost else ''}",
            f"{len(after)} merges{', among them ' + ', '.join(new) if new else ''}",
        )
        order = "" if lost or new else " (the same merges in another order)"
        yield _difference("tokenizer.merges", *texts, order)
    if original.from_gguf != compressed.from_gguf:
        return  # One description is made up from the file's; only what they do can be compared.
    for name in dict.fromkeys([*original.sections, *compressed.sections]):
        before_text, after_text = original.sections.get(name), compressed.sections.get(name)
        if before_text != after_text:
            both = (
                _around(before_text, after_text)
                if before_text is not None and after_text is not None
                else (before_text, after_text)
            )
            yield _difference(f"tokenizer.{name}", *both)


def _texts(original: Side, compressed: Side, options: Mapping[str, Any]) -> Iterator[Difference]:
    """What both make of the same texts: the probes, and the rendered conversations."""
    rendered = [original.rendered(messages, begun, options) for _, messages, begun in CONVERSATIONS]
    texts = [*probe_texts(original, compressed), *dict.fromkeys(rendered)]
    for part, numbers in (
        ("token_ids", lambda side, text: side.ids(text)),
        ("added_by_tokenizer", _ends),
        ("decoding", lambda side, text: side.decoded(original.ids(text))),
    ):
        differing = [
            (text, found)
            for text in texts
            if len(set(found := (numbers(original, text), numbers(compressed, text)))) > 1
        ]
        if differing:
            text, (before, after) = differing[0]
            count = f" ({len(differing)} of {len(texts)} texts; shown: {_short(repr(text))})"
            yield _difference(part, before, after, count)


def _ends(side: Side, text: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The tokens that the tokenizer puts before and after a plain text; None where it does
    otherwise than to put some there (another runtime's tokens, say)."""
    whole, own = side.ids_with_added(text), side.plain_ids(text)
    extra = len(whole) - len(own)
    for before in range(extra + 1):
        if whole[before : before + len(own)] == own:
            return whole[:before], whole[before + len(own) :]
    return None
