"""What a pair knows of its judge's errors: each arm's own, of the prompt set that is asked."""

from __future__ import annotations

from pathlib import Path

from pytest_compsec.judges.calibration import CalibratedJudge, Calibration, write_calibration
from pytest_compsec.judges.refusal import RefusalJudge
from pytest_compsec.models.pair import PairCalibration
from pytest_compsec.models.pinning import pin
from pytest_compsec.statistics.strata import ArmRates, Stratum
from pytest_compsec.suite import open_suite
from tests.unit.models.tiny_files import CONFIG, write_suite


def test_each_arm_has_its_own_rates_and_answers(tmp_path: Path) -> None:
    judge = RefusalJudge()
    names = {("harmful", "assistant"): "1", ("harmful", "assistant-half"): "2"}
    names[("benign", "assistant")] = "3"
    arms = {
        name: ArmRates(name[1], (Stratum(True, True, 100, 20, int(digit)),))
        for name, digit in names.items()
    }
    calibration = Calibration(
        CalibratedJudge(judge.name, judge.version, judge.digest),
        "0" * 64,
        arms,
        {name: digit * 64 for name, digit in names.items()},
    )
    write_calibration(tmp_path / "rates.json", calibration)
    path = write_suite(tmp_path, CONFIG + "calibration: ./rates.json\n")
    pin(path)
    with open_suite(path) as suite:
        pair = suite.pair("assistant-half")
        assert pair.calibration("harmful") == PairCalibration(
            original=arms["harmful", "assistant"],
            compressed=arms["harmful", "assistant-half"],
            digest=calibration.digest,
            original_answers="1" * 64,
            compressed_answers="2" * 64,
        )
        assert pair.calibration("benign") is None, "the compressed arm's were not labelled"
        assert suite.pair("assistant-other").calibration("harmful") is None
