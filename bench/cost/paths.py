"""How far measured paths are from the floor: the file that ``bench.compare`` writes, read and set
against a machine's measured rates.

Two floors. That *of its own schedule*: the least time for the batches, the float type and the
tokens that the path chose, padding and finished rows included where it computes them. That *of the
job*: the least time for the same answers in one batch, finished rows gone, in the float type that
is quickest here. A path far from the first wastes the machine; a path near the first and far from
the second has a poor plan.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.cost.roofline import Floor, Machine, floor_of
from bench.cost.shapes import ModelShape, shape_of
from bench.cost.work import Precision, Row, run_steps

#: Bits of an element, scales included, of the forms that the comparison's compressed arm takes.
LAYER_BITS = {"nf4": 4.5, "fp4": 4.5, "int8": 8.0}
STATE_BITS = {"float32": 32, "bfloat16": 16, "float16": 16}


@dataclasses.dataclass(frozen=True)
class Measured:
    """``rates`` in operations per second by float type, ``bandwidth`` in bytes per second."""

    rates: Mapping[str, float]
    bandwidth: float

    def machine(self, dtype: str) -> Machine:
        return Machine(dtype, self.rates[dtype], self.bandwidth)

    @property
    def quickest(self) -> str:
        return max(self.rates, key=lambda name: self.rates[name])


@dataclasses.dataclass(frozen=True)
class ArmRun:
    """One arm's answers on one path: its float type, its batches, what its weights are packed to
    (``full`` where they are not)."""

    form: str
    dtype: str
    batches: tuple[tuple[Row, ...], ...]
    rows_leave: bool

    def precision(self, dtype: str | None = None) -> Precision:
        """The bits of everything; ``dtype`` instead of the run's own."""
        state = STATE_BITS[dtype or self.dtype]
        return Precision(self.form, LAYER_BITS.get(self.form, state), state, state)

    def floor(self, shape: ModelShape, measured: Measured) -> Floor:
        """Of its own schedule."""
        steps = run_steps(shape, self.batches, self.precision(), rows_leave=self.rows_leave)
        return floor_of(steps.all, measured.machine(self.dtype))

    def job_floor(self, shape: ModelShape, measured: Measured) -> Floor:
        """Of the same answers, planned as well as can be."""
        dtype = measured.quickest
        whole = [[row for batch in self.batches for row in batch]]
        steps = run_steps(shape, whole, self.precision(dtype))
        return floor_of(steps.all, measured.machine(dtype))


@dataclasses.dataclass(frozen=True)
class MeasuredPath:
    """One way to answer: its arms, and what each turn took in all, in seconds."""

    name: str
    arms: tuple[ArmRun, ...]
    seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Paths:
    """All that were compared, on one model."""

    shape: ModelShape
    paths: tuple[MeasuredPath, ...]


def read_paths(file: Path) -> Paths:
    """What ``python -m bench.compare --json FILE`` wrote. Raises ValueError for another file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    try:
        return Paths(
            shape_of(content["model"], content["model"].get("name", "")),
            tuple(_path(entry) for entry in content["paths"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no result of bench.compare: {error!r}") from None


def floor_table(paths: Paths, measured: Measured) -> list[str]:
    """Markdown: every path's median seconds beside both floors."""
    lines = [
        "| path | seconds | floor of its own schedule | times that | floor of the job "
        "| times that |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for path in paths.paths:
        seconds = statistics.median(path.seconds)
        own = _sum(arm.floor(paths.shape, measured) for arm in path.arms)
        job = _sum(arm.job_floor(paths.shape, measured) for arm in path.arms)
        lines.append(
            f"| {path.name} | {seconds:.1f} | {own.seconds:.2f} ({own.bound_by}) "
            f"| {seconds / own.seconds:.1f} | {job.seconds:.2f} ({job.bound_by}) "
            f"| {seconds / job.seconds:.1f} |"
        )
    return lines


def _sum(floors: Iterable[Floor]) -> Floor:
    return sum(floors, Floor(0.0, 0.0, 0.0))


def _path(entry: Mapping[str, Any]) -> MeasuredPath:
    return MeasuredPath(
        str(entry["name"]),
        tuple(_arm(arm) for arm in entry["arms"]),
        tuple(float(value) for value in entry["seconds"]),
    )


def _arm(entry: Mapping[str, Any]) -> ArmRun:
    batches: Sequence[Sequence[Sequence[int]]] = entry["batches"]
    return ArmRun(
        form=str(entry["form"]),
        dtype=str(entry["dtype"]),
        batches=tuple(tuple(Row(*map(int, row)) for row in batch) for batch in batches),
        rows_leave=bool(entry["rows_leave"]),
    )
