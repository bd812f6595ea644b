"""The one result type of every check: plain data, JSON-safe, needing nothing but ``findings``.

A :class:`CheckResult` is all that travels from a worker to the terminal and the reports. It is
built of ``str``, ``int``, ``float``, ``bool``, ``None``, tuples and dicts only, so that
``json.dumps(result.to_json(), allow_nan=False)`` always works.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec import records

if TYPE_CHECKING:
    from pytest_compsec.findings import (
        CategoryFinding,
        Clustering,
        Familywise,
        JudgeCorrection,
        LayerErrors,
        NoiseFloor,
        RefusalSignal,
        Stopping,
        Texts,
    )
    from pytest_compsec.findings_backdoors import BackdoorFinding
    from pytest_compsec.findings_estimates import Difference, Estimate
    from pytest_compsec.findings_robustness import RobustnessFinding
    from pytest_compsec.findings_scan import BypassFinding

#: Raised when the meaning of a field changes; fields may be added under the same number.
SCHEMA_VERSION = 1


class Verdict(str, enum.Enum):
    """What a check says of one pair. Only ``PRESERVED`` is green."""

    PRESERVED = "PRESERVED"
    REGRESSED = "REGRESSED"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_MEASURED = "NOT_MEASURED"

    def __str__(self) -> str:
        return self.value


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One prompt answered by both arms. ``safe`` is None where the answer could not be judged;
    ``broken`` where the text is no answer at all (see :class:`findings.Texts`)."""

    id: str
    category: str
    prompt: str
    original: str
    compressed: str
    original_safe: bool | None
    compressed_safe: bool | None
    note: str = ""
    original_broken: bool = False
    compressed_broken: bool = False

    @property
    def regressed(self) -> bool:
        """The original did the safe thing and the compressed model did not."""
        return self.original_safe is True and self.compressed_safe is False

    @property
    def improved(self) -> bool:
        """The compressed model did the safe thing and the original did not."""
        return self.original_safe is False and self.compressed_safe is True


@dataclasses.dataclass(frozen=True)
class ConditionalLoss:
    """Of the prompts that the original handled safely (``total``), how many were lost."""

    lost: int
    total: int
    lower: float
    upper: float

    @property
    def rate(self) -> float:
        return self.lost / self.total if self.total else 0.0


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The paired numbers behind a verdict.

    ``degradation`` is ``(regressed - improved) / n``: positive is worse. ``interval`` is its
    two-sided interval at ``1 - 2 * alpha`` (of a run that stopped early: bounds that hold whenever
    one stops); ``preserved_pvalue`` and ``regressed_pvalue`` are the exact one-sided tests that
    decide when all prompts were asked. ``original_rate`` and ``compressed_rate`` are shares of
    prompts handled safely.
    """

    n: int
    both: int
    improved: int
    regressed: int
    neither: int
    original_rate: float
    compressed_rate: float
    degradation: float
    interval: tuple[float, float]
    preserved_pvalue: float
    regressed_pvalue: float
    conditional_loss: ConditionalLoss | None = None


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What one check found on one pair, for one test.

    ``limit`` is the non-inferiority margin, or what an exact check (``confidence`` 1) allows.
    ``answers`` and ``answers_cached`` count answers of both arms. ``withheld`` holds the reasons
    why an outcome of the exact test does not stand. ``provenance`` says what was measured with
    what: digests, versions, devices.
    """

    check: str
    pair: str
    test: str
    verdict: Verdict
    summary: str
    next_step: str
    limit: float
    confidence: float
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    measurement: Measurement | None = None
    evidence: tuple[Evidence, ...] = ()
    unmeasured: int = 0
    answers: int = 0
    answers_cached: int = 0
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    expected: bool = False
    withheld: tuple[str, ...] = ()
    stopping: Stopping | None = None
    categories: tuple[CategoryFinding, ...] = ()
    clustering: Clustering | None = None
    noise_floor: NoiseFloor | None = None
    judge_correction: JudgeCorrection | None = None
    familywise: Familywise | None = None
    texts: Texts | None = None
    signal: RefusalSignal | None = None
    layers: LayerErrors | None = None
    backdoor: BackdoorFinding | None = None
    bypasses: BypassFinding | None = None
    robustness: RobustnessFinding | None = None
    estimates: tuple[Estimate, ...] = ()
    differences: tuple[Difference, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe dict; non-finite numbers become None."""
        data = _plain(dataclasses.asdict(self))
        assert isinstance(data, dict)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CheckResult:
        """The inverse of :meth:`to_json`. Unknown keys of a later minor version are ignored."""
        # Only here: whoever merely collects tests need not build all these records.
        from pytest_compsec import (
            findings,
            findings_backdoors,
            findings_estimates,
            findings_robustness,
            findings_scan,
        )

        rooms = (
            findings,
            findings_backdoors,
            findings_estimates,
            findings_robustness,
            findings_scan,
        )
        names = {name: kind for room in rooms for name, kind in vars(room).items()}
        return records.rebuilt(cls, data, names)


def _plain(value: Any) -> Any:
    """Reduce to exact JSON types: execnet and JSON refuse enums and float subclasses (numpy)."""
    if isinstance(value, Mapping):
        return {clean_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return clean_text(str(value))


def clean_text(text: str) -> str:
    """Escape lone surrogates, which end an xdist run with an internal error."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
