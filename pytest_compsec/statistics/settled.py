"""When the prompts that are still unanswered can no longer change the verdict.

A completion of the table adds to improved (x) and regressed (y) what the remaining prompts allow;
n is fixed. The exact test orders samples by an evidence that strictly rises with x and falls with
y for "within the margin", and the reverse for "beyond it" (``score``), so the extreme completions
bound the evidence of all. The p-value depends on the sample through that evidence and through the
range in which the nuisance parameter is looked for (``exact``), which itself depends on x (on y
for REGRESSED). Hence:

- *Every completion is REGRESSED* when the p-value of the weakest evidence (least regressed, most
  improved), maximised over the hull of all the completions' ranges, is within REGRESSED's risk:
  each completion's own p-value has less to maximise over, and a smaller region.
- *No completion is REGRESSED (or PRESERVED)* when, for each y (each x), the strongest evidence
  that it can have is refuted: some nuisance value in its own range gives the region of that
  evidence a probability above the risk.

Both may miss a verdict that is settled by a hair; neither can call an open one settled.
"""

from __future__ import annotations

from pytest_compsec.statistics._validate import real_between, risk_of, whole_number
from pytest_compsec.statistics.counts import PairedCounts
from pytest_compsec.statistics.decision import Outcome
from pytest_compsec.statistics.exact import (
    NUISANCE_RISK,
    noninferiority_pvalue,
    nuisance_range,
    region_for,
    regression_pvalue,
)
from pytest_compsec.statistics.score import evidence
from pytest_compsec.statistics.supremum import supremum_bounds


def settled(
    counts: PairedCounts,
    *,
    remaining_safe: int,
    remaining_unsafe: int,
    remaining_unknown: int,
    margin: float,
    confidence: float,
    final_risk: float,
) -> Outcome | None:
    """The final look's outcome when every completion gives it, else None.

    remaining_safe:    unanswered prompts on which the original is known to be safe: they can
                       only become both or regressed
    remaining_unsafe:  known to be unsafe: neither or improved
    remaining_unknown: anything
    final_risk:        REGRESSED's risk at the final look (``sequential.split_risk``); PRESERVED
                       has 1 − confidence

    Never PRESERVED while a prompt remains, even where no completion could prevent it: that
    verdict is for what was measured. INCONCLUSIVE speaks of the final look alone; ask
    ``sequential.may_still_cross`` for the e-process. Raises ValueError for negative numbers, for
    no pairs at all, and for a margin, confidence or final_risk out of range.
    """
    safe = whole_number("remaining_safe", remaining_safe)
    unsafe = whole_number("remaining_unsafe", remaining_unsafe)
    unknown = whole_number("remaining_unknown", remaining_unknown)
    margin = real_between("margin", margin, -1.0, 1.0)
    risk = risk_of(confidence)
    final_risk = real_between("final_risk", final_risk, 0.0, 1.0)
    n = counts.n + safe + unsafe + unknown
    if n == counts.n:
        return _final(counts, margin, risk, final_risk)
    improved = counts.improved, counts.improved + unsafe + unknown
    regressed = counts.regressed, counts.regressed + safe + unknown
    # "Beyond the margin" is "within" seen from the other arm: roles and the margin's sign change.
    if _all_certified(n, regressed, improved[1], -margin, final_risk):
        return "REGRESSED"
    if _some_certified(n, improved, regressed[0], margin, risk):
        return None
    if _some_certified(n, regressed, improved[0], -margin, final_risk):
        return None
    return "INCONCLUSIVE"


def _final(counts: PairedCounts, margin: float, risk: float, final_risk: float) -> Outcome:
    if noninferiority_pvalue(counts, margin) <= risk:
        return "PRESERVED"
    return "REGRESSED" if regression_pvalue(counts, margin) <= final_risk else "INCONCLUSIVE"


def _all_certified(
    n: int, improved: tuple[int, int], most_regressed: int, margin: float, risk: float
) -> bool:
    """Whether all samples with these improved and at most so many regressed pairs are certified."""
    first, last = improved
    # with unknown prompts, both extremes together may exceed n: nearer than that is no completion
    most_regressed = min(most_regressed, n - first)
    strength = evidence(first, most_regressed, n, margin)
    hull = nuisance_range(first, n, margin)[0], nuisance_range(last, n, margin)[1]
    enough = risk - NUISANCE_RISK
    region = region_for(strength, n, margin, hull)
    return supremum_bounds(region, margin, hull, enough=enough).ceiling <= enough


def _some_certified(
    n: int, improved: tuple[int, int], least_regressed: int, margin: float, risk: float
) -> bool:
    """Whether a sample with these improved and at least so many regressed may be certified."""
    first, last = improved
    enough = risk - NUISANCE_RISK
    refuted: list[float] = []  # nuisance values that refute this much evidence, hence less too
    for count in range(min(last, n - least_regressed), first - 1, -1):
        low, high = nuisance_range(count, n, margin)
        if any(low <= value <= high for value in refuted):
            continue
        strength = evidence(count, least_regressed, n, margin)
        region = region_for(strength, n, margin, (low, high))
        worst = supremum_bounds(region, margin, (low, high), enough=enough)
        if worst.attained <= enough:
            return True
        refuted.append(worst.where)
    return False
