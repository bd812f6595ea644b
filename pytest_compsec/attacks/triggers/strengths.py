"""How much of a trigger is put on: a share in (0, 1], where 1 is the whole trigger."""

from __future__ import annotations

import math


def require_strength(strength: float) -> float:
    """``strength`` itself. Raises ValueError unless it is in (0, 1]."""
    if (
        isinstance(strength, bool)
        or not isinstance(strength, (int, float))
        or not 0 < strength <= 1
    ):
        raise ValueError(f"strength={strength!r} must be greater than 0 and at most 1")
    return float(strength)


def share_of(count: int, strength: float) -> int:
    """``strength`` of ``count`` things, rounded up, at least one."""
    # The small amount keeps 0.1 * 30 = 3.0000000000000004 from becoming 4.
    return max(1, math.ceil(require_strength(strength) * count - 1e-9))
