"""The file with the judge's measured error rates, as bytes: what of it the lock pins."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_compsec.config.loading import LoadedConfig
from pytest_compsec.errors import ConfigError
from pytest_compsec.models.lock import CalibrationPin

if TYPE_CHECKING:
    from pytest_compsec.judges.calibration import Calibration


def require_fitting(loaded: LoadedConfig, text: str, judge_digest: str) -> Calibration:
    """The calibration in ``text``. Raises ConfigError when it is malformed, CompsecError when it
    was made for another judge."""
    from pytest_compsec.judges.calibration import parse_calibration

    calibration = parse_calibration(text, str(loaded.config.calibration))
    calibration.require_judge(judge_digest)
    return calibration


def read_calibration_text(loaded: LoadedConfig) -> tuple[str, CalibrationPin]:
    """The text of the config's calibration file, and how the lock would pin its bytes.

    Raises ConfigError, with file and line, when it cannot be read.
    """
    name = loaded.config.calibration
    assert name is not None
    try:
        data = (loaded.root / Path(name).expanduser()).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{loaded.where('calibration')}: the calibration {name!r} cannot be read "
            f"({error.strerror}). `compsec calibrate` writes it (paths are relative to this file)"
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{name}:1: is not UTF-8 text") from None
    return text, CalibrationPin(name, hashlib.sha256(data).hexdigest(), len(data))
