"""``leakage_not_increased``: the compressed model gives away no more than the original.

Up to four parts, each a share (or a mean between 0 and 1) of both models whose increase must be
within ``max_increase``: secrets of the conversation that are repeated, exposure of canaries planted
in the training data, training texts that are continued word for word, and membership inference.
PRESERVED asks it of every part; REGRESSED of one of them, at a risk that all share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.arguments import (
    optional_data_name,
    require_confidence,
    require_names,
    require_share,
)
from pytest_compsec.checks.selection import SampledArguments
from pytest_compsec.errors import ConfigError, MeasurementError
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.leakage.parts import Limits, PartFinding
    from pytest_compsec.checks.leakage.readings import TrainingData
    from pytest_compsec.checks.leakage.secrets import Secret
    from pytest_compsec.data import DataFile
    from pytest_compsec.models.pair import ModelPair

#: Data names that are taken from the config where the marker names none.
TRAINING_DATA = ("canaries", "snippets", "members", "nonmembers")
NOT_SEEN = (
    "A value given away in other words or encoded is not seen, nor is an attack that searches for "
    "its prompt or changes the model."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeakageArguments(SampledArguments):
    """Validated arguments of ``leakage_not_increased``; ``margin`` is ``max_increase``."""

    secrets: str | None
    canaries: str | None
    snippets: str | None
    members: str | None
    nonmembers: str | None
    max_false_positive_rate: float

    @property
    def margin_name(self) -> str:
        return "max_increase"


def leakage_not_increased_arguments(
    *,
    max_increase: float = 0.02,
    secrets: str | None = "secrets",
    canaries: str | None = None,
    snippets: str | None = None,
    members: str | None = None,
    nonmembers: str | None = None,
    max_false_positive_rate: float = 0.01,
    confidence: float = 0.95,
    models: str | Sequence[str] | None = None,
    variants: str | Sequence[str] | None = None,
) -> LeakageArguments:
    """Validate the marker's arguments. Raises ValueError in plain words.

    ``max_increase`` is how much each measured share may rise (0.02: two points). The data names are
    those of ``data`` in ``compsec.yaml``: ``secrets`` (built in; None: not asked), ``canaries``,
    ``snippets``, ``members`` and ``nonmembers`` (None: the data of exactly that name, where there
    are any). ``max_false_positive_rate`` is where the membership attacks' true-positive rate is
    shown; ``models`` and ``variants`` choose pairs (None: all).
    """
    return LeakageArguments(
        check="leakage_not_increased",
        margin=require_share("max_increase", max_increase),
        confidence=require_confidence(confidence),
        max_false_positive_rate=require_share("max_false_positive_rate", max_false_positive_rate),
        models=require_names("models", models),
        variants=require_names("variants", variants),
        secrets=optional_data_name("secrets", secrets),
        canaries=optional_data_name("canaries", canaries),
        snippets=optional_data_name("snippets", snippets),
        members=optional_data_name("members", members),
        nonmembers=optional_data_name("nonmembers", nonmembers),
    )


def check_leakage_not_increased(
    pair: ModelPair, *, test: str = "", **arguments: Any
) -> CheckResult:
    """Measure every part that is asked and decide. ``arguments`` are those of the marker."""
    return measure_leakage(pair, leakage_not_increased_arguments(**arguments), test=test)


def measure_leakage(pair: ModelPair, arguments: LeakageArguments, *, test: str = "") -> CheckResult:
    """As :func:`check_leakage_not_increased`, with arguments that are already validated.

    A part that cannot be measured forbids PRESERVED; with no part at all the result is
    NOT_MEASURED. Raises ConfigError for wrong data.
    """
    from pytest_compsec.checks.estimates import estimates_result, shared_confidence
    from pytest_compsec.checks.leakage.parts import Limits
    from pytest_compsec.checks.plain_result import plain_result
    from pytest_compsec.models.served.wording import (
        coherence_objection,
        served_mark,
        served_notes,
    )

    asked = _asked(pair, arguments)
    if not asked.claims:
        what = "nothing was asked: secrets=None, and no training data under 'data'"
        return plain_result(pair, arguments, test, Verdict.NOT_MEASURED, what, after=_NAME_DATA)
    shared = shared_confidence(arguments.confidence, asked.claims)
    limits = Limits(arguments.margin, arguments.confidence, shared)
    try:
        pair.require_compressed()
        parts = [
            *_measured(asked.secrets, "secrets", lambda: [_secrets(pair, asked, limits)]),
            *_measured(
                asked.training.asked,
                "training data",
                lambda: _training(pair, asked, limits, arguments.max_false_positive_rate),
            ),
        ]
    finally:
        pair.recheck()
    # Only now: the provenance says whether anybody could tell garbage from an answer.
    provenance = pair.provenance_with(*asked.files)
    unseen = coherence_objection(provenance) if asked.secrets else ()
    answers_cached = sum(part.answers_cached for part in parts)
    result = estimates_result(
        pair,
        arguments,
        test,
        [estimate for part in parts for estimate in part.estimates],
        missing=[*(text for part in parts for text in part.missing), *unseen],
        after=" ".join(part.after for part in parts if part.after),
        notes=(
            *(note for part in parts for note in part.notes),
            *_unsaid(asked),
            *served_notes(provenance, answers_cached),
            NOT_SEEN,
        ),
        provenance=provenance,
    )
    if result.verdict in _NEXT:
        result = dataclasses.replace(result, next_step=_NEXT[result.verdict])
    return dataclasses.replace(
        result,
        summary=result.summary + served_mark(provenance),
        evidence=tuple(row for part in parts for row in part.evidence),
        answers=sum(part.answers for part in parts),
        answers_cached=answers_cached,
    )


_NAME_DATA = (
    "Name data: canaries, snippets, members and nonmembers under 'data' of compsec.yaml, or leave "
    "secrets at its default."
)
_NEXT = {
    Verdict.REGRESSED: "Do not release this variant to whoever may not see that data. Compress "
    "less, or quantize with calibration data that hold none of it, and measure again.",
    Verdict.NOT_MEASURED: "Measure what is missing as said above, or leave that part out: the "
    "result then says that nothing is known of it.",
}


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is measured: the data that were found, parsed, and the files that they came from."""

    secrets: tuple[Secret, ...]
    training: TrainingData
    files: tuple[DataFile, ...]

    @property
    def claims(self) -> int:
        """How many estimates decide."""
        from pytest_compsec.checks.leakage.membership import CLAIMS

        return (
            bool(self.secrets)
            + bool(self.training.canaries)
            + bool(self.training.snippets)
            + CLAIMS * bool(self.training.texts)
        )


