"""Safety fine-tune after compression: a LoRA trained on the compressed model itself.

As QLoRA (Dettmers et al. 2023, arXiv 2305.14314): the compressed weights stay frozen, the gradient
goes through them to small matrices beside them, and these learn what compressing took away.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.atomic_directory import new_directory
from pytest_compsec.compression.gradients import gradients_pass
from pytest_compsec.compression.training_batches import (
    Encoded,
    batch_tensors,
    batches,
    encode_examples,
    learning_rate_share,
    mean_per_example,
    pad_token,
)
from pytest_compsec.compression.training_examples import Example
from pytest_compsec.errors import LoadError, MeasurementError
from pytest_compsec.models.adapter_files import WEIGHTS, peft_library
from pytest_compsec.models.compressed_adapter import (
    ADAPTER,
    adapter_parameters,
    adapter_tensors,
    compute_dtype,
    detach_adapter,
    require_smaller,
    set_adapter_dtype,
)
from pytest_compsec.models.quiet import quiet
from pytest_compsec.models.weights import output_embedding

if TYPE_CHECKING:
    import torch

    from pytest_compsec.models.loaded import LoadedModel

_WARMUP_SHARE = 0.05
_LARGEST_GRADIENT = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class FineTuned:
    """``module`` is the compressed model with the trained adapter on it, ready to answer;
    ``config`` the adapter's LoraConfig; ``losses`` the mean loss of each step's examples, in nats
    per token."""

    module: torch.nn.Module
    config: Any
    losses: tuple[float, ...]
    examples: int

    @property
    def parameters(self) -> int:
        """Number of trained weights."""
        return sum(parameter.numel() for parameter in adapter_parameters(self.module))


def fine_tune(
    compressed: LoadedModel,
    examples: Sequence[Example],
    *,
    steps: int = 120,
    batch: int = 8,
    learning_rate: float = 5e-4,
    rank: int = 8,
    seed: int = 0,
    notify: Callable[[str], None] = lambda text: None,
) -> FineTuned:
    """Train a LoRA of ``rank`` on every linear layer of ``compressed.module`` but the output.

    ``steps`` of AdamW (no weight decay, 5 % linear warm-up, cosine decay) on ``batch`` examples
    each; the loss is the cross-entropy of the first 20 tokens of each answer.
    The adapter is trained in float32 and then rounded to the float type that the model computes
    in, so that what is returned, saved and loaded again are the same numbers. The compressed
    weights are not changed; the adapter stays on ``compressed.module`` until
    :func:`pytest_compsec.models.compressed_adapter.detach_adapter` takes it off. After an error
    nothing stays.

    Raises MeasurementError when there is no usable example or the loss is no number, LoadError
    when no gradient passes through the compressed layers, MissingExtraError without peft.
    """
    import torch

    module, device = compressed.module, torch.device(compressed.device)
    encoded = encode_examples(compressed, examples)
    if not encoded:
        raise MeasurementError("there is no example to train on")
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), quiet():
            torch.manual_seed(seed)
            config = _put_on(module, rank)
            require_smaller(module, compressed.arm.name)
            with gradients_pass(module):
                losses = _train(
                    module,
                    encoded,
                    pad=pad_token(compressed.tokenizer),
                    steps=steps,
                    batch=batch,
                    learning_rate=learning_rate,
                    shuffler=random.Random(seed),
                    notify=notify,
                )
    except BaseException:
        detach_adapter(module)
        module.requires_grad_(False)
        raise
    module.requires_grad_(False)
    set_adapter_dtype(module, compute_dtype(module))
    return FineTuned(module, config, tuple(losses), len(encoded))


def save_adapter(trained: FineTuned, directory: Path) -> int:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``, as peft reads them, whole
    or not at all; the bytes of the weights are returned. No path of this machine is written.

    Raises CompsecError when ``directory`` holds something already.
    """
    import copy

    from safetensors.torch import save_file

    tensors = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in adapter_tensors(trained.module).items()
    }
    config = copy.deepcopy(trained.config)
    config.base_model_name_or_path = None
    config.inference_mode = True
    with new_directory(directory) as temporary:
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(temporary))
        return (temporary / WEIGHTS).stat().st_size


def _put_on(module: torch.nn.Module, rank: int) -> Any:
    """A fresh adapter, which changes nothing yet, on ``module``; only it takes gradients."""
    import torch

    peft = peft_library()
    output = output_embedding(module)
    names = {
        name.rpartition(".")[2]
        for name, layer in module.named_modules()
        if layer is not output and _is_linear(layer)
    }
    if not names:
        raise LoadError("the compressed model has no linear layer that an adapter could be put on")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.05,
        target_modules=sorted(names),
        task_type="CAUSAL_LM",
    )
    module.requires_grad_(False)
    try:
        peft.inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    except ValueError as error:
        raise LoadError(f"peft cannot put an adapter on this compressed model: {error}") from error
    set_adapter_dtype(module, torch.float32)
    for parameter in adapter_parameters(module):
        parameter.requires_grad_(True)
    return config


def _train(
    module: Any,
    encoded: Sequence[Encoded],
    *,
    pad: int,
    steps: int,
    batch: int,
    learning_rate: float,
    shuffler: random.Random,
    notify: Callable[[str], None],
) -> list[float]:
    import torch

    trained = adapter_parameters(module)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    warmup = max(1, round(_WARMUP_SHARE * steps))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, warmup, steps)
    )
    device = trained[0].device
    losses: list[float] = []
    for chosen in batches(encoded, steps=steps, size=batch, shuffler=shuffler):
        ids, mask, labels = (tensor.to(device) for tensor in batch_tensors(chosen, pad))
        logits = module(input_ids=ids, attention_mask=mask, use_cache=False).logits
        loss = mean_per_example(logits, labels)
        if not math.isfinite(loss.item()):
            raise MeasurementError(
                f"the loss of step {len(losses) + 1} is no number: choose a smaller learning rate, "
                "or another float type ('dtype: bfloat16')"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, _LARGEST_GRADIENT)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) % 10 == 0 or len(losses) == steps:
            notify(f"step {len(losses)}/{steps}  loss {loss.item():.3f}")
    return losses


def _is_linear(layer: torch.nn.Module) -> bool:
    """Linear layers of torch, of GPT-2, and those of quantizers, which only look like one."""
    import torch

    if isinstance(layer, torch.nn.Linear) or type(layer).__name__ == "Conv1D":
        return True
    sizes = (getattr(layer, "in_features", None), getattr(layer, "out_features", None))
    return all(isinstance(size, int) for size in sizes)
