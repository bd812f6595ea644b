"""The checks of arguments that every module of this room shares."""

from __future__ import annotations

import importlib
import math
import operator
from typing import Any, SupportsIndex


def special_functions() -> Any:
    """``scipy.special``, loaded on first use so that importing this package stays cheap."""
    return importlib.import_module("scipy.special")


def whole_number(name: str, value: SupportsIndex, least: int = 0) -> int:
    """``value`` as an int of at least ``least`` (numpy integers welcome, booleans not)."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def real_between(
    name: str,
    value: float,
    low: float,
    high: float,
    *,
    with_low: bool = False,
    with_high: bool = False,
) -> float:
    """``value`` as a float inside the interval from ``low`` to ``high``, open by default."""
    interval = f"{'[' if with_low else '('}{low:g}, {high:g}{']' if with_high else ')'}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number in {interval}, got {value!r}") from None
    above = number >= low if with_low else number > low
    below = number <= high if with_high else number < high
    if not (math.isfinite(number) and above and below):
        raise ValueError(f"{name} must lie in {interval}, got {number!r}")
    return number


def risk_of(confidence: float) -> float:
    """One-sided error rate 1 − confidence; the confidence of a verdict lies in (0.5, 1).

    Rounded to 12 decimals, so that a confidence of 0.95 means 0.05 and not 0.05 + 4e-17.
    """
    risk = round(1.0 - real_between("confidence", confidence, 0.5, 1.0), 12)
    if risk <= 0.0:
        raise ValueError(f"confidence {confidence!r} is too near to 1 to be told from it")
    return risk


def two_sided(confidence: float) -> float:
    """Level 1 − 2α of the two-sided interval whose bounds each hold at ``confidence``."""
    return 1.0 - 2.0 * risk_of(confidence)


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution."""
    # not the standard library's NormalDist: a user's test folder named "statistics" can shadow it
    return float(special_functions().ndtri(probability))
