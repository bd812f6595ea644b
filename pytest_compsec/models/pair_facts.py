"""What a suite remembers of arms that were loaded or timed: weights, speed, perplexities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.models.arm import Arm, digest_of

if TYPE_CHECKING:
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.weights import WeightReport
    from pytest_compsec.suite import Suite

WEIGHTS_FACT = "weights"
RATE_FACT = "seconds per answer"
#: Fewer answers than a batch holds say little about speed.
ENOUGH_TO_TIME = 32
#: JSON has no infinity.
MOST_PERPLEXITY = 1e300

Load = Callable[[Arm], "LoadedModel"]


def perplexities_of(
    suite: Suite, arm: Arm, prompts: Sequence[str], answers: Sequence[str], load: Load
) -> list[float | None]:
    """Perplexity of each answer under ``arm``, from the facts of earlier runs what is there; None
    where there is too little text. A server that does not tell gives None throughout, and the
    suite remembers its reason (:func:`why_no_perplexity`), so that every result says it."""
    from pytest_compsec.models.served.likelihood import NoLikelihoodError

    names = [
        f"perplexity {digest_of([prompt, answer])}"
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    known: dict[str, Any] = {name: suite.recall(arm, name) for name in names}
    missing = [place for place, name in enumerate(names) if known[name] is None]
    if missing:
        try:
            found = load(arm).perplexities(
                [prompts[place] for place in missing], [answers[place] for place in missing]
            )
        except NoLikelihoodError as error:
            suite.measured[_no_likelihood(arm)] = str(error)
            return [None] * len(names)
        for place, perplexity in zip(missing, found, strict=True):
            # A list, so that None is known too.
            known[names[place]] = [perplexity and min(perplexity, MOST_PERPLEXITY)]
            suite.remember(arm, names[place], known[names[place]])
    return [known[name][0] for name in names]


def why_no_perplexity(suite: Suite, arm: Arm) -> str | None:
    """Why a server gave no perplexities; None where it was not asked, or did."""
    reason: str | None = suite.measured.get(_no_likelihood(arm))
    return reason


def _no_likelihood(arm: Arm) -> tuple[str, str]:
    return "no perplexities", arm.weights_digest


def seconds_per_prompt(suite: Suite, original: Arm, compressed: Arm) -> float | None:
    """Time of both arms for one prompt, loading not counted; None before both were timed."""
    rates = [suite.recall(arm, RATE_FACT) for arm in (original, compressed)]
    known = [float(rate) for rate in rates if rate is not None]
    return sum(known) if len(known) == len(rates) else None


def seconds_ratio(suite: Suite, original: Arm, compressed: Arm) -> float | None:
    """Time of the compressed model for an answer as a multiple of the original's, loading not
    counted; None before both were timed."""
    first, second = (suite.recall(arm, RATE_FACT) for arm in (original, compressed))
    return second / first if first and second else None


def require_compressed(suite: Suite, original: Arm, compressed: Arm, load: Load) -> None:
    """Raise NotCompressedError when the variant shows no compression against its original.

    A derived variant is checked against its recipe when it is loaded; here another source is
    compared with the original by what both loaded modules really hold. Where one of them is served
    there is nothing to compare, which every result says; two served ones must at least be two.
    """
    from pytest_compsec.models.served.distinct import require_two_models

    require_two_models(original, compressed)
    if compressed.recipe is not None or any(arm.served for arm in (original, compressed)):
        return
    from pytest_compsec.models.weights import check_is_compressed

    check_is_compressed(_weights(suite, original, load), _weights(suite, compressed, load))


def _weights(suite: Suite, arm: Arm, load: Load) -> WeightReport:
    from pytest_compsec.models.weights import WeightReport

    known = suite.recall(arm, WEIGHTS_FACT)
    return WeightReport.from_json(known) if known is not None else load(arm).weights
