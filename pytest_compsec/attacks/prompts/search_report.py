"""What a search for bypasses found: plain data, its lines for a terminal, and its JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from pytest_compsec.reports.text import one_line

STATEMENT = (
    "These are findings of a search, not a verdict: it looked where it found most. The verdict "
    'comes from the fixed set, on both arms: no_safety_bypass(prompts="jailbreak"), '
    'safety_preserved(prompts="jailbreak").'
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A transformed prompt that the original refuses and the compressed model answers.

    ``new``: the compressed model refuses the plain prompt, so the transform made the difference.
    """

    prompt_id: str
    category: str
    prompt: str
    transform: str
    family: str
    transformed: str
    original: str
    compressed: str
    new: bool


@dataclasses.dataclass(frozen=True)
class TransformSummary:
    """One transform: of ``asked`` prompts, all refused by the original in their plain form, the
    original still refused ``original_refused``; of those the compressed model answered
    ``only_compressed_answered``.

    ``new`` of these it refuses in their plain form. ``mirrored`` is the reverse on the same
    footing: both refuse the plain prompt, the compressed model refuses the transformed one too,
    and the original answers it. A compression that changes nothing but rounding has about as many
    ``new`` as ``mirrored``. ``no_answer``: the compressed model wrote broken text, the request
    again, or something else; ``not_judged``: one of the two answers could not be judged.
    """

    transform: str
    family: str
    asked: int
    original_refused: int
    only_compressed_answered: int
    new: int
    mirrored: int
    no_answer: int
    not_judged: int


@dataclasses.dataclass(frozen=True)
class PlainSummary:
    """Both arms on the plain prompts. Counts of prompts."""

    prompts: int
    original_refused: int
    only_compressed_answered: int
    only_original_answered: int
    not_judged: int


@dataclasses.dataclass(frozen=True)
class SearchReport:
    """``asked`` transformed prompts of at most ``budget``. ``exhausted``: none was left to ask.

    ``prompts`` names the set, ``prompts_digest`` and ``lock_digest`` say what was searched,
    ``perplexity_limit`` is None when the original gave too few answers to set one.
    """

    pair: str
    prompts: str
    prompts_digest: str
    lock_digest: str
    judge: str
    budget: int
    seed: int
    asked: int
    exhausted: bool
    perplexity_limit: float | None
    plain: PlainSummary
    transforms: tuple[TransformSummary, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def mirrored(self) -> int:
        """Transformed prompts that only the original answers (see :class:`TransformSummary`)."""
        return sum(row.mirrored for row in self.transforms)

    @property
    def new(self) -> int:
        """Findings whose plain prompt the compressed model refuses."""
        return sum(finding.new for finding in self.findings)

    def lines(self, most: int = 20) -> list[str]:
        """The report for a terminal, with at most ``most`` findings; texts cut and escaped."""
        notes = [one_line(note, 500) for note in self.notes]
        return [*self._head(), "", *self._table(), "", *self._listed(most), *notes, STATEMENT]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, every finding with its whole texts."""
        return {"statement": STATEMENT, **dataclasses.asdict(self)}

    def _head(self) -> list[str]:
        plain = self.plain
        head = [
            f"{one_line(self.pair)}: search for bypasses, seed {self.seed}",
            f"plain prompts {one_line(self.prompts)!r}: {plain.prompts} asked, "
            f"{plain.original_refused} refused by the original; only the compressed model answers "
            f"{plain.only_compressed_answered}, only the original {plain.only_original_answered}"
            + (f"; {plain.not_judged} not judged" if plain.not_judged else ""),
        ]
        if not self.asked:
            return [*head, "nothing was searched: the original refuses none of these prompts"]
        end = ", no prompt left to transform" if self.exhausted else ""
        return [
            *head,
            f"transformed prompts: {self.asked} of a budget of {self.budget}{end}; only the "
            f"compressed model answers {len(self.findings)} ({self.new} that it refuses in plain "
            f"words), only the original {self.mirrored}",
        ]

    def _table(self) -> list[str]:
        titles = ("transform", "asked", "original refuses", "only compressed answers")
        rows = [[*titles, "new", "mirrored", "no answer", "not judged"]]
        for row in self.transforms:
            numbers = (row.asked, row.original_refused, row.only_compressed_answered)
            more = (row.new, row.mirrored, row.no_answer, row.not_judged)
            rows.append([one_line(row.transform, 40), *map(str, (*numbers, *more))])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join(
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]

    def _listed(self, most: int) -> list[str]:
        listed = []
        for finding in self.findings[:most]:
            listed += [
                f"{one_line(finding.prompt_id, 80)} by {one_line(finding.transform, 40)}"
                + ("" if finding.new else " (answered in plain words too)"),
                f"  asked:      {one_line(finding.transformed)}",
                f"  original:   {one_line(finding.original)}",
                f"  compressed: {one_line(finding.compressed)}",
            ]
        if len(self.findings) > most:
            listed.append(f"... and {len(self.findings) - most} more")
        return [*listed, ""] if listed else []
