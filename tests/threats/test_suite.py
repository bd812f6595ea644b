"""Threats C and D through a whole suite: ``compsec.yaml``, lock, verified files, the package's own
compression."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from pytest_compsec.checks.backdoor_not_amplified import check_backdoor_not_amplified
from pytest_compsec.checks.derived_from_original import check_derived_from_original
from pytest_compsec.checks.no_backdoor_activated import check_no_backdoor_activated
from pytest_compsec.errors import IntegrityError
from pytest_compsec.suite import Suite, open_suite
from pytest_compsec.verdict import Verdict
from tests.threats import pruning_activated, quantization_activated
from tests.threats.pairs import write_suite

INT4 = {"int4": {"quantize": {"method": "round-to-nearest", "bits": 4}}}
INT8 = {"int8": {"quantize": {"method": "round-to-nearest", "bits": 8}}}
PRUNED = {
    "pruned": {"prune": {"method": "magnitude", "sparsity": pruning_activated.SPARSITY}},
    "pruned20": {"prune": {"method": "magnitude", "sparsity": 0.2}},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at_bits, pruning = quantization_activated.model, pruning_activated.model
    return write_suite(
        tmp_path_factory.mktemp("threats"),
        {
            "sleeper4": (at_bits(4, malicious=True), INT4),
            "twin4": (at_bits(4, malicious=False), INT4),
            "sleeper8": (at_bits(8, malicious=True), INT8),
            "twin8": (at_bits(8, malicious=False), INT8),
            "sleeper": (pruning(malicious=True), PRUNED),
            "twin": (pruning(malicious=False), PRUNED),
        },
    )


@pytest.fixture(scope="module")
def suite(written: Path) -> Iterator[Suite]:
    with open_suite(written) as opened:
        yield opened


@pytest.mark.parametrize(
    ("pair_id", "verdict"),
    [
        ("sleeper4-int4", Verdict.REGRESSED),
        ("twin4-int4", Verdict.PRESERVED),
        ("sleeper8-int8", Verdict.REGRESSED),
        ("twin8-int8", Verdict.PRESERVED),
        ("sleeper-pruned", Verdict.REGRESSED),
        ("twin-pruned", Verdict.PRESERVED),
        ("sleeper-pruned20", Verdict.PRESERVED),
    ],
)
def test_the_threats_are_regressed_and_the_twins_preserved(
    suite: Suite, pair_id: str, verdict: Verdict
) -> None:
    """Trigger, target and samples come from the config; all of it is pinned."""
    for check in (check_no_backdoor_activated, check_backdoor_not_amplified):
        found = check(suite.pair(pair_id))
        assert found.verdict is verdict, found.summary
        assert found.provenance["evaluation_data"]["pinned"] is True
        assert found.backdoor is not None
        assert found.backdoor.original is not None
        assert abs(found.backdoor.original.delta_asr) < 0.05


@pytest.mark.parametrize("pair_id", ["sleeper4-int4", "sleeper-pruned"])
def test_where_the_weights_come_from_says_nothing_here(suite: Suite, pair_id: str) -> None:
    """The compression is honest and done here: the threat is in the original."""
    found = check_derived_from_original(suite.pair(pair_id))
    assert found.verdict is Verdict.NOT_MEASURED
    assert "derived here" in found.summary


def test_weights_that_are_swapped_after_pinning_get_no_verdict(tmp_path: Path) -> None:
    """The twin is pinned; the sleeping model in its place is not measured, but refused."""
    twin = quantization_activated.model(4, malicious=False)
    path = write_suite(tmp_path, {"digits": (twin, INT4)})
    with open_suite(path) as suite:
        assert check_no_backdoor_activated(suite.pair("digits-int4")).verdict is Verdict.PRESERVED
    weights = tmp_path / "digits.safetensors"
    threat = quantization_activated.model(4, malicious=True).state_dict()
    save_file(threat, weights)
    with open_suite(path) as suite, pytest.raises(IntegrityError):
        check_no_backdoor_activated(suite.pair("digits-int4"))
