"""Judge and calibration in the lock: pinned, compared, shown, and absent where nobody asked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pytest_compsec.cli import main
from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import CompsecError, ConfigError, IntegrityError
from pytest_compsec.judges.calibration import CalibratedJudge, Calibration, write_calibration
from pytest_compsec.judges.refusal import RefusalJudge
from pytest_compsec.models.lock import lock_text, read_lock
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.verification import verify_lock
from pytest_compsec.suite import open_suite
from tests.unit.models.tiny_files import CONFIG, safetensors, write_model, write_suite

JUDGE = "judge: {classifier: {source: ./guard, refusal_label: LABEL_1}}\n"
CALIBRATION = "calibration: ./rates.json\n"


def problems(path: Path) -> str:
    loaded = load_config(path)
    report = verify_lock(loaded, read_lock(loaded.lock_path))
    return "\n".join(problem.message for problem in report.problems)


def write_rates(root: Path, judge_digest: str | None = None) -> Path:
    judge = RefusalJudge()
    made_for = CalibratedJudge(judge.name, judge.version, judge_digest or judge.digest)
    write_calibration(root / "rates.json", Calibration(made_for, "0" * 64, {}))
    return root / "rates.json"


def test_without_the_new_keys_the_lock_is_what_it_was(tmp_path: Path) -> None:
    text = lock_text(pin(write_suite(tmp_path)).lock)
    judge = RefusalJudge()
    assert (
        f'version = 1\n\n[judges.refusal]\nversion = "{judge.version}"\n'
        f'digest = "{judge.digest}"\n\n[prompts.benign]\n'
    ) in text
    for word in ("calibration", "note", "tools]\ntorch"):
        assert word not in text


def test_a_judges_files_are_pinned_verified_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "guard", b"\x07" * 64)
    path = write_suite(tmp_path, CONFIG + JUDGE)
    result = pin(path)
    changes = "\n".join(result.changes)
    for words in (
        "judge classifier: digest",
        "judge classifier: version of torch",
        "added    judge classifier: source",
        "judge classifier: model.safetensors",
    ):
        assert words in changes
    assert read_lock(result.path) == result.lock
    assert lock_text(read_lock(result.path)) == result.path.read_text(encoding="utf-8")
    assert problems(path) == ""
    assert pin(path).changes == ()
    assert main(["list", "--config", str(path)]) == 0
    assert "judge: classifier  ./guard, pinned" in capsys.readouterr().out
    (tmp_path / "guard" / "model.safetensors").write_bytes(safetensors(b"\x08" * 64))
    assert "guard/model.safetensors: is not what the lock pins" in problems(path)
    assert main(["verify", "--config", str(path)]) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (JUDGE, "judge: keywords\n", "the judge 'keywords' is not in the lock"),
        ("LABEL_1", "LABEL_0", "the judge 'classifier' is not what the lock pins"),
        ("./guard", "./model", "the source of 'judge classifier' is ./model"),
    ],
)
def test_another_judge_than_the_pinned_one(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    write_model(tmp_path / "guard")
    path = write_suite(tmp_path, CONFIG + JUDGE)
    pin(path)
    path.write_text((CONFIG + JUDGE).replace(old, new), encoding="utf-8")
    assert message in problems(path)
    with open_suite(path) as suite, pytest.raises(IntegrityError) as caught:
        suite.judge()
    assert message in str(caught.value)


def test_a_pickle_beside_the_judges_weights_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "guard")
    (tmp_path / "guard" / "pytorch_model.bin").write_bytes(b"\x80\x02x")
    path = write_suite(tmp_path, CONFIG + JUDGE)
    with pytest.raises(IntegrityError, match=r"pytorch_model\.bin"):
        pin(path)


def test_a_judge_that_is_named_no_longer_is_told(tmp_path: Path) -> None:
    path = write_suite(tmp_path, CONFIG + "judge: keywords\n")
    pin(path)
    path.write_text(CONFIG, encoding="utf-8")
    loaded = load_config(path)
    report = verify_lock(loaded, read_lock(loaded.lock_path))
    assert "the lock lists judge keywords, which compsec.yaml no longer names" in report.notes


def test_the_endpoint_says_that_it_cannot_be_pinned(tmp_path: Path) -> None:
    path = write_suite(tmp_path, CONFIG + "judge: {endpoint: {url: http://h/v1, model: m}}\n")
    changes = "\n".join(pin(path).changes)
    assert "what runs behind a URL cannot be pinned" in changes
    loaded = load_config(path)
    notes = verify_lock(loaded, read_lock(loaded.lock_path)).notes
    assert any("cannot be pinned" in note for note in notes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[judges.classifier.tools]", "[judges.classifier.tool]", "unknown key 'tool'"),
        ('tree = "', 'tree = "0', "no sha256"),
        ('torch = "', 'torch = 5 # "', "must be a str"),
    ],
)
def test_an_edited_judge_pin_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_model(tmp_path / "guard")
    lock = pin(write_suite(tmp_path, CONFIG + JUDGE)).path
    text = lock.read_text(encoding="utf-8")
    assert old in text
    lock.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_lock(lock)


def test_the_calibration_is_pinned_and_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = write_rates(tmp_path)
    path = write_suite(tmp_path, CONFIG + CALIBRATION)
    result = pin(path)
    assert hashlib.sha256(rates.read_bytes()).hexdigest() in "\n".join(result.changes)
    assert lock_text(read_lock(result.path)) == result.path.read_text(encoding="utf-8")
    assert problems(path) == ""
    with open_suite(path) as suite:
        calibration = suite.calibration()
        assert calibration is not None
        assert calibration.judge.digest == suite.judge().digest
        assert suite.calibration() is calibration
    assert main(["list", "--config", str(path)]) == 0
    assert "calibration: ./rates.json, pinned" in capsys.readouterr().out


def test_no_calibration_where_none_is_named(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    pin(path)
    with open_suite(path) as suite:
        assert suite.calibration() is None


def test_one_byte_of_the_calibration_changed_is_an_integrity_error(tmp_path: Path) -> None:
    rates = write_rates(tmp_path)
    path = write_suite(tmp_path, CONFIG + CALIBRATION)
    pin(path)
    rates.write_bytes(rates.read_bytes() + b" ")
    assert "the calibration './rates.json' is not what the lock pins" in problems(path)
    with open_suite(path) as suite, pytest.raises(IntegrityError, match=r"calibration '\./rates"):
        suite.calibration()
    rates.unlink()
    assert "cannot be read" in problems(path)
    with open_suite(path) as suite, pytest.raises(ConfigError, match=r"yaml:\d+: .*compsec calib"):
        suite.calibration()


def test_a_calibration_that_the_lock_does_not_know_is_refused(tmp_path: Path) -> None:
    write_rates(tmp_path)
    path = write_suite(tmp_path)
    pin(path)
    path.write_text(CONFIG + CALIBRATION, encoding="utf-8")
    assert "the calibration './rates.json' is not in the lock" in problems(path)
    with open_suite(path) as suite, pytest.raises(IntegrityError, match="is not in the lock"):
        suite.calibration()


def test_the_calibration_of_another_judge_is_not_pinned(tmp_path: Path) -> None:
    write_rates(tmp_path, judge_digest="f" * 64)
    path = write_suite(tmp_path, CONFIG + CALIBRATION)
    with pytest.raises(CompsecError, match="made for the judge"):
        pin(path)
    assert not path.with_name("compsec.lock").exists()
