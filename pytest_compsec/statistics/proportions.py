"""Two-sided intervals of one proportion.

Used for the conditional loss: of the prompts that the original refused (``n``), how many the
compressed model answers (``successes``).
"""

from __future__ import annotations

import math

from pytest_compsec.statistics._validate import (
    normal_quantile,
    real_between,
    special_functions,
    whole_number,
)


def wilson_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Score interval of ``successes / n`` (Wilson 1927), without continuity correction.

    Raises ValueError unless 0 <= successes <= n, n >= 1 and confidence lies in (0, 1).
    """
    successes, n = _checked(successes, n)
    confidence = real_between("confidence", confidence, 0.0, 1.0)
    z = normal_quantile(0.5 + confidence / 2)
    centre = successes + z * z / 2
    half = z * math.sqrt(successes * (n - successes) / n + z * z / 4)
    # the exact ends, where rounding would leave a stray 1e-18
    lower = 0.0 if successes == 0 else max(0.0, (centre - half) / (n + z * z))
    upper = 1.0 if successes == n else min(1.0, (centre + half) / (n + z * z))
    return lower, upper


def clopper_pearson_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Exact interval of ``successes / n`` (Clopper & Pearson 1934): covers at least as promised.

    Raises ValueError unless 0 <= successes <= n, n >= 1 and confidence lies in (0, 1).
    """
    successes, n = _checked(successes, n)
    tail = (1.0 - real_between("confidence", confidence, 0.0, 1.0)) / 2
    inverse = special_functions().betaincinv
    lower = 0.0 if successes == 0 else float(inverse(successes, n - successes + 1, tail))
    upper = (
        1.0
        if successes == n
        else float(special_functions().betainccinv(successes + 1, n - successes, tail))
    )
    return lower, upper


def _checked(successes: int, n: int) -> tuple[int, int]:
    n = whole_number("n", n, least=1)
    successes = whole_number("successes", successes)
    if successes > n:
        raise ValueError(f"successes ({successes}) must not exceed n ({n})")
    return successes, n
