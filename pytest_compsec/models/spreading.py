"""A model that is larger than one GPU is spread over those that there are.

Decided from sizes and free memory before weights are moved. The layers stay whole and in order, the
first on the first GPU, which is where prompts go; accelerate's hooks carry what passes between
layers. Nothing is ever offloaded to main memory or disk: a run would take days without saying why.
Whoever names a GPU by number (``device: cuda:1``) gets that one alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import LoadError

if TYPE_CHECKING:
    import torch

    from pytest_compsec.models.arm import Arm

#: Share of a GPU's free memory that weights may take where there are several: the rest is for the
#: key-value cache and activations.
WEIGHTS_SHARE = 0.85


@dataclasses.dataclass(frozen=True)
class Room:
    """The GPUs that an arm may use, in order, and the free bytes of each."""

    free: Mapping[str, int]

    @property
    def first(self) -> str:
        return next(iter(self.free))

    @property
    def for_weights(self) -> dict[str, int]:
        """Bytes of weights that each GPU may hold when the model is spread."""
        return {device: int(WEIGHTS_SHARE * free) for device, free in self.free.items()}

    def holds(self, size: int) -> bool:
        """Whether the first GPU holds ``size`` bytes of weights by itself, as it should where there
        are others; a GPU that is alone is filled to the brim."""
        limit = self.free[self.first] if len(self.free) == 1 else self.for_weights[self.first]
        return size <= limit

    def holds_nowhere(self, size: int) -> bool:
        """Whether all GPUs together cannot hold ``size`` bytes of weights."""
        return not self.holds(size) and size > sum(self.for_weights.values())


def room_for(arm: Arm, device: str) -> Room | None:
    """The GPUs that ``arm``, which is to run on ``device``, may be spread over: every visible one
    unless the arm names one by number. None where spreading does not arise: another device, or a
    recipe, which makes the variant on one device."""
    if not device.startswith("cuda") or arm.recipe is not None:
        return None
    if arm.device is not None and ":" in arm.device:
        return None
    import torch

    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return Room({name: torch.cuda.mem_get_info(torch.device(name))[0] for name in names})


def estimated_size(arm: Arm, dtype: str) -> int:
    """Bytes of the arm's weights in ``dtype``: exact, of a GGUF file an upper bound."""
    from pytest_compsec.models.pool import estimated_bytes  # The pool loads, and so imports this.

    return estimated_bytes(arm, dtype)


def require_room(arm: Arm, size: int, room: Room) -> None:
    """Raise LoadError when ``size`` bytes of weights fit nowhere."""
    if not room.holds_nowhere(size):
        return
    free = ", ".join(f"{device} {_gib(count)}" for device, count in room.free.items())
    raise LoadError(
        f"{arm.name}: its weights take {_gib(size)}, and there is not enough free memory for them "
        f"on the GPUs that are visible here ({free}). {_what_to_do(room)}"
    )


def spread(arm: Arm, module: torch.nn.Module, room: Room) -> torch.nn.Module:
    """``module``, which is in main memory, on the GPUs of ``room``: on the first if it fits there.

    Raises LoadError when it fits nowhere, or no cut between its layers makes it fit.
    """
    size = module_bytes(module)
    require_room(arm, size, room)
    if room.holds(size):
        return module.to(room.first)
    from accelerate import dispatch_model

    spread_module: torch.nn.Module = dispatch_model(
        module, device_map=device_map(arm, module, room.for_weights)
    )
    return spread_module


def device_map(arm: Arm, module: torch.nn.Module, for_weights: Mapping[str, int]) -> dict[str, Any]:
    """Which part of ``module`` goes where, as accelerate wants it; layers are never cut.

    Raises LoadError when a part would have to be offloaded.
    """
    from accelerate import infer_auto_device_map

    most: dict[int | str, int] = {"cpu": 0}
    for device, count in for_weights.items():
        most[int(device.removeprefix("cuda:"))] = count
    found: dict[str, Any] = infer_auto_device_map(
        module,
        max_memory=most,
        no_split_module_classes=sorted(getattr(module, "_no_split_modules", None) or ()),
    )
    offloaded = [name for name, place in found.items() if place in ("cpu", "disk")]
    if offloaded:
        shares = ", ".join(f"{device} {_gib(count)}" for device, count in for_weights.items())
        raise LoadError(
            f"{arm.name}: its layers cannot be divided over the visible GPUs (room for weights: "
            f"{shares}); {offloaded[0]!r} is left over. {_what_to_do(Room(for_weights))}"
        )
    return found


def module_bytes(module: torch.nn.Module) -> int:
    """Bytes of parameters and buffers, tied ones counted once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _what_to_do(room: Room) -> str:
    advice = (
        "Choose a smaller float type with 'dtype', more GPUs, or serve the model and name its "
        "address with 'endpoint'"
    )
    if len(room.free) == 1 and "PYTEST_XDIST_WORKER" in os.environ:
        # A worker sees the GPU that it was given.
        return f"Each worker of pytest-xdist has one GPU: run with -n0 to use all. {advice}"
    return advice


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
