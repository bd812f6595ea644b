"""What is looked into: a module, the tokenizer that reads prompts for it, and where it runs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pytest_compsec.errors import MeasurementError

if TYPE_CHECKING:
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.prompts import PromptSet

    #: A loaded model, or a transformers module and its tokenizer.
    Model = LoadedModel | tuple[torch.nn.Module, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """``module`` is the transformers model itself: of a model with an unmerged adapter, the model
    inside of the wrapper, whose layers compute with the adapter."""

    module: Any
    tokenizer: Any
    device: str
    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def subject_of(model: Model) -> Subject:
    """Raises MeasurementError for a model whose weights another program holds (llama.cpp)."""
    if isinstance(model, tuple):
        raw, tokenizer = model
        return Subject(_inner(raw), tokenizer, str(next(raw.parameters()).device))
    module: Any = getattr(model, "module", None)
    if not isinstance(module, torch.nn.Module):
        raise MeasurementError(
            f"{model.arm.name} runs in another program ({type(model).__name__}), which does not "
            "show its layers. Load the same weights through transformers to look inside"
        )
    arm = model.arm
    return Subject(
        _inner(module), model.tokenizer, model.device, arm.system, arm.chat_template_kwargs
    )


def texts_of(prompts: PromptSet | Sequence[str]) -> list[str]:
    """The prompts themselves. Raises ValueError when there are none."""
    held = getattr(prompts, "prompts", None)
    found = [prompt.text for prompt in held] if held is not None else list(prompts)  # type: ignore[arg-type]
    if isinstance(prompts, str) or not found:
        raise ValueError("prompts must be a prompt set or a list of texts, at least one")
    return found


@contextlib.contextmanager
def at_rest(*modules: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) and no gradients; the mode of every part comes back."""
    training = [part for module in modules for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        with torch.inference_mode():
            yield
    finally:
        for part in training:
            part.training = True


def _inner(module: Any) -> Any:
    # peft wraps the model in two more; inside, its layers stand where the plain ones stood.
    unwrap = getattr(module, "get_base_model", None)
    return unwrap() if unwrap is not None else module
