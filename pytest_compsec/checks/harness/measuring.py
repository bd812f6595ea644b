"""From a pair and the names of tasks to what both models did on them, once in a run."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.harness.metrics import (
    PairedScores,
    TaskFacts,
    distinct,
    paired_scores,
)
from pytest_compsec.checks.harness.samples import Row, RowPair, digest_of_samples, paired_rows
from pytest_compsec.errors import MeasurementError

if TYPE_CHECKING:
    from pytest_compsec.checks.harness.running import ArmRun, Batches
    from pytest_compsec.data import DataFile
    from pytest_compsec.models.pair import ModelPair

Figures = Mapping[tuple[str, str], tuple[float | None, float | None]]
_DATA_NOTES = {
    "hub": (
        "its data come from the hub: no file of theirs is in compsec.lock; the result records the "
        "digest of the documents that were asked"
    ),
    "code": "its data come from code of its own: what that reads is not in compsec.lock",
}


@dataclasses.dataclass(frozen=True)
class AskedTask:
    """One name that the user wrote: the tasks behind it, and both models' rows of all of them."""

    name: str
    facts: tuple[TaskFacts, ...]
    pairs: tuple[RowPair, ...]

    def scores(self, metric: str | None, figures: Figures) -> PairedScores:
        """Raises MeasurementError where no metric can be compared."""
        return paired_scores(self.pairs, metric, self.facts, self.name, figures)

    @property
    def documents(self) -> int:
        """How many documents the tasks have in all, asked or not."""
        return sum(facts.documents for facts in self.facts)

    @property
    def asked(self) -> int:
        """How many documents were asked."""
        return len({first.name for first, _ in self.pairs})

    def notes(self) -> list[str]:
        """What a reader must know of the tasks' data, and of documents that were left out."""
        found = []
        if self.asked < self.documents:
            found.append(
                f"{self.name}: {self.asked} of {self.documents} documents were asked (limit), the "
                "first ones of each task; the estimate is about those"
            )
        repeated = self.asked - len({first.name for first, _ in distinct(self.pairs)})
        if repeated:
            found.append(
                f"{self.name}: {repeated} of {self.asked} documents repeat others word for word "
                "and were left out"
            )
        for data, what in _DATA_NOTES.items():
            named = [facts for facts in self.facts if facts.data == data]
            if named:
                sources = sorted({facts.dataset_path or facts.name for facts in named})
                revisions = {facts.revision for facts in named}
                moving = data == "hub" and None in revisions
                found.append(
                    f"{self.name} ({', '.join(sources)}): {what}"
                    + (". It names no revision and may change" if moving else "")
                )
        return found


@dataclasses.dataclass(frozen=True)
class Asked:
    """Everything that was asked of both models, the ``figures`` of the harness itself (original,
    compressed), the pinned ``files`` and ``versions`` it worked with, rows of a batch."""

    tasks: tuple[AskedTask, ...]
    figures: Figures
    files: tuple[DataFile, ...]
    versions: Mapping[str, str]
    batches: Mapping[str, int]

    def provenance(self, limit: int | float | None, include_path: str | None) -> dict[str, Any]:
        """What decides the harness's part of a verdict, for the reports."""
        from pytest_compsec.checks.harness.opening import FEWSHOT_SEED
        from pytest_compsec.checks.harness.running import SEED

        return {
            "versions": dict(self.versions),
            "include_path": include_path,
            "limit": limit,
            "fewshot_seed": FEWSHOT_SEED,
            "seed": SEED,
            "chat_template": False,
            "batch_rows": dict(self.batches),
            "tasks": {
                facts.name: {
                    "asked_as": task.name,
                    "version": facts.version,
                    "output_type": facts.output_type,
                    "num_fewshot": facts.num_fewshot,
                    "data": facts.data,
                    "dataset_path": facts.dataset_path,
                    "dataset_name": facts.dataset_name,
                    "revision": facts.revision,
                    "documents": facts.documents,
                    "samples_sha256": digest_of_samples(
                        [first for first, _ in task.pairs if first.task == facts.name]
                    ),
                }
                for task in self.tasks
                for facts in task.facts
            },
        }


def ask_both(
    pair: ModelPair,
    names: Sequence[str],
    limit: int | float | None,
    include_path: str | None,
    *,
    metric: str | None = None,
) -> Asked:
    """Ask both models every document of the tasks called ``names``, the original first. A
    ``metric`` that the tasks do not have is found before.

    Raises MissingExtraError without the harness, MeasurementError for what cannot be measured,
    ConfigError for a task file that is wrong, IntegrityError for one that is not what is pinned.
    """
    from pytest_compsec.checks.harness.files import Staged, pinned_files
    from pytest_compsec.checks.harness.opening import import_harness, open_tasks
    from pytest_compsec.checks.harness.running import harness_quiet, own_random_state, run_arm

    _require_modules(pair)
    with (
        harness_quiet(),
        tempfile.TemporaryDirectory(
            prefix="compsec-lm-eval-", ignore_cleanup_errors=True
        ) as folder,
    ):
        directory = Path(folder).resolve()
        harness = import_harness()
        pinned = None if include_path is None else pinned_files(pair, include_path)
        staged = None if pinned is None else Staged(pinned, directory)
        with own_random_state():  # a task may draw its documents
            opened = open_tasks(harness, names, metric, staged, directory)
        # One after the other: the pool may free the first model to make room for the second.
        first, batches = _once_for_all_variants(
            pair,
            (tuple(names), limit, include_path),
            lambda batches: run_arm(harness, opened, pair.original, limit, batches),
        )
        second = run_arm(harness, opened, pair.compressed, limit, batches)
    figures = {
        key: (first.figures.get(key), second.figures.get(key))
        for key in (*first.figures, *second.figures)
    }
    return Asked(
        tasks=tuple(
            AskedTask(
                one.name,
                one.facts,
                paired_rows(_rows(first.rows, one.facts), _rows(second.rows, one.facts)),
            )
            for one in opened
        ),
        figures=figures,
        files=() if staged is None else staged.used,
        versions=harness.versions,
        batches=dict(batches.rows),
    )


def _require_modules(pair: ModelPair) -> None:
    """Raise MeasurementError, before anything is loaded, where the harness could not ask one of the
    models: it is given a torch module, not a server or another runtime."""
    for arm in (pair.original_arm, pair.compressed_arm):
        if arm.served is not None or arm.runtime is not None:
            what = "answered for by a server" if arm.served is not None else "run by llama.cpp"
            raise MeasurementError(
                f"{arm.name} is {what}: lm-evaluation-harness asks models that transformers runs. "
                "Name the variants that it does with variants=..."
            )


def _once_for_all_variants(
    pair: ModelPair, key: Hashable, ask: Callable[[Batches], ArmRun]
) -> tuple[ArmRun, Batches]:
    """What the original did, asked once in a run for all its variants, and in which batches."""
    from pytest_compsec.checks.harness.running import Batches

    suite = pair.suite
    whole = ("lm_eval", suite.identity(pair.original_arm), key)
    if whole not in suite.measured:
        batches = Batches()
        suite.measured[whole] = (ask(batches), dict(batches.rows))
    run, rows = suite.measured[whole]
    return run, Batches(dict(rows))


def _rows(rows: Mapping[str, tuple[Row, ...]], facts: Sequence[TaskFacts]) -> list[Row]:
    return [row for one in facts for row in rows[one.name]]
