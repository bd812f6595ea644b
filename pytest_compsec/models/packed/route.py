"""Which code computes with a packed checkpoint: gptqmodel's kernels, or our own unpacking."""

from __future__ import annotations

import importlib.util


def uses_gptqmodel(device: str) -> bool:
    """Whether transformers loads GPTQ and AWQ checkpoints with gptqmodel on ``device``.

    It does where gptqmodel, and optimum through which transformers calls it, are installed and
    the device is a CUDA device, for which gptqmodel has kernels that are faster than dense weights.
    On a CPU its kernel unpacks the weights anew for every multiplication, so they are unpacked
    once, here. The two differ in the last bits of an answer; the route is recorded by what decides
    it: the kind of device and the version of gptqmodel, or its absence, are part of the identity
    under which answers are cached (:mod:`pytest_compsec.models.identity`).
    """
    return device.startswith("cuda") and all(
        importlib.util.find_spec(name) is not None for name in ("gptqmodel", "optimum")
    )