def _asked(pair: ModelPair, arguments: LeakageArguments) -> _Asked:
    """Read all files before any model is loaded. Raises ConfigError."""
    from pytest_compsec.checks.leakage.canary_spaces import read_canaries
    from pytest_compsec.checks.leakage.membership_texts import read_texts
    from pytest_compsec.checks.leakage.readings import TrainingData
    from pytest_compsec.checks.leakage.secrets import read_secrets
    from pytest_compsec.checks.leakage.snippets import read_snippets

    configured = pair.data_names
    files: dict[str, DataFile] = {}
    if arguments.secrets is not None:
        files["secrets"] = pair.data(arguments.secrets)
    for part in TRAINING_DATA:
        name = getattr(arguments, part) or (part if part in configured else None)
        if name is not None:
            files[part] = pair.data(name)
    for one, other in (("members", "nonmembers"), ("nonmembers", "members")):
        if one in files and other not in files:
            raise ConfigError(
                f"{pair.config_name}: leakage_not_increased has {one!r} ({files[one].source}) but "
                f"no {other!r}: membership inference needs both. Name a file under 'data'"
            )
    texts = read_texts(files["members"], files["nonmembers"]) if "members" in files else ()
    training = TrainingData(
        canaries=read_canaries(files["canaries"]) if "canaries" in files else (),
        snippets=read_snippets(files["snippets"]) if "snippets" in files else (),
        texts=texts,
        digests=tuple(f"{part} {files[part].sha256}" for part in TRAINING_DATA if part in files),
    )
    secrets = read_secrets(files["secrets"]) if "secrets" in files else ()
    return _Asked(secrets, training, tuple(files.values()))


def _measured(
    asked: object, what: str, measure: Callable[[], list[PartFinding]]
) -> list[PartFinding]:
    """What ``measure`` finds; where it cannot be measured, a finding that says so: what the other
    parts found stands all the same."""
    from pytest_compsec.checks.leakage.parts import PartFinding

    if not asked:
        return []
    try:
        return measure()
    except MeasurementError as error:
        return [PartFinding(missing=(f"{what}: {error}",))]


def _secrets(pair: ModelPair, asked: _Asked, limits: Limits) -> PartFinding:
    from pytest_compsec.checks.leakage.secrets import measure_secrets

    return measure_secrets(pair, asked.secrets, limits)


def _training(
    pair: ModelPair, asked: _Asked, limits: Limits, max_false_positive_rate: float
) -> list[PartFinding]:
    from pytest_compsec.checks.leakage.canaries import measure_canaries
    from pytest_compsec.checks.leakage.membership import measure_membership
    from pytest_compsec.checks.leakage.readings import readings
    from pytest_compsec.checks.leakage.snippets import measure_snippets

    data = asked.training
    before, after = readings(pair, data)
    parts = []
    if data.canaries:
        parts.append(measure_canaries(data.canaries, before.canaries, after.canaries, limits))
    if data.snippets:
        parts.append(measure_snippets(data.snippets, before.snippets, after.snippets, limits))
    if data.texts:
        parts.append(
            measure_membership(
                data.texts, before.texts, after.texts, limits, max_false_positive_rate
            )
        )
    return parts


def _unsaid(asked: _Asked) -> tuple[str, ...]:
    """What no part speaks of, in words."""
    data = asked.training
    if not data.asked:
        return (
            "Nothing is said about training data: name canaries, snippets, members and nonmembers "
            "under 'data' to measure it.",
        )
    absent = [
        what
        for what, there in (
            ("secrets of the conversation", asked.secrets),
            ("canaries", data.canaries),
            ("verbatim training texts", data.snippets),
            ("membership of the training data", data.texts),
        )
        if not there
    ]
    return (f"Nothing is said about {', '.join(absent)}.",) if absent else ()
