"""How far what layers put out is from what they put out in the original, on given prompts.

Each model reads the prompts by itself, so that the error of a layer holds all errors of the layers
before it: ``||Y - Y'|| / ||Y||`` over all positions of all prompts together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pytest_compsec.localization.log_odds import Batch, last_logits
from pytest_compsec.localization.weight_error import relative_error


def activation_errors(
    original: Any,
    compressed: Any,
    layers: Mapping[str, tuple[torch.nn.Module, torch.nn.Module]],
    rows: Sequence[Sequence[int]],
    devices: tuple[str, str],
) -> dict[str, float | None]:
    """Name -> relative error, for each pair of parts (linear layers or whole decoder layers); None
    for one that was not called the same number of times in both (an expert that was not chosen).

    ``rows`` are token ids, read one by one: there is no padding, and the outputs of one prompt are
    all that is kept.
    """
    from pytest_compsec.generation.greedy import left_padded

    difference: dict[str, float] = dict.fromkeys(layers, 0.0)
    norm: dict[str, float] = dict.fromkeys(layers, 0.0)
    unseen: set[str] = set()
    called: set[str] = set()
    for row in rows:
        before: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
        after: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
        for arm, module in enumerate((original, compressed)):
            batch = Batch((0,), *left_padded([row], devices[arm]))
            outputs = before if arm == 0 else after
            with contextlib.ExitStack() as stack:
                for name, pair in layers.items():
                    handle = pair[arm].register_forward_hook(_keeps(outputs[name]))
                    stack.callback(handle.remove)
                last_logits(module, batch)
        for name in layers:
            if [one.shape for one in before[name]] != [one.shape for one in after[name]]:
                unseen.add(name)
                continue
            for first, second in zip(before[name], after[name], strict=True):
                called.add(name)
                wide = first.double()
                difference[name] += float((wide - second.to(wide)).square().sum())
                norm[name] += float(wide.square().sum())
    return {
        name: relative_error(difference[name] ** 0.5, norm[name] ** 0.5)
        if name in called and name not in unseen
        else None
        for name in layers
    }


def _keeps(outputs: list[torch.Tensor]) -> Callable[..., None]:
    def keep(layer: Any, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, (tuple, list)) else output
        outputs.append(first.detach().clone())

    return keep
