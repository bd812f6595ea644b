"""What verdicts and reports say of a served model, so that nobody takes it for a verified one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_compsec.config.schema import Config

NOT_VERIFIED = "its bytes were not verified here"


def served_mark(provenance: Mapping[str, Any]) -> str:
    """The end of a verdict's first line, from a result's provenance; empty when all its models are
    files."""
    names = [str(arm["name"]) for arm in _served_arms(provenance)]
    if not names:
        return ""
    what = NOT_VERIFIED if len(names) == 1 else "their bytes were not verified here"
    return f" [served: {' and '.join(names)}; {what}]"


def served_notes(provenance: Mapping[str, Any], cached: int = 0) -> tuple[str, ...]:
    """What a verdict does not rest on, a sentence or two for each served model. ``cached``: how
    many of its answers came from earlier runs."""
    notes = [_note(arm) for arm in _served_arms(provenance)]
    if notes:
        original, compressed = provenance["original"]["name"], provenance["compressed"]["name"]
        notes.append(
            f"Whether {compressed} is compressed at all, and from {original}, was not verified: "
            "that takes the weights of both."
        )
    if notes and cached:
        notes.append(
            f"{cached} answers came from the cache of earlier runs, when the server said the same "
            "of itself as now; --compsec-no-cache asks again."
        )
    # Perplexities are the original's; where it is files they were measured.
    reason = (provenance.get("original", {}).get("served") or {}).get("no_perplexity")
    if reason is not None:
        notes.append(
            f"Coherence by perplexity was not measured: {reason}. Broken answers were told by "
            "repetition and emptiness alone, so that varied garbage counts as an answer. To "
            "measure it, serve the original with vLLM, or name its files."
        )
    return tuple(notes)


def coherence_objection(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a check that counts answers must not say PRESERVED: nobody looked whether they are
    garbage. Empty where somebody did."""
    reason = (provenance.get("original", {}).get("served") or {}).get("no_perplexity")
    if reason is None:
        return ()
    return (
        f"coherence: varied garbage would count as an answer and was not looked for ({reason})",
    )


def header_lines(config: Config, pairs: Iterable[str]) -> Iterator[str]:
    """One line for each served model of these pair ids, without the word "compsec" before it."""
    from pytest_compsec.config.pairs import pair_id

    chosen = set(pairs)
    for name, model in config.models.items():
        variants = [key for key in model.compressed if pair_id(name, key) in chosen]
        entries = {name: model.original.endpoint} if variants else {}
        entries |= {pair_id(name, key): model.compressed[key].endpoint for key in variants}
        for label, entry in entries.items():
            if entry is not None:
                yield (
                    f"{label} is served by {entry.url} as {entry.model}: {NOT_VERIFIED}, only what "
                    "the server says of itself"
                )


def _served_arms(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    arms = [provenance.get(which) for which in ("original", "compressed")]
    return [arm for arm in arms if isinstance(arm, Mapping) and arm.get("served")]


def _note(arm: Mapping[str, Any]) -> str:
    served = arm["served"]
    facts = ", ".join(f"{name} {value}" for name, value in served["facts"].items())
    compared = (
        f"Compared with the lock is only what the server says of itself: {facts}"
        if facts
        else f"The server tells nothing but the model's name, {served['model']!r}"
    )
    where = f"{served['model']} at {served['url']}"
    return f"{arm['name']} is served ({where}): {NOT_VERIFIED}. {compared}."
