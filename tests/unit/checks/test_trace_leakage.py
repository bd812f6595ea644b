"""From recorded traces to a verdict: a planted leak is red, noise is green only with power."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pytest_compsec.checks.trace_leakage import check_trace_leakage, trace_leakage_arguments
from pytest_compsec.config.pairs import PairName
from pytest_compsec.data import DataFile
from pytest_compsec.errors import ConfigError, NotCompressedError
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.reports.failure import failure_text
from pytest_compsec.reports.terminal import table
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.side_channels.test_traces import npz, planted

DIGEST = "ab" * 32
PEAK = "largest |t| in both halves"
POWER = "smallest leak that would have been seen"
WHOLE = "largest |t| over all traces"


class Pair:
    """As far as traces need one: names, data files, a digest."""

    id = "tiny-int8"
    config_name = "compsec.yaml"

    def __init__(self, files: dict[str, DataFile], pairs: tuple[PairName, ...] = ()) -> None:
        self.files = files
        self.name = PairName("tiny-int8", "tiny", "int8")
        self.suite = SimpleNamespace(pairs=pairs or (self.name,))
        self.compressed_arm = SimpleNamespace(weights_digest=DIGEST)
        self.rechecked = 0
        self.is_compressed = True

    def data(self, name: str) -> DataFile:
        if name not in self.files:
            raise ConfigError(f"compsec.yaml: there is no {name!r} under 'data'")
        return self.files[name]

    def require_compressed(self) -> None:
        if not self.is_compressed:
            raise NotCompressedError("no compression")

    def recheck(self) -> None:
        self.rechecked += 1

    def provenance_with(self, *files: DataFile) -> dict[str, Any]:
        return {"data": {file.name: file.sha256 for file in files}}


def arrays(effect: float, *, rows: int = 1000, seed: int = 0) -> dict[str, Any]:
    traces = planted(effect, rows=rows, seed=seed)
    return {"fixed": traces.fixed, "random": traces.random}


def check(found: Pair | dict[str, Any], **arguments: Any) -> CheckResult:
    pair = found if isinstance(found, Pair) else Pair({"probe": npz(**found)})
    any_pair: Any = pair
    result = check_trace_leakage(any_pair, **{"traces": "probe", **arguments})
    assert pair.rechecked == 1
    assert CheckResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == (
        CheckResult.from_json(result.to_json())
    )
    return result


def named(result: CheckResult) -> dict[str, Estimate]:
    return {estimate.name: estimate for estimate in result.estimates}


def test_a_planted_leak_is_regressed_and_its_place_is_named() -> None:
    result = check(arrays(0.8))
    assert result.verdict is Verdict.REGRESSED
    assert named(result)[PEAK].verdict == "REGRESSED"
    text = failure_text([result])
    assert "at sample point 123: |t|" in text
    assert "OWASP LLM02" in text
    assert "shield" in result.next_step
    assert table([result], 200)


def test_noise_is_preserved_where_a_leak_of_the_margin_would_have_shown() -> None:
    result = check(arrays(0.0), max_effect=0.5)
    assert result.verdict is Verdict.PRESERVED, result.summary
    assert named(result)[POWER].change == pytest.approx(0.409, abs=0.002)
    assert named(result)[POWER].samples == 2000
    assert any("(Sidak" in note for note in result.notes)
    assert result.provenance["data"]["probe"]


def test_noise_is_inconclusive_where_it_would_not() -> None:
    result = check(arrays(0.0), max_effect=0.2)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert POWER in result.summary
    assert "more traces" in result.next_step


def test_a_higher_threshold_does_not_buy_peace() -> None:
    result = check(arrays(0.8), threshold=30.0, max_effect=0.5)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert named(result)[POWER].verdict == "INCONCLUSIVE"


def test_what_only_one_half_shows_is_no_peace() -> None:
    found = arrays(0.0)
    found["fixed"][:500, 50] += 4.0
    result = check(found, max_effect=0.5)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert named(result)[WHOLE].decides


def test_a_leak_of_the_original_is_shown_beside() -> None:
    before = {f"original_{name}": side for name, side in arrays(0.9, seed=1).items()}
    result = check({**arrays(0.8), **before})
    assert result.verdict is Verdict.REGRESSED
    assert any("leak at 1 sample points, 1 of them" in note for note in result.notes)
    clean = {f"original_{name}": side for name, side in arrays(0.0, seed=1).items()}
    result = check({**arrays(0.8), **clean})
    assert any("the original's traces show no leak" in note for note in result.notes)
    shown = named(result)["largest |t| in both halves, the original's traces"]
    assert not shown.decides
    # A leaking original takes nothing from a compressed model that does not leak.
    assert check({**arrays(0.0), **before}, max_effect=0.5).verdict is Verdict.PRESERVED


def test_a_saturated_probe_is_not_measured() -> None:
    found = arrays(0.0)
    for side in found.values():
        side[:, :20] = 1.0
    result = check(found, max_effect=0.5)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "20 of 300 sample points never vary" in result.summary


def test_traces_of_other_weights_say_nothing_of_these() -> None:
    other = check({**arrays(0.8), "weights_digest": np.array("cd" * 32)})
    assert other.verdict is Verdict.NOT_MEASURED
    assert "cd" * 32 in other.summary
    own = check({**arrays(0.0), "weights_digest": np.array(DIGEST)}, max_effect=0.5)
    assert own.verdict is Verdict.PRESERVED
    assert not any("user's word" in note for note in own.notes)
    unsaid = check(arrays(0.0), max_effect=0.5)
    assert any("user's word" in note for note in unsaid.notes)


def test_one_recording_cannot_speak_for_two_models() -> None:
    pairs = tuple(
        PairName(f"{model}-{variant}", model, variant)
        for model in ("tiny", "small")
        for variant in ("int8", "nf4")
    )
    probe = npz(**arrays(0.0))
    both = Pair({"probe": probe, "probe-tiny-int8": probe}, pairs)
    with pytest.raises(ConfigError, match="tiny-int8, tiny-nf4, small-int8, small-nf4 by the same"):
        check(both)
    with pytest.raises(ConfigError, match="tiny-int8, small-int8 by the same"):
        check(both, variants="int8")
    assert check(both, variants="int8", models="tiny", max_effect=0.5).verdict is (
        Verdict.PRESERVED
    )
    both.rechecked = 0
    assert check(both, traces="probe-{model}-{variant}", max_effect=0.5).verdict is (
        Verdict.PRESERVED
    )


def test_what_is_not_there_or_no_traces_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match="no 'other' under 'data'"):
        check(arrays(0.0), traces="other")
    with pytest.raises(ConfigError, match=r"probe.npz:1: .*at least 40"):
        check({name: side[:39] for name, side in arrays(0.0).items()})


def test_a_variant_that_is_not_compressed_is_refused() -> None:
    pair = Pair({"probe": npz(**arrays(0.0))})
    pair.is_compressed = False
    with pytest.raises(NotCompressedError):
        check(pair)
    assert pair.rechecked == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"traces": ""}, "traces='' must be the name of data"),
        ({"traces": 3}, "traces=3"),
        ({"labels": ""}, "labels=''"),
        ({"threshold": 1}, "threshold=1 must be greater than 2"),
        ({"threshold": "4.5"}, "must be a number"),
        ({"max_effect": 0}, "max_effect=0 must be greater than 0"),
        ({"max_effect": float("nan")}, "max_effect=nan"),
        ({"confidence": 1}, "confidence=1"),
        ({"models": 3}, "models=3"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace_leakage_arguments(**{"traces": "probe", **arguments})


def test_arguments_as_the_user_would_write_them() -> None:
    arguments = trace_leakage_arguments(traces="probe", variants=["nf4"])
    assert arguments.to_json() == {
        "traces": "probe",
        "labels": None,
        "threshold": 4.5,
        "max_effect": 0.2,
        "confidence": 0.95,
        "models": None,
        "variants": ["nf4"],
    }
    assert arguments.prompts is None
