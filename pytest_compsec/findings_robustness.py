"""What was found out about adversarial robustness: both arms under the same attacks.

Plain JSON-safe data, as everything in :mod:`pytest_compsec.findings`. All numbers are counts of
samples unless said otherwise.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class AttackFinding:
    """One attack on both arms: of the samples that an arm classifies right, how many it still
    classifies right under this attack alone.

    ``name``: ``white-box``, ``transfer`` (examples made on the other arm), ``query``, or
    ``quantization-aware`` (examples made on a simulated quantized model)."""

    name: str
    original: int
    compressed: int


@dataclasses.dataclass(frozen=True)
class MaskingFinding:
    """A sign that the white-box attack on an ``arm`` is weaker than it should be.

    ``attack`` knows less than the white-box attack, yet fooled ``only_attack`` samples that that
    one did not, against ``only_white_box`` the other way round; ``pvalue``: of the exact one-sided
    McNemar test. ``attack`` is "" where the white-box attack found no gradient on ``only_attack``
    samples at all."""

    arm: str
    attack: str
    only_attack: int
    only_white_box: int
    pvalue: float | None


@dataclasses.dataclass(frozen=True)
class LoweredWall:
    """Of ``n`` samples that both arms classify right: for ``lost`` of them some example is resisted
    by the original and fools the compressed model, for ``mirrored`` some example the other way
    round. The bounds are Clopper-Pearson's, each one-sided at the check's confidence."""

    n: int
    lost: int
    lost_lower: float
    lost_upper: float
    mirrored: int
    mirrored_lower: float
    mirrored_upper: float


@dataclasses.dataclass(frozen=True)
class RobustnessFinding:
    """Both arms on ``n`` samples under attacks within ``eps`` of each sample in ``norm``.

    ``*_clean``: classified right without an attack. ``*_robust``: and under every attack (the worst
    counts). ``masking``: what makes the numbers invalid, empty where nothing does.
    ``*_gradients``: how the white-box attack got them, ``own`` or ``straight-through``.
    ``regressed_samples``: places in the data of the first samples where only the original held.
    ``forward_passes`` and ``backward_passes`` are in samples, of all models together."""

    n: int
    eps: float
    norm: str
    original_clean: int
    compressed_clean: int
    original_robust: int
    compressed_robust: int
    attacks: tuple[AttackFinding, ...]
    masking: tuple[MaskingFinding, ...]
    original_gradients: str
    compressed_gradients: str
    regressed_samples: tuple[int, ...]
    forward_passes: int
    backward_passes: int
    wall: LoweredWall | None = None
