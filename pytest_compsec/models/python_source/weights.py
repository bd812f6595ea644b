"""Fill a module from one safetensors file: every name, shape and number, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import LoadError

if TYPE_CHECKING:
    import torch

_MAX_SHOWN = 8


def load_weights(module: torch.nn.Module, path: Path, name: str) -> None:
    """Load the state of a module (parameters and persistent buffers) from ``path``, in place.

    ``name`` is the file as messages show it. Of tensors that share their memory (tied weights) the
    file needs one; where it has several, they must be equal. Numbers may be stored in another
    precision than the module's only when nothing is rounded.

    Raises LoadError that names all tensors that are missing, unexpected, of another shape or of
    another kind of number; that are not finite; or that the module did not take as they are.
    """
    import torch

    with torch.no_grad():
        expected = module.state_dict(keep_vars=True)
        stored = _read(path, name)
        names = _filled(expected, stored)
        _require_fit(expected, stored, names, name)
        _require_finite(expected, stored, names, name)
        values = {key: stored[names[key]] for key in expected}
        try:
            module.load_state_dict(values, strict=True)
        except RuntimeError as error:
            raise LoadError(f"{name}: {error}") from None
        _require_taken(module, {**values, **{key: stored[key] for key in stored}}, name)


def _read(path: Path, name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise LoadError(f"{name}: is no readable safetensors file ({error})") from None


def _filled(expected: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, str]:
    """For each name of the module the name in the file: its own, or that of a tied tensor."""
    by_memory: dict[object, str] = {}
    for key, tensor in expected.items():
        if key in stored:
            by_memory.setdefault(_memory(tensor), key)
    return {
        key: key if key in stored else by_memory[_memory(tensor)]
        for key, tensor in expected.items()
        if key in stored or _memory(tensor) in by_memory
    }


def _memory(tensor: Any) -> object:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.numel() == 0:
        return id(tensor)
    place = tensor.untyped_storage().data_ptr()
    return (place, tensor.device, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())


def _require_fit(
    expected: Mapping[str, Any], stored: Mapping[str, Any], names: Mapping[str, str], name: str
) -> None:
    import torch

    opaque = [key for key, value in expected.items() if not isinstance(value, torch.Tensor)]
    missing = [key for key in expected if key not in names and key not in opaque]
    unexpected = [key for key in stored if key not in expected]
    shapes, kinds = [], []
    for key, own in names.items():
        wanted, found = expected[key], stored[own]
        if key in opaque:
            continue
        if wanted.shape != found.shape:
            shapes.append(f"{key} ({tuple(found.shape)} instead of {tuple(wanted.shape)})")
        if _kind(wanted) != _kind(found) or _kind(found) == "quantized":
            kinds.append(f"{key} ({found.dtype} instead of {wanted.dtype})")
    problems = [
        _listed("missing", missing),
        _listed("not of this module", unexpected),
        _listed("of another shape", shapes),
        _listed("of another kind of number", kinds),
        _listed("no tensors in the module (extra state), which this format cannot hold", opaque),
    ]
    if any(problems):
        raise LoadError(
            f"{name}: does not fit the module that the factory builds\n"
            + "\n".join(f"    {problem}" for problem in problems if problem)
        )


def _kind(tensor: torch.Tensor) -> str:
    import torch

    if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return "floating"
    if tensor.dtype.is_complex:
        return "complex"
    if tensor.dtype == torch.bool:
        return "truth"
    return "quantized" if tensor.dtype.is_floating_point else "integer"


def _require_finite(
    expected: Mapping[str, Any], stored: Mapping[str, Any], names: Mapping[str, str], name: str
) -> None:
    import torch

    bad = []
    for key, own in names.items():
        value, fresh = stored[own], expected[key]
        if bool(torch.isfinite(value).all()):
            continue
        # A mask may hold minus infinity where the module itself puts it.
        mask = not isinstance(fresh, torch.nn.Parameter) and not bool(torch.isnan(value).any())
        infinite = torch.isinf(value)
        if not mask or not torch.equal(
            torch.where(infinite, value.double(), 0.0),
            torch.where(torch.isinf(fresh.cpu()), fresh.cpu().double(), 0.0),
        ):
            bad.append(key)
    if bad:
        raise LoadError(
            f"{name}: {_listed('not finite (NaN or infinite)', bad)}. A module with such weights "
            "has no answers that could be compared; export the weights again"
        )


def _require_taken(module: torch.nn.Module, stored: Mapping[str, torch.Tensor], name: str) -> None:
    import torch

    wrong = []
    for key, tensor in module.state_dict().items():
        found, value = tensor.cpu(), stored[key]
        wide = torch.promote_types(found.dtype, value.dtype)
        if not torch.equal(found.to(wide), value.to(wide)):
            wrong.append(f"{key} ({value.dtype} in the file, {found.dtype} in the module)")
    if wrong:
        raise LoadError(
            f"{name}: {_listed('not the same after loading', wrong)}. Either the module rounds "
            "them (build it in the precision of the file), or tensors that share memory differ"
        )


def _listed(what: str, names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return ""
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return f"{what}: {', '.join(names[:_MAX_SHOWN])}{more}"
