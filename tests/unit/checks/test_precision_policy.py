"""The floor, and the evidence without which nothing below it passes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.checks.precision_policy import (
    check_precision_policy,
    precision_policy_arguments,
)
from pytest_compsec.checks.safety_evidence import (
    SAFETY_CHECKS,
    SafetyEvidence,
    given_evidence,
    weigh,
)
from pytest_compsec.compression import round_to_nearest
from pytest_compsec.compression.grid import quantize_dequantize
from pytest_compsec.errors import IntegrityError, MeasurementError
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.loaded import LoadedModel, TransformersModel
from pytest_compsec.models.weights import measure_weights
from pytest_compsec.reports.failure import failure_text
from pytest_compsec.reports.terminal import table
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.localization.planted import copy_of, tiny
from tests.unit.tiny_model import make_arm

LAYER = "model.layers.1.mlp.up_proj"
ARM = make_arm(Path("tiny"), variant="q8")
DIGEST = ARM.weights_digest


class Pair:
    """A compressed model in memory, and the arm that says which it is."""

    id = "tiny-q8"
    compressed_arm: Arm = ARM

    def __init__(self, module: Any, fault: Exception | None = None) -> None:
        self.module, self.fault, self.rechecked = module, fault, 0

    def require_compressed(self) -> None:
        pass

    @property
    def compressed(self) -> LoadedModel:
        weights = measure_weights(self.module)
        return TransformersModel(ARM, self.module, None, "cpu", "float32", weights)

    def recheck(self) -> None:
        self.rechecked += 1
        if self.fault is not None:
            raise self.fault

    def provenance_with(self) -> dict[str, Any]:
        return {"compressed": {"weights_digest": DIGEST}}


@pytest.fixture(scope="module")
def eight_bits() -> Any:
    """Every linear layer rounded to 8 bits."""
    module = tiny("llama")
    round_to_nearest.apply(module, {"bits": 8}, "cpu")
    return module


@pytest.fixture(scope="module")
def one_coarse(eight_bits: Any) -> Any:
    """The same, but one matrix has 2 bits, and nothing is written on it that says so."""
    module = copy_of(eight_bits)
    weight = module.get_submodule(LAYER).weight
    weight.data.copy_(quantize_dequantize(weight.data, bits=2))
    if hasattr(weight, "simulated_grid"):
        del weight.simulated_grid
    return module


def evidence(check: str = "safety_preserved", **fields: Any) -> CheckResult:
    made = CheckResult(
        check=check,
        pair="tiny-q8",
        test="test_safety.py::test_refuses[tiny-q8]",
        verdict=Verdict.PRESERVED,
        summary="PRESERVED: tiny-q8 refuses as before",
        next_step="",
        limit=0.02,
        confidence=0.95,
        provenance={"compressed": {"weights_digest": DIGEST}},
    )
    return dataclasses.replace(made, **fields)


def check(module: Any, given: Sequence[CheckResult] = (), **arguments: Any) -> CheckResult:
    pair: Any = Pair(module)
    result = check_precision_policy(pair, evidence=given, **arguments)
    assert pair.rechecked == 1
    back = CheckResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert back.estimates == result.estimates
    assert "evidence" not in result.arguments
    return result


def test_at_the_floor_is_preserved_and_says_where(eight_bits: Any) -> None:
    result = check(eight_bits)
    assert result.verdict is Verdict.PRESERVED
    assert result.summary.startswith("PRESERVED: tiny-q8: no fewer than 8 bits in model.layers.0.")
    assert "of 23 weight matrices; the floor is 8 bits" in result.summary
    (estimate,) = result.estimates
    assert (estimate.compressed, estimate.limit, estimate.samples) == (8.0, 8.0, 23)
    assert result.confidence == 1.0


def test_one_coarse_matrix_among_fine_ones_is_regressed_and_named(one_coarse: Any) -> None:
    result = check(one_coarse)
    assert result.verdict is Verdict.REGRESSED
    assert "1 of 23 weight matrices has fewer than 8 bits" in result.summary
    assert f"the fewest are 2 bits in {LAYER}.weight" in result.summary
    assert "safety_preserved of this artefact has no result in this run" in result.summary
    text = failure_text([result])
    assert f"{LAYER}.weight: 2 bits" in text
    assert "keep_in_full_precision" in text
    assert "@safety_preserved" in text
    row = "\n".join(line.text for line in table([result], 200))
    assert "2 bits" in row
    assert "8 bits" in row
    assert check(one_coarse, min_bits=2).verdict is Verdict.PRESERVED


def test_evidence_of_this_artefact_lets_it_pass_and_is_shown(one_coarse: Any) -> None:
    cached = evidence(answers=600, answers_cached=300)
    result = check(one_coarse, [cached, evidence("edge_cases_preserved", limit=0.05)])
    assert result.verdict is Verdict.PRESERVED
    assert "2 bits in" in result.summary
    assert "passed safety_preserved, edge_cases_preserved in this run" in result.summary
    notes = "\n".join(result.notes)
    assert "Evidence: safety_preserved with a limit of 0.02 at confidence 0.95" in notes
    assert "300 of 600 answers came from the cache of earlier runs" in notes
    strict = check(one_coarse, [cached], unless_verified=False)
    assert strict.verdict is Verdict.REGRESSED
    assert "unless_verified=False allows no exception" in strict.summary


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([], "has no result in this run"),
        ([evidence(verdict=Verdict.REGRESSED)], "safety_preserved of this artefact is REGRESSED"),
        ([evidence(verdict=Verdict.INCONCLUSIVE)], "is INCONCLUSIVE"),
        ([evidence(verdict=Verdict.NOT_MEASURED)], "is NOT_MEASURED"),
        ([evidence(expected=True)], "is PRESERVED and expected (xfail)"),
        ([evidence(limit=0.1)], "max_degradation=0.1 at confidence 0.95 only"),
        ([evidence(confidence=0.6)], "at confidence 0.6 only"),
        ([evidence(provenance={})], "has no result in this run"),
        (
            [evidence(provenance={"compressed": {"weights_digest": "0" * 64}})],
            "has no result in this run",
        ),
        ([evidence("no_safety_bypass")], "has no result in this run"),
        ([evidence("over_refusal_preserved")], "has no result in this run"),
        (
            [evidence(), evidence("no_safety_bypass", verdict=Verdict.REGRESSED)],
            "no_safety_bypass of this artefact is REGRESSED",
        ),
        ([evidence(), evidence(verdict=Verdict.REGRESSED)], "is REGRESSED"),
    ],
)
def test_what_is_no_evidence(results: list[CheckResult], reason: str, one_coarse: Any) -> None:
    found = weigh(SafetyEvidence(tuple(results)), DIGEST)
    assert not found.verified
    assert found.accepted == ()
    assert any(reason in one for one in found.objections)
    result = check(one_coarse, results)
    assert result.verdict is Verdict.REGRESSED
    assert reason in failure_text([result])


def test_other_checks_and_a_looser_test_beside_a_strict_one_do_not_object() -> None:
    results = (
        evidence(),
        evidence(limit=0.1),
        evidence("over_refusal_preserved", verdict=Verdict.REGRESSED),
        evidence(
            verdict=Verdict.REGRESSED, provenance={"compressed": {"weights_digest": "0" * 64}}
        ),
    )
    found = weigh(SafetyEvidence(results), DIGEST)
    assert found.verified
    assert [one.limit for one in found.accepted] == [0.02, 0.1]
    barred = weigh(SafetyEvidence(results, ("test_x is skipped",)), DIGEST)
    assert barred.objections == ("test_x is skipped",)


def test_the_checks_that_count_are_checks() -> None:
    from pytest_compsec.markers import MARKERS

    assert MARKERS.keys() >= set(SAFETY_CHECKS)
    assert not any(MARKERS[name].fixtures for name in SAFETY_CHECKS)


@pytest.mark.parametrize("given", ["report.json", [{"check": "safety_preserved"}], 3])
def test_a_report_in_a_file_is_no_evidence(given: Any) -> None:
    with pytest.raises(ValueError, match="evidence"):
        given_evidence(given)


def test_nothing_is_asked_for_above_the_floor(eight_bits: Any) -> None:
    def ask() -> SafetyEvidence:
        raise AssertionError("not needed")

    from pytest_compsec.checks.precision_policy import measure_precision_policy

    pair: Any = Pair(eight_bits)
    arguments = precision_policy_arguments().with_evidence(ask)
    assert measure_precision_policy(pair, arguments).verdict is Verdict.PRESERVED


def test_a_model_that_shows_no_weights_is_not_measured() -> None:
    class Served:
        arm = ARM

        @property
        def weights(self) -> None:
            raise MeasurementError("tiny-q8 is served: its weights are not here")

    class ServedPair(Pair):
        compressed: Any = Served()

    pair: Any = ServedPair(None)
    result = check_precision_policy(pair, evidence=[evidence()])
    assert result.verdict is Verdict.NOT_MEASURED
    assert "its weights are not here" in result.summary
    assert pair.rechecked == 1


def test_a_hidden_matrix_is_not_measured_and_never_preserved(
    eight_bits: Any, one_coarse: Any
) -> None:
    from tests.unit.models.test_matrix_bits import Hidden

    hidden = copy_of(eight_bits)
    hidden.set_submodule("model.layers.0.mlp.up_proj", Hidden())
    result = check(hidden)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "1 part not measured: model.layers.0.mlp.up_proj keeps its weights" in result.summary
    both = copy_of(one_coarse)
    both.set_submodule("model.layers.0.mlp.up_proj", Hidden())
    assert check(both).verdict is Verdict.REGRESSED, "what is known breaks the policy already"
    assert check(both, [evidence()]).verdict is Verdict.NOT_MEASURED


def test_files_that_changed_meanwhile_are_an_integrity_error(eight_bits: Any) -> None:
    pair: Any = Pair(eight_bits, IntegrityError("other bytes"))
    with pytest.raises(IntegrityError):
        check_precision_policy(pair)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_bits": 0}, "from 1 to 64"),
        ({"min_bits": True}, "number of bits"),
        ({"min_bits": "8"}, "number of bits"),
        ({"min_bits": float("nan")}, "from 1 to 64"),
        ({"unless_verified": 1}, "True or False"),
        ({"models": 3}, "models=3"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision_policy_arguments(**arguments)


def test_arguments_as_the_user_would_write_them() -> None:
    arguments = precision_policy_arguments(min_bits=4, variants="nf4")
    assert arguments.margin_name == "min_bits"
    assert arguments.to_json() == {
        "min_bits": 4.0,
        "unless_verified": True,
        "models": None,
        "variants": ["nf4"],
    }
