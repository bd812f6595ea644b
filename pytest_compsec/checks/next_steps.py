"""What the reader of a verdict does now: one concrete step, with its size and its time."""

from __future__ import annotations

from pytest_compsec.checks.wording import Context
from pytest_compsec.verdict import CheckResult, Verdict


def next_step(result: CheckResult, context: Context) -> str:
    """One or two sentences; empty for PRESERVED."""
    if result.verdict is Verdict.PRESERVED:
        return ""
    if result.verdict is Verdict.REGRESSED:
        return _after_regression(result)
    if result.verdict is Verdict.NOT_MEASURED:
        return _after_nothing(result, context)
    if result.withheld:
        return _after_objection(result, context)
    return _after_too_few(result, context)


def _after_regression(result: CheckResult) -> str:
    texts = result.texts
    if texts is not None and texts.lost and texts.lost_broken >= texts.lost / 2:
        return (
            "Do not ship this variant: it no longer answers in sentences. Keep more bits or prune "
            "less; repairing refusals would not help. Then run again."
        )
    return (
        "Do not ship this variant as it is. Read the prompts above; then keep more bits, prune "
        "less, or repair the refusals, and run again."
    )


def _after_nothing(result: CheckResult, context: Context) -> str:
    measured = result.measurement
    if measured is not None and measured.original_rate < context.min_original_rate:
        return (
            "Test an original that is safe on these prompts, or choose prompts on which it is; "
            "lower min_original_rate only if you know why."
        )
    if any("reasoning" in row.note for row in result.evidence):
        return (
            "Answers were cut inside a reasoning block: raise defaults.max_new_tokens in "
            f"{context.config}, or switch reasoning off with chat_template_kwargs; then run "
            "`compsec pin` and the test again."
        )
    return (
        "The judge gave no outcome for some answers: read them above, and change the judge's "
        f"template or the judge in {context.config}; then run `compsec pin` and the test again."
    )


def _after_objection(result: CheckResult, context: Context) -> str:
    """What helps depends on what withheld the outcome."""
    first = result.withheld[0].split(":", 1)[0]
    steps = {
        "clustered": "Add prompts in more categories: more of the same categories tell little.",
        "changed, not preserved": "Read the flipped prompts; if they are acceptable, say how many "
        "may flip with max_flips=.",
        "judge": "Label more answers: run with --compsec-export-labels=labels.csv, fill in the "
        "column `refused`, then `compsec calibrate labels.csv` and `compsec pin`.",
        "coherence": "Serve the original with vLLM, which tells how likely a text is, or name its "
        "files as 'source' in compsec.yaml.",
        "per_category": "Add prompts to the categories named, or leave per_category out.",
        "noise floor": "Use a dtype with less rounding (float32), or more prompts, so that the "
        "loss stands out from the noise.",
    }
    step = steps.get(first, "See above for what withholds the verdict.")
    if first in ("clustered", "per_category", "noise floor"):
        step += " " + _how(result, context.config)
    return step


def familywise_step(result: CheckResult) -> str:
    """After Holm withheld PRESERVED."""
    return (
        "Add prompts, or test fewer variants for one decision, or leave --compsec-familywise out "
        "if each variant is a decision of its own. " + _how(result, "compsec.yaml")
    )


def _after_too_few(result: CheckResult, context: Context) -> str:
    measured = result.measurement
    needed = context.pairs_needed
    name = context.wording.margin_name
    if needed is None or measured is None or needed <= measured.n:
        return (
            "The degradation is too close to the limit for any affordable number of prompts: "
            f"decide on another {name}, or compress less."
        )
    return (
        f"About {needed} prompts would settle it if the rates stay as they are"
        f"{minutes(needed, context)}: add prompts of your own. "
        f"{_how(result, context.config)} Or accept a wider {name}."
    )


def minutes(prompts: int, context: Context) -> str:
    """``, about 3 minutes at this run's pace``; empty where nothing was timed."""
    if context.seconds_per_prompt is None:
        return ""
    needed = prompts * context.seconds_per_prompt / 60
    shown = "less than a minute" if needed < 1 else f"about {needed:.0f} min"
    return f", {shown} for both models at the pace measured here"


def _how(result: CheckResult, config: str) -> str:
    test = f' "{result.test}"' if result.test else ""
    return (
        f"List their file under `prompts:` in {config}, name it with prompts=..., and run "
        f"`compsec pin` and `pytest{test}`."
    )
