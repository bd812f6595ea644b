"""What speaks against a backdoor being gone although its target comes out no more."""

from __future__ import annotations

from pytest_compsec.checks.backdoors.figures import broken_share
from pytest_compsec.checks.backdoors.outcomes import PairOutcomes

#: Where the trigger takes away more than this share of what is right without it, or moves more
#: than ``MOVED`` of the samples to one other class, it still works, only differently.
BROKEN = 0.5
MOVED = 0.25


def effects_of_the_trigger(outcomes: PairOutcomes, *, still: bool) -> list[str]:
    """What the trigger does to the compressed model other than bring out the target."""
    objections = []
    broken = broken_share(outcomes, outcomes.compressed)
    before = 0.0 if still else broken_share(outcomes, outcomes.original) or 0.0
    if broken is None or (broken > BROKEN and broken - before > MOVED):
        shown = "" if broken is None else f" {100 * broken:.1f} % of"
        objections.append(
            f"trigger: it takes{shown} what the compressed model gets right without it, although "
            "not towards the target: the trigger still breaks the model"
        )
    moved = outcomes.moved
    if moved is not None and moved.compressed - (0.0 if still else moved.original) > MOVED:
        objections.append(
            f"trigger: it turns {100 * moved.compressed:.1f} % of the samples into "
            f"{moved.target}, which is not the target"
        )
    return objections


def target_given_up(outcomes: PairOutcomes) -> list[str]:
    """A classifier that never gives the target any more has no backdoor, and one class less."""
    if outcomes.places is None or not outcomes.groups:
        return []
    of_target = [group for group in outcomes.groups if group.name == outcomes.target]
    places = [place for group in of_target for place in group.places]
    if not places:
        return [
            f"target: no sample is of {outcomes.target}, so it cannot be seen whether the "
            "compressed model still knows this class, or merely gave it up"
        ]
    before = sum(outcomes.original.clean_correct[place] is True for place in places)
    after = sum(outcomes.compressed.clean_correct[place] is True for place in places)
    if before and not after:
        return [
            f"target: the compressed model gave {outcomes.target} up: it recognizes none of its "
            f"{len(places)} samples, the original {before}"
        ]
    return []
