"""Counting prompts that one arm refuses and the other answers, and deciding on their share.

Both checks that do this condition on a model having refused, so that only losses can occur. Where
answers merely churn (rounding, batches), such a share is above zero for two equally safe models;
hence the mirror image, with the arms swapped, and the excess of one over the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.asking import Asked, ask_until_settled
from pytest_compsec.checks.circumstances import circumstances_of
from pytest_compsec.checks.next_steps import next_step
from pytest_compsec.checks.refusals import Reader
from pytest_compsec.checks.runtime_note import runtime_notes
from pytest_compsec.checks.safety_preserved import WORDING
from pytest_compsec.checks.selection import PairedArguments
from pytest_compsec.checks.signal import refusal_signal
from pytest_compsec.checks.texts import TextExamination
from pytest_compsec.checks.wording import NOT_SEEN, Context, notes, percent, points
from pytest_compsec.findings_scan import BypassFinding, LossShare
from pytest_compsec.models.served.wording import served_mark, served_notes
from pytest_compsec.statistics.losses import loss_bounds
from pytest_compsec.verdict import CheckResult, Evidence, Measurement, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.edge_cases_preserved import EdgeArguments
    from pytest_compsec.checks.no_safety_bypass import BypassArguments
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.prompts import PromptSet


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """Both arms' answers to every prompt of a set, judged and examined."""

    prompt_set: PromptSet
    asked: Asked
    reader: Reader
    texts: TextExamination
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[Evidence, ...]:
        return self.asked.evidence


def scan_prompts(
    pair: ModelPair, *, check: str, prompts: str, limit: float, confidence: float
) -> Scan:
    """Ask every prompt, in the order and the parts of the paired checks, which therefore share the
    answers. A scanner never stops early: its list would be incomplete. Files are checked once more
    at the end."""
    prompt_set = pair.prompt_set(prompts)
    reader = Reader(pair.judge, refusing_is_safe=True)
    texts = TextExamination(pair, refusing_is_safe=True)
    paired = PairedArguments(
        check=check,
        margin_name="limit",
        margin=limit,
        prompts=prompts,
        confidence=confidence,
        min_original_rate=0.0,
    )
    circumstances = circumstances_of(pair, prompt_set, paired, reader, True)
    # A calibration corrects rates; which prompts are on the list remains as judged.
    circumstances = dataclasses.replace(circumstances, sequential=False, correct=None)
    asked = ask_until_settled(pair, prompt_set, circumstances, reader.to_evidence, texts.examine)
    agreement = runtime_notes(pair, prompt_set, reader)
    pair.recheck()
    return Scan(prompt_set, asked, reader, texts, (*reader.notes, *agreement))


def loss_share(lost: int, total: int, confidence: float) -> LossShare:
    """The share with its exact bounds, each one-sided at ``confidence``."""
    lower, upper = loss_bounds(lost, total, confidence)
    return LossShare(lost, total, lower, upper)


def unjudged(rows: Sequence[Evidence]) -> int:
    """Prompts of which one answer or both could not be judged."""
    return sum(row.original_safe is None or row.compressed_safe is None for row in rows)


def bypass_result(
    pair: ModelPair,
    arguments: BypassArguments | EdgeArguments,
    scan: Scan,
    verdict: Verdict,
    what: str,
    *,
    test: str,
    rows: Sequence[Evidence],
    finding: BypassFinding | None,
    measurement: Measurement | None,
    withheld: tuple[str, ...] = (),
    after: str = "",
    unmeasured: int = 0,
) -> CheckResult:
    """The result in words and numbers: ``what`` was found, on these ``rows``, and what to do
    ``after`` (empty: as after the paired checks)."""
    asked = scan.asked
    # A sentence about the pair, or a reason why there is none.
    head = f"{pair.id}:" if verdict is Verdict.NOT_MEASURED else pair.id
    result = CheckResult(
        check=arguments.check,
        pair=pair.id,
        test=test,
        verdict=verdict,
        summary=f"{verdict}: {head} {what}",
        next_step="",
        limit=arguments.margin,
        confidence=arguments.confidence,
        arguments=arguments.to_json(),
        measurement=measurement,
        evidence=tuple(rows),
        unmeasured=unmeasured,
        answers=asked.answers,
        answers_cached=asked.cached,
        provenance=pair.provenance(scan.prompt_set),
        withheld=withheld,
        noise_floor=asked.judgement.noise_floor,
        texts=scan.texts.finding(rows),
        signal=refusal_signal(scan.reader, rows),
        bypasses=finding,
    )
    context = Context(wording=WORDING, min_original_rate=0.0, config=pair.config_name)
    return dataclasses.replace(
        result,
        notes=(
            # Without the measurement: what it says there is about another estimand than this one.
            *notes(dataclasses.replace(result, measurement=None), context),
            *_calibration_note(pair),
            *scan.notes,
            *served_notes(result.provenance, asked.cached),
        ),
        summary=result.summary + served_mark(result.provenance),
        next_step=after or next_step(result, context),
    )


def mirrored_note(
    finding: BypassFinding, arguments: BypassArguments | EdgeArguments, of_what: str
) -> str:
    """What happened the other way round, and what remains when that is taken off."""
    mirror = finding.mirrored
    text = (
        f"Mirrored: of the {mirror.total} {of_what} that the compressed model refuses, the "
        f"original answers {mirror.lost} ({percent(mirror.rate)})."
    )
    if finding.excess is None or finding.excess_lower is None or finding.excess_upper is None:
        return text
    level = 100 * (1 - 2 * (1 - arguments.confidence))
    return (
        f"{text} Excess over that: {points(finding.excess)} points ({level:.3g} % interval "
        f"{points(finding.excess_lower)} to {points(finding.excess_upper)})."
    )


def unseen_note(
    finding: BypassFinding, arguments: BypassArguments | EdgeArguments, prompts: str
) -> str:
    """What a PRESERVED could have missed."""
    risk = 100 * (1 - arguments.confidence)
    return (
        f"{NOT_SEEN} a loss of up to {percent(finding.tested.upper)} of {prompts}. A true share "
        f"beyond {percent(arguments.margin)} comes out PRESERVED in at most {risk:.3g} % of such "
        "runs, if the prompts are independent."
    )


def more_prompts(pair: ModelPair) -> str:
    """How to add prompts."""
    return (
        f"List their file under `prompts:` in {pair.config_name}, name it with prompts=..., and "
        "run `compsec pin` and the test again."
    )


def prompts_text(count: int, prompts: Any) -> str:
    """``864 harmful prompts``; a set of the user's own by its name."""
    usual = prompts == WORDING.prompts
    return f"{count} {prompts} prompts" if usual else f"{count} prompts of {prompts!r}"


def _calibration_note(pair: ModelPair) -> tuple[str, ...]:
    if not pair.has_calibration:
        return ()
    return ("The judge's calibration corrects rates, not lists: this verdict is as judged.",)
