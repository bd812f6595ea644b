"""The decoder layers of a causal language model, in order, and a way to run them one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pytest_compsec.errors import NotCompressedError


def text_config(module: torch.nn.Module) -> Any:
    """The config of the language model inside ``module`` (of a model for images too: its text
    part). Raises NotCompressedError when there is none."""
    config = getattr(module, "config", None)
    get = getattr(config, "get_text_config", None)
    if get is None:
        raise NotCompressedError(
            f"layout not understood: {type(module).__name__} has no transformers config"
        )
    return get(decoder=True)


def decoder_layers(module: torch.nn.Module) -> torch.nn.ModuleList:
    """The one list of decoder layers, as many as ``num_hidden_layers`` says.

    Raises NotCompressedError ("layout not understood") when none or several are found.
    """
    get = getattr(module, "get_decoder", None)
    decoder = get() if get is not None else module
    wanted = getattr(text_config(module), "num_hidden_layers", None)
    lists = {
        name: child
        for name, child in decoder.named_modules()
        if isinstance(child, torch.nn.ModuleList) and len(child) == wanted
    }
    # A list inside of another one belongs to a layer (experts), and is no list of layers.
    outer = [
        child
        for name, child in lists.items()
        if not any(name.startswith(f"{other}.") for other in lists)
    ]
    if len(outer) != 1:
        raise NotCompressedError(
            f"layout not understood: {type(module).__name__} has {len(outer) or 'no'} lists of "
            f"{wanted} layers, where the decoder layers of the model were looked for"
        )
    return outer[0]


@dataclasses.dataclass(eq=False)
class BlockInput:
    """What one batch hands to every decoder layer. ``hidden`` is (texts, tokens, features): what
    the next layer to run reads; ``mask`` (texts, tokens) is True where a token is no padding;
    ``calls``: the other arguments of each layer, by position and by name."""

    hidden: torch.Tensor
    mask: torch.Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]

    def run(self, layers: torch.nn.ModuleList, index: int) -> torch.Tensor:
        """The output of layer ``index`` for ``hidden``."""
        rest, named = self.calls[index]
        return hidden_states(layers[index](self.hidden, *rest, **named))


def hidden_states(output: Any) -> torch.Tensor:
    """Of a decoder layer's output: older ones put the hidden states first in a tuple."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def block_inputs(
    module: torch.nn.Module,
    layers: torch.nn.ModuleList,
    batches: Iterable[Mapping[str, torch.Tensor]],
) -> list[BlockInput]:
    """For each batch what its forward pass hands to the decoder layers, with what the first one
    reads in ``hidden``. Masks and position embeddings are those of each layer, which differ where
    some have a sliding window.

    Raises NotCompressedError when the layers do not read one another's output as it is.
    """
    return [_one_input(module, layers, batch) for batch in batches]


def _one_input(
    module: torch.nn.Module, layers: torch.nn.ModuleList, batch: Mapping[str, torch.Tensor]
) -> BlockInput:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    first: list[torch.Tensor] = []
    last: list[torch.Tensor] = []

    def before(layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(kwargs)
        hidden = args[0] if args else named.pop("hidden_states", None)
        if not isinstance(hidden, torch.Tensor) or layer is not layers[len(calls)]:
            raise _not_a_chain(module)
        if not first:
            first.append(hidden)
        elif hidden is not last[0]:
            raise _not_a_chain(module)
        calls.append((args[1:], named))

    def after(layer: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        last[:] = [hidden_states(output)]

    hooks: list[Any] = []
    for layer in layers:
        hooks.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(layer.register_forward_hook(after))
    try:
        with torch.no_grad():
            module(**batch, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if len(calls) != len(layers):
        raise _not_a_chain(module)
    return BlockInput(hidden=first[0], mask=batch["attention_mask"].bool(), calls=calls)


def _not_a_chain(module: torch.nn.Module) -> NotCompressedError:
    return NotCompressedError(
        f"layout not understood: the decoder layers of {type(module).__name__} do not run one "
        "after the other, each on the hidden states of the one before"
    )
