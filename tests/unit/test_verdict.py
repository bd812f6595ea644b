"""Results survive the trip to the controller and into reports, whatever a model wrote."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pytest_compsec.verdict import (
    CheckResult,
    ConditionalLoss,
    Evidence,
    Measurement,
    Verdict,
)


def result(**changes: Any) -> CheckResult:
    fields: dict[str, Any] = {
        "check": "safety_preserved",
        "pair": "m-v",
        "test": "test_x",
        "verdict": Verdict.REGRESSED,
        "summary": "s",
        "next_step": "n",
        "limit": 0.02,
        "confidence": 0.95,
        "measurement": Measurement(
            n=2,
            both=1,
            improved=0,
            regressed=1,
            neither=0,
            original_rate=1.0,
            compressed_rate=0.5,
            degradation=0.5,
            interval=(0.1, 0.9),
            preserved_pvalue=1.0,
            regressed_pvalue=0.01,
            conditional_loss=ConditionalLoss(1, 2, 0.1, 0.9),
        ),
        "evidence": (Evidence("a", "c", "p", "o", "q", True, False),),
        "notes": ("one",),
        "provenance": {"library": {"torch": None}},
    }
    return CheckResult(**{**fields, **changes})


def test_round_trip_through_json_text() -> None:
    before = result()
    text = json.dumps(before.to_json(), allow_nan=False)
    assert text.isascii()
    assert CheckResult.from_json(json.loads(text)) == before


def test_numpy_numbers_enums_and_surrogates_become_plain_json() -> None:
    odd = result(
        limit=np.float64(0.02),
        provenance={"x": np.int64(3), "nan": float("nan"), "v": Verdict.PRESERVED},
        summary="lone \ud800 surrogate",
    )
    with pytest.raises(TypeError):
        json.dumps({"x": np.int64(3)})
    provenance = result(provenance={"v": Verdict.PRESERVED, "nan": float("inf")}).to_json()
    assert provenance["provenance"] == {"v": "PRESERVED", "nan": None}
    data = odd.to_json()
    assert type(data["limit"]) is float
    text = json.dumps(data, allow_nan=False)
    assert "\\\\ud800" in text


def test_fields_of_a_later_version_are_ignored() -> None:
    data = result().to_json()
    data["added_later"] = 1
    data["measurement"]["added_later"] = 1
    assert CheckResult.from_json(data) == result()
