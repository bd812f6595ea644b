"""``lm_eval_preserved``: as right as the original on tasks of lm-evaluation-harness.

The harness asks and scores; what it says of each document is paired here. For a metric that is 0 or
1 the exact paired test decides, for another one in [0, 1] the betting bound of the mean difference
(see :mod:`.harness.deciding`). Its own comparison of two means with standard errors is never used.

Several tasks are several claims, and all must hold: PRESERVED asks it of each at ``confidence``
(intersection-union), REGRESSED of one of them at their shared risk (Bonferroni). A group of the
harness is one claim, about all its documents together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.arguments import require_confidence, require_names, require_share
from pytest_compsec.checks.estimates import estimates_result
from pytest_compsec.checks.plain_result import plain_result
from pytest_compsec.checks.selection import SampledArguments
from pytest_compsec.errors import MeasurementError
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.harness.deciding import Decided
    from pytest_compsec.checks.harness.measuring import Asked
    from pytest_compsec.models.pair import ModelPair

_AFTER_REGRESSION = (
    "Look at the documents named above in the task's data; keep more layers in full precision, or "
    "decide on another max_degradation."
)
_AFTER_NOTHING = (
    "Nothing was compared. Put right what is named above, or leave the task out of tasks=[...]."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HarnessArguments(SampledArguments):
    """Validated arguments of ``lm_eval_preserved``; ``margin`` is ``max_degradation``."""

    tasks: tuple[str, ...]
    metric: str | None = None
    limit: int | float | None = None
    include_path: str | None = None

    @property
    def margin_name(self) -> str:
        return "max_degradation"


def lm_eval_preserved_arguments(
    *,
    tasks: str | Sequence[str] = (),
    metric: str | None = None,
    max_degradation: float = 0.02,
    limit: int | float | None = None,
    include_path: str | None = None,
    confidence: float = 0.95,
    models: str | Sequence[str] | None = None,
    variants: str | Sequence[str] | None = None,
) -> HarnessArguments:
    """Validate the marker's arguments. Raises ValueError in plain words.

    ``tasks`` are names of tasks or groups, registered in the harness or described by a YAML file
    under ``include_path``, a directory relative to ``compsec.yaml`` whose files are all pinned
    under ``data``. ``metric`` is one of the task's, with its filter where it has several
    (``"exact_match,strict-match"``); None: the first one with a number for each document, of which
    higher is better. ``max_degradation`` is the share that the metric may lose; ``limit`` asks the
    first documents of each task only (a number, or a share of them); ``models`` and ``variants``
    choose pairs (None: all).
    """
    names = () if isinstance(tasks, Sequence) and not tasks else require_names("tasks", tasks)
    if not names or not all(name.strip() for name in names):
        raise ValueError(
            f"tasks={tasks!r} must name one task of lm-evaluation-harness or a list of them, such "
            'as tasks=["arc_easy"]'
        )
    if len(set(names)) != len(names):
        raise ValueError(f"tasks={tasks!r} names a task twice")
    return HarnessArguments(
        check="lm_eval_preserved",
        margin=require_share("max_degradation", max_degradation),
        confidence=require_confidence(confidence),
        models=require_names("models", models),
        variants=require_names("variants", variants),
        tasks=names,
        metric=_optional_text("metric", metric, "of a metric, such as 'acc'"),
        limit=_limit(limit),
        include_path=_optional_text("include_path", include_path, "of a directory"),
    )


def _optional_text(name: str, value: object, what: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}={value!r} must be the name {what}")
    return value


def _limit(value: object) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise ValueError(
        f"limit={value!r} must be a whole number of documents, at least 1, or a share of them "
        "between 0 and 1"
    )


def check_lm_eval_preserved(pair: ModelPair, *, test: str = "", **arguments: Any) -> CheckResult:
    """Run the tasks on both models and decide. ``arguments`` are those of the marker."""
    return measure_lm_eval(pair, lm_eval_preserved_arguments(**arguments), test=test)


def measure_lm_eval(pair: ModelPair, arguments: HarnessArguments, *, test: str = "") -> CheckResult:
    """As :func:`check_lm_eval_preserved`, with arguments that are already validated.

    NOT_MEASURED when the harness does not know a task or cannot open it, when files under
    ``include_path`` are not pinned, when no metric can be paired, and when guessing would be within
    the margin. Raises MissingExtraError where the harness is not installed.
    """
    from pytest_compsec.checks.harness.measuring import ask_both

    asked_for = (arguments.tasks, arguments.limit, arguments.include_path)
    try:
        asked = pair.once(
            ("lm_eval", *asked_for),
            lambda: ask_both(pair, *asked_for, metric=arguments.metric),
        )
        decided = _decided(asked, arguments)
    except MeasurementError as error:
        return plain_result(
            pair, arguments, test, Verdict.NOT_MEASURED, str(error), after=_AFTER_NOTHING
        )
    finally:
        pair.recheck()
    return _result(pair, arguments, test, asked, decided)


def _decided(asked: Asked, arguments: HarnessArguments) -> list[Decided]:
    from pytest_compsec.checks.harness.deciding import decide_task

    scores = [(one.name, one.scores(arguments.metric, asked.figures)) for one in asked.tasks]
    return [
        decide_task(
            name,
            found,
            margin=arguments.margin,
            confidence=arguments.confidence,
            claims=len(scores),
        )
        for name, found in scores
    ]


def _result(
    pair: ModelPair,
    arguments: HarnessArguments,
    test: str,
    asked: Asked,
    decided: Sequence[Decided],
) -> CheckResult:
    estimates = [one.estimate for one in decided]
    verdicts = {one.verdict for one in estimates}
    settle = [one.settle for one in decided if one.settle]
    after = ""
    if Verdict.REGRESSED in verdicts:
        after = _AFTER_REGRESSION
    elif Verdict.NOT_MEASURED in verdicts:
        after = "Choose a task at which the original is better than by chance."
    elif settle:
        raised = " Raise or remove limit." if arguments.limit is not None else ""
        after = f"{'; '.join(settle)}.{raised}"
    return estimates_result(
        pair,
        arguments,
        test,
        estimates,
        missing=[one.missing for one in decided if one.missing is not None],
        after=after,
        notes=[
            *(one.note for one in decided),
            *(note for task in asked.tasks for note in task.notes()),
        ],
        provenance={
            **pair.provenance_with(*asked.files),
            "lm_eval": asked.provenance(arguments.limit, arguments.include_path),
        },
    )
