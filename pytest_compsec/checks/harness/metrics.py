"""Which metric of a task is compared, and both models' scores under it.

Only a metric with a number for each document can be paired: accuracies, exact match, F1 of one
answer. A figure of a whole text or corpus (perplexity, BLEU, a correlation) has none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from pytest_compsec.checks.harness.samples import RowPair
from pytest_compsec.errors import MeasurementError

#: Of the harness's own metrics, those that are 0 or 1 by definition, whatever their type.
BINARY_METRICS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"})
#: Those of which guessing among the choices has a known share.
CHOICE_METRICS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info"})
#: Aggregations of likelihoods over a whole corpus.
_LIKELIHOODS = frozenset({"perplexity", "weighted_perplexity", "bits_per_byte"})
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class MetricFacts:
    """What a task says of a metric: ``higher_is_better`` (None: it does not say), the name of its
    ``aggregation`` in the harness (None: a function of the task's own)."""

    name: str
    higher_is_better: bool | None
    aggregation: str | None


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """One task as the harness opened it. ``documents`` it has in all; ``data`` says where they
    come from ("pinned", "hub", "code")."""

    name: str
    version: str
    output_type: str
    metrics: tuple[MetricFacts, ...]
    num_fewshot: int
    documents: int
    data: str
    dataset_path: str | None = None
    dataset_name: str | None = None
    revision: str | None = None


@dataclasses.dataclass(frozen=True)
class PairedScores:
    """Both models' scores in [0, 1] on the same documents. ``binary``: nothing but 0 and 1 is
    possible; ``chance`` is the share that guessing gets right (0 where that is not known)."""

    metric: str
    filter: str
    higher_is_better: bool
    binary: bool
    original: tuple[float, ...]
    compressed: tuple[float, ...]
    documents: tuple[str, ...]
    chance: float = 0.0

    @property
    def label(self) -> str:
        """``acc``, or ``exact_match,strict-match`` where the task has a filter of its own."""
        return self.metric if self.filter == "none" else f"{self.metric},{self.filter}"


def chosen_metrics(asked: str | None, tasks: Sequence[TaskFacts], name: str) -> tuple[str, ...]:
    """The metrics that may be compared, best first: the one ``asked`` for, or (None) those that
    all ``tasks`` of ``name`` have, with a number for each document, higher being better.

    Raises MeasurementError that lists the metrics there are.
    """
    common = [
        metric.name
        for metric in tasks[0].metrics
        if all(metric.name in (one.name for one in task.metrics) for task in tasks)
    ]
    if asked is not None:
        metric = asked.partition(",")[0]
        if metric not in common:
            raise MeasurementError(
                f"the task {name!r} has no metric {metric!r}; it has {', '.join(common) or 'none'}"
            )
        objection = _objection(metric, tasks)
        if objection:
            raise MeasurementError(
                f"the task {name!r}: {objection}{_others(metric, common, tasks)}"
            )
        return (metric,)
    usable = [
        metric
        for metric in common
        if _objection(metric, tasks) is None and _direction(metric, tasks) is True
    ]
    if not usable:
        objections = [
            _objection(metric, tasks) or f"{metric!r}: lower is better" for metric in common
        ]
        raise MeasurementError(
            f"the task {name!r} has no metric with a number for each document of which higher is "
            f"better: {'; '.join(objections) or 'it has no metric'}. Name one with metric=..."
        )
    return tuple(usable)


def _objection(metric: str, tasks: Sequence[TaskFacts]) -> str | None:
    """Why a metric cannot be paired, as far as the task says it itself."""
    for facts in (one for task in tasks for one in task.metrics if one.name == metric):
        if facts.aggregation in _LIKELIHOODS:
            return (
                f"{metric!r} is a likelihood over whole texts, without bounds: compare "
                "perplexities with capability_preserved"
            )
        if facts.aggregation not in (None, "mean"):
            return (
                f"{metric!r} is computed over the whole corpus ({facts.aggregation}) and has no "
                "value for each document that could be paired"
            )
        if facts.higher_is_better is None:
            return f"{metric!r}: the task does not say whether higher is better"
    return None


def _others(metric: str, common: Sequence[str], tasks: Sequence[TaskFacts]) -> str:
    usable = [one for one in common if one != metric and _objection(one, tasks) is None]
    return f". Of its metrics these can be paired: {', '.join(usable)}" if usable else ""


def _direction(metric: str, tasks: Sequence[TaskFacts]) -> bool | None:
    """Whether higher is better; None where the tasks of a group do not agree."""
    found = {one.higher_is_better for task in tasks for one in task.metrics if one.name == metric}
    return found.pop() if len(found) == 1 else None


def paired_scores(
    pairs: Sequence[RowPair],
    asked: str | None,
    tasks: Sequence[TaskFacts],
    name: str,
    figures: Mapping[tuple[str, str], tuple[float | None, float | None]],
) -> PairedScores:
    """The scores to compare, out of what was logged.

    ``figures`` are the harness's own figures of both models, by task and ``metric,filter``: where
    one is not the mean of the documents' scores the metric is no mean, and cannot be paired.
    Raises MeasurementError that names the reason of each metric.
    """
    wanted = asked.partition(",")[2] if asked is not None else ""
    filters = list(dict.fromkeys(first.filter for first, _ in pairs))
    if wanted and wanted not in filters:
        raise MeasurementError(
            f"the task {name!r} has no filter {wanted!r}; it has {', '.join(filters)}"
        )
    kept = wanted or _first_filter(tasks, filters, figures)
    rows = [pair for pair in pairs if pair[0].filter == kept]
    reasons = []
    for metric in chosen_metrics(asked, tasks, name):
        reason = _unusable(metric, rows) or _no_mean(metric, kept, rows, figures)
        direction = _direction(metric, tasks)
        if direction is None:
            reason = reason or f"{metric!r} is better high in one of its tasks and low in another"
        if reason is None:
            return _scores(metric, kept, bool(direction), distinct(rows))
        reasons.append(reason)
    raise MeasurementError(f"the task {name!r}: {'; '.join(reasons)}")


def distinct(rows: Sequence[RowPair]) -> list[RowPair]:
    """Without the documents of a task that are there already, word for word and asked in the same
    words: a sample counts once."""
    found: dict[tuple[str, ...], RowPair] = {}
    for pair in rows:
        row = pair[0]
        key = (row.task, row.filter, row.document_hash, row.prompt_hash, row.target_hash)
        found.setdefault(key, pair)
    return list(found.values())


def _first_filter(
    tasks: Sequence[TaskFacts],
    filters: Sequence[str],
    figures: Mapping[tuple[str, str], tuple[float | None, float | None]],
) -> str:
    """The filter that the task itself names first: the figures keep that order, rows are sorted."""
    first = [key.partition(",")[2] for task, key in figures if task == tasks[0].name]
    return next((one for one in first if one in filters), filters[0])


def _unusable(metric: str, rows: Sequence[RowPair]) -> str | None:
    """Why the documents' scores are not numbers in [0, 1]."""
    for row in (row for pair in rows for row in pair):
        score = row.scores.get(metric)
        if score is None:
            return f"{metric!r} has no number for the document {row.name}"
        if not 0 <= score <= 1:
            return (
                f"{metric!r} is {score:g} for the document {row.name}, not between 0 and 1: only "
                "bounded scores can be compared (perplexities with capability_preserved)"
            )
    return None


def _no_mean(
    metric: str,
    kept: str,
    rows: Sequence[RowPair],
    figures: Mapping[tuple[str, str], tuple[float | None, float | None]],
) -> str | None:
    """Why the harness's figure of a task is not the mean of its documents' scores."""
    for task in dict.fromkeys(first.task for first, _ in rows):
        told = figures.get((task, f"{metric},{kept}"), (None, None))
        for place, figure in enumerate(told):
            own = [float(pair[place].scores[metric] or 0) for pair in rows if pair[0].task == task]
            mean = math.fsum(own) / len(own)
            if figure is None or not math.isclose(figure, mean, rel_tol=0, abs_tol=_ROUNDING):
                return (
                    f"{metric!r} of {task!r} is no mean over documents (the harness says "
                    f"{figure}, the documents' mean is {mean:g}) and cannot be paired"
                )
    return None


def _scores(metric: str, kept: str, higher: bool, rows: Sequence[RowPair]) -> PairedScores:
    both = [[row.scores[metric] for row in side] for side in zip(*rows, strict=True)]
    whole = all(isinstance(score, int) for side in both for score in side)
    zero_or_one = all(score in (0, 1) for side in both for score in side)
    chances = [1 / row.choices if row.choices else 0.0 for row, _ in rows]
    original, compressed = (tuple(float(score or 0) for score in side) for side in both)
    return PairedScores(
        metric=metric,
        filter=kept,
        higher_is_better=higher,
        # Not whatever happens to be 0 or 1 on these documents: the kind of test must not depend on
        # the outcomes.
        binary=zero_or_one and (whole or metric in BINARY_METRICS),
        original=original,
        compressed=compressed,
        documents=tuple(first.name for first, _ in rows),
        chance=math.fsum(chances) / len(chances) if metric in CHOICE_METRICS else 0.0,
    )
