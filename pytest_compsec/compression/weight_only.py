"""What the weight-only quantizers of other libraries share: which layers, which groups, how their
packages are imported without their chatter."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import LoadError, MissingExtraError, NotCompressedError
from pytest_compsec.models.quiet import quiet
from pytest_compsec.models.weights import output_embedding

if TYPE_CHECKING:
    import torch


def linear_layers(module: torch.nn.Module) -> list[tuple[str, torch.nn.Linear]]:
    """The linear layers with their names, without the output embedding and what is tied to an
    embedding.

    Exactly ``torch.nn.Linear``: a subclass may compute something else in its forward.
    """
    import torch

    output = output_embedding(module)
    embedded = {
        id(layer.weight) for layer in module.modules() if isinstance(layer, torch.nn.Embedding)
    }
    return [
        (name, layer)
        for name, layer in module.named_modules()
        if type(layer) is torch.nn.Linear
        and layer is not output
        and id(layer.weight) not in embedded
    ]


def check_layers(
    layers: list[tuple[str, torch.nn.Linear]], *, method: str, group_size: int | None
) -> None:
    """Raise NotCompressedError, naming the layer, when a group would reach into the next output
    channel, or when a weight is not finite: the libraries turn such a group into noise."""
    for name, layer in layers:
        if group_size is not None and layer.in_features % group_size:
            raise NotCompressedError(
                f"{method} cannot quantize {name}: its {layer.in_features} inputs are no multiple "
                f"of 'group_size: {group_size}'. Choose one that divides the inputs of every "
                "layer, leave 'group_size' out (one group per output channel), or keep the layer "
                "with 'keep_in_full_precision'"
            )
        if not bool(layer.weight.isfinite().all()):
            raise NotCompressedError(
                f"{method} cannot quantize {name}: it has weights that are NaN or infinite"
            )


def import_quietly(name: str, *, package: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional package without the notes that it logs while imported.

    Raises MissingExtraError when it, or something that it needs, is not installed, LoadError when
    it is there and cannot be imported.
    """
    try:
        with quiet(), _nothing_logged():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A package that is there may lack one that it needs itself: that is the one to name.
        missing = (error.name or package).partition(".")[0]
        raise MissingExtraError(missing, extra, purpose) from error
    except ImportError as error:
        raise LoadError(
            f"{purpose} needs the package {package!r}, which is installed but cannot be imported: "
            f"{' '.join(str(error).split())}"
        ) from error


@contextlib.contextmanager
def _nothing_logged() -> Iterator[None]:
    # These packages and what they import log under many names, and only while being imported.
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
