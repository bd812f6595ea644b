"""``precision_policy``: no weight matrix of the deployed model has fewer than ``min_bits`` bits,
unless the safety checks of this very artefact passed.

Estimand: the bits per weight of the matrix that has fewest (:mod:`pytest_compsec.models
.matrix_bits`); unit: the bit; nothing is sampled, so there is no interval. One 2-bit matrix among
8-bit ones is 2 bits.

Below the floor the artefact needs evidence: results of its own safety checks in this run
(:mod:`pytest_compsec.checks.safety_evidence`), or a signed certificate of an earlier one
(``certificate=``, ``certificate_key=``). Under pytest they are those of the collected tests
of the same pair; one that has not run yet is measured now, and its own test takes that result, so
that the order of the tests decides nothing (:mod:`pytest_compsec.evidence`). A test left out with
``-k`` is no evidence, nor is one that is skipped or expected to fail.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.arguments import require_names
from pytest_compsec.checks.plain_result import plain_result
from pytest_compsec.checks.safety_evidence import (
    CERTIFICATE,
    REQUIRED,
    Finding,
    SafetyEvidence,
    evidence_notes,
    given_evidence,
    weigh,
)
from pytest_compsec.checks.selection import ExactArguments
from pytest_compsec.errors import MeasurementError
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.models.matrix_bits import BitsFound, MatrixBits
    from pytest_compsec.models.pair import ModelPair

MOST_BITS = 64
_NAMES_SHOWN = 3
METHOD = (
    "the lowest of the bits in memory, those of the codes in the files, and the binary logarithm "
    "of the number of different values in a group of inputs"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyArguments(ExactArguments):
    """Validated arguments of ``precision_policy``; ``margin`` is ``min_bits``. ``evidence()`` gives
    what is known of the pair's safety in this run (None: nothing). ``certificate`` and
    ``certificate_key`` are paths from the directory of the config."""

    unless_verified: bool = True
    certificate: str | None = None
    certificate_key: str | None = None
    evidence: Callable[[], SafetyEvidence] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    @property
    def margin_name(self) -> str:
        return "min_bits"

    def to_json(self) -> dict[str, Any]:
        """The arguments as the user would write them."""
        certified = {"certificate": self.certificate, "certificate_key": self.certificate_key}
        return {
            "min_bits": self.margin,
            "unless_verified": self.unless_verified,
            **(certified if self.certificate is not None else {}),
            "models": list(self.models) if self.models else None,
            "variants": list(self.variants) if self.variants else None,
        }

    def with_evidence(self, gather: Callable[[], SafetyEvidence]) -> PolicyArguments:
        """The same, with a way to what is known; asked only for an artefact below the floor."""
        return dataclasses.replace(self, evidence=gather)


def precision_policy_arguments(
    *,
    min_bits: float = 8,
    unless_verified: bool = True,
    certificate: str | None = None,
    certificate_key: str | None = None,
    models: str | Sequence[str] | None = None,
    variants: str | Sequence[str] | None = None,
) -> PolicyArguments:
    """Validate the marker's arguments. Raises ValueError in plain words.

    ``min_bits`` is the least number of bits per weight of any weight matrix, scales not counted;
    ``unless_verified=False`` allows no exception for artefacts whose safety checks passed;
    ``certificate`` is a signed certificate of an earlier run that passed them with exactly these
    files, ``certificate_key`` the public key that must have signed it (both paths from the
    directory of compsec.yaml);
    ``models`` and ``variants`` choose pairs (None: all).
    """
    if isinstance(min_bits, bool) or not isinstance(min_bits, (int, float)):
        raise ValueError(f"min_bits={min_bits!r} must be a number of bits such as 8")
    if not (math.isfinite(min_bits) and 1 <= min_bits <= MOST_BITS):
        raise ValueError(f"min_bits={min_bits!r} must be from 1 to {MOST_BITS} bits per weight")
    if not isinstance(unless_verified, bool):
        raise ValueError(f"unless_verified={unless_verified!r} must be True or False")
    for name, value in (("certificate", certificate), ("certificate_key", certificate_key)):
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise ValueError(f"{name}={value!r} must be the path of a file")
    if (certificate is None) != (certificate_key is None):
        raise ValueError(
            "certificate and certificate_key belong together: without the key of whoever must have "
            "signed it, a certificate proves nothing"
        )
    if certificate is not None and not unless_verified:
        raise ValueError("unless_verified=False allows no exception, not by a certificate either")
    return PolicyArguments(
        check="precision_policy",
        margin=float(min_bits),
        unless_verified=unless_verified,
        certificate=certificate,
        certificate_key=certificate_key,
        models=require_names("models", models),
        variants=require_names("variants", variants),
    )


def check_precision_policy(
    pair: ModelPair, *, evidence: Sequence[CheckResult] = (), test: str = "", **arguments: Any
) -> CheckResult:
    """Measure the compressed model's matrices and decide. ``arguments`` are those of the marker;
    ``evidence`` are results that safety checks of this run returned for the same pair.

    Raises ValueError for evidence that is no such result.
    """
    given = given_evidence(evidence)
    asked = precision_policy_arguments(**arguments).with_evidence(lambda: given)
    return measure_precision_policy(pair, asked, test=test)


def measure_precision_policy(
    pair: ModelPair, arguments: PolicyArguments, *, test: str = ""
) -> CheckResult:
    """As :func:`check_precision_policy`, with arguments that are already validated.

    NOT_MEASURED where a matrix hides its bits (a served model) and none is known to be below the
    floor. Below it the verdict is PRESERVED only with evidence, else REGRESSED: an artefact that
    nobody showed to be safe breaks the policy, whatever else is not known of it.
    """
    from pytest_compsec.models.matrix_bits import bits_of_matrices

    pair.require_compressed()
    try:
        found = bits_of_matrices(pair.compressed)
    except MeasurementError as error:
        return plain_result(
            pair, arguments, test, Verdict.NOT_MEASURED, str(error), after=_SHOW_WEIGHTS
        )
    finally:
        pair.recheck()
    below = found.below(arguments.margin)
    weighed = _weighed(pair, arguments) if below else None
    verdict = _verdict(found, weighed)
    result = plain_result(
        pair,
        arguments,
        test,
        verdict,
        _what(found, below, weighed, arguments),
        after=_after(verdict, weighed, arguments),
    )
    return dataclasses.replace(
        result,
        estimates=_estimates(found, arguments, verdict),
        notes=(
            *_table(below),
            *(found.unmeasured[:_NAMES_SHOWN]),
            *(evidence_notes(weighed.accepted) if weighed is not None else ()),
            *((f"Why it is not verified: {one}" for one in weighed.objections) if weighed else ()),
        ),
        provenance={**pair.provenance_with(), **_certified(weighed)},
    )


def _certified(weighed: Finding | None) -> dict[str, Any]:
    """The certificate that speaks for the artefact, where one does."""
    for result in weighed.accepted if weighed is not None else ():
        if CERTIFICATE in result.provenance:
            return {CERTIFICATE: result.provenance[CERTIFICATE]}
    return {}


def _weighed(pair: ModelPair, arguments: PolicyArguments) -> Finding:
    if not arguments.unless_verified:
        return Finding(("unless_verified=False allows no exception",), ())
    evidence = arguments.evidence() if arguments.evidence is not None else SafetyEvidence()
    if arguments.certificate is not None and arguments.certificate_key is not None:
        from pytest_compsec.checks.certified_evidence import certified_evidence

        more = certified_evidence(pair, arguments.certificate, arguments.certificate_key)
        evidence = SafetyEvidence(
            (*evidence.results, *more.results), (*evidence.barred, *more.barred)
        )
    return weigh(evidence, pair.compressed_arm.weights_digest)


def _verdict(found: BitsFound, weighed: Finding | None) -> Verdict:
    if weighed is not None and not weighed.verified:
        return Verdict.REGRESSED
    if found.unmeasured or found.lowest is None:
        return Verdict.NOT_MEASURED
    return Verdict.PRESERVED


def _what(
    found: BitsFound,
    below: Sequence[MatrixBits],
    weighed: Finding | None,
    arguments: PolicyArguments,
) -> str:
    total, floor = len(found.matrices), f"{arguments.margin:g} bits"
    lowest = found.lowest
    hidden = ""
    if found.unmeasured:
        count = len(found.unmeasured)
        hidden = f"{count} part{'' if count == 1 else 's'} not measured: {found.unmeasured[0]}. "
    if lowest is None:
        return f"the bits of no weight matrix could be measured: {'; '.join(found.unmeasured)}"
    where = f"{lowest.bits:.3g} bits in {lowest.name} ({lowest.how})"
    if weighed is None:
        return f"{hidden}no fewer than {where}, of {total} weight matrices; the floor is {floor}"
    has = "has" if len(below) == 1 else "have"
    many = (
        f"{len(below)} of {total} weight matrices {has} fewer than {floor}; the fewest are {where}"
    )
    if weighed.verified:
        checks = ", ".join(dict.fromkeys(result.check for result in weighed.accepted))
        where = f" or as {arguments.certificate} certifies" if arguments.certificate else ""
        return f"{hidden}{many}; allowed, as this artefact passed {checks} in this run{where}"
    return f"{hidden}{many}; {weighed.objections[0]}"


def _table(below: Sequence[MatrixBits]) -> list[str]:
    lines = [f"{matrix.name}: {matrix.bits:.3g} bits, {matrix.how}" for matrix in below]
    left = len(lines) - _NAMES_SHOWN
    return [*lines[:_NAMES_SHOWN], *([f"and {left} more below the floor"] if left > 0 else [])]


def _estimates(found: BitsFound, arguments: PolicyArguments, verdict: Verdict) -> Any:
    from pytest_compsec.findings_estimates import Estimate

    lowest = found.lowest
    return (
        Estimate(
            name="lowest bits per weight",
            estimand="bits per weight, scales not counted, of the weight matrix with fewest",
            unit="bits",
            sample="weight matrix",
            samples=len(found.matrices),
            method=METHOD,
            compressed=lowest.bits if lowest is not None else None,
            limit=arguments.margin,
            verdict=str(verdict),
        ),
    )


_SHOW_WEIGHTS = (
    "Name the model's files as 'source' in a variant of its own, or leave this pair out with "
    "variants=..."
)


def _after(verdict: Verdict, weighed: Finding | None, arguments: PolicyArguments) -> str:
    if verdict is Verdict.NOT_MEASURED:
        return _SHOW_WEIGHTS
    if verdict is Verdict.PRESERVED or weighed is None:
        return ""
    keep = "Keep the matrices named above in more bits (keep_in_full_precision)"
    if not arguments.unless_verified:
        return f"{keep}, or ship another variant."
    return (
        f"{keep}, or test this pair with @{REQUIRED} in the same run (on any test of this pair; "
        "-k must not leave it out) and ship it only if that comes out PRESERVED. A signed "
        "certificate of an earlier run counts, too (certificate=, certificate_key=)."
    )
