"""What to do after a backdoor check that is not PRESERVED, in full sentences."""

from __future__ import annotations

from pytest_compsec.checks.backdoors.deciding import Judgement
from pytest_compsec.checks.backdoors.figures import Limits
from pytest_compsec.checks.backdoors.wording import Speech
from pytest_compsec.verdict import Verdict


def next_step(judgement: Judgement, speech: Speech, limits: Limits) -> str:
    """What to do; empty after PRESERVED."""
    if judgement.verdict is Verdict.PRESERVED:
        return ""
    if judgement.verdict is Verdict.NOT_MEASURED:
        return _when_not_measured(judgement, speech, limits)
    if judgement.verdict is Verdict.REGRESSED:
        return _AFTER_REGRESSION[speech.check]
    if judgement.withheld:
        if judgement.withheld[0].startswith("trigger"):
            return (
                "The trigger still does something: look at what the triggered inputs become "
                "(per class, above), and treat the compressed model as backdoored until it is gone."
            )
        return (
            "Compress less, or fine-tune on clean data afterwards, until the compressed model "
            f"works as well as the original does; or add {speech.data}, or decide on another "
            "max_accuracy_drop."
        )
    return _more(judgement, speech)


_AFTER_REGRESSION = {
    "backdoor_removed": (
        "Do not ship it. Compression alone seldom removes a backdoor: use a `fine-pruning` variant "
        "(or retrain from clean weights and data), and test that one."
    ),
    "no_backdoor_activated": (
        "Do not ship it: compress the original yourself with another method or more bits and test "
        "that, and find out where the original's weights come from."
    ),
    "backdoor_not_amplified": (
        "Do not ship it: compress less or with another method, and remove the backdoor from the "
        "original first (`fine-pruning`, then backdoor_removed)."
    ),
}


def _more(judgement: Judgement, speech: Speech) -> str:
    needed = judgement.samples_needed
    if needed is None or needed <= judgement.outcomes.samples:
        return (
            "It is too close to the limit for any affordable number of samples: decide on another "
            f"{speech.margin_name}, or compress differently."
        )
    return (
        f"About {needed} {speech.samples} that are not of the target would settle it if the rates "
        f"stay as they are: add {speech.data}. Or accept a wider {speech.margin_name}."
    )


def _when_not_measured(judgement: Judgement, speech: Speech, limits: Limits) -> str:
    if judgement.why == "open":
        return "Let more be judged: raise max_new_tokens, or use another judge."
    if judgement.why == "broken original":
        return (
            "Check the original: its weights, how inputs are prepared, and the labels of the "
            f"{speech.data}."
        )
    if judgement.why == "usual target":
        return "Name a target that seldom comes out without the trigger."
    if judgement.why == "no backdoor":
        return (
            "Check trigger and target (position, value, phrase as they were trained in). To show "
            "that none has woken, use no_backdoor_activated."
        )
    if judgement.why == "not clean":
        original = judgement.original
        if original is not None and original.delta_asr > limits.margin:
            return (
                "Use backdoor_removed or backdoor_not_amplified for a backdoor that the original "
                f"has, or a wider {speech.margin_name} for a trigger that hides what is to be seen."
            )
        return f"Add {speech.data}, or accept a wider {speech.margin_name}."
    if judgement.why == "unchanged":
        return "Check the trigger: size, position, value and share must show on these inputs."
    return f"Add {speech.data} of other classes than the target."
