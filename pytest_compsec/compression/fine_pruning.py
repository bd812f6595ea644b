"""Fine-pruning (Liu, Dolan-Gavitt & Garg, RAID 2018, arXiv 1805.12185): the channels of a late
layer that clean inputs hardly use become zero, then the model is trained on clean samples.

A plain backdoor sits in channels that clean inputs leave asleep, which pruning takes away; what an
attacker who knows this moved into busy channels, training on clean samples undoes. Activation is
what a rectifier lets through of a channel, after the normalization that follows it: the mean of
max(0, output) over clean samples and, of convolutions, places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.masks import pruned_count
from pytest_compsec.compression.treated import treated_roles
from pytest_compsec.errors import NotCompressedError

if TYPE_CHECKING:
    import torch

    from pytest_compsec.classification.preparation import Preparation
    from pytest_compsec.compression.silencing import Silenced

# The share is exact up to one channel; this allows for float rounding of shares.
_TOLERANCE = 1e-6


def expected(options: Mapping[str, Any], module: torch.nn.Module | None = None) -> Expectation:
    """At least ``share`` of the output channels of one layer, the one that ``options`` name or
    :func:`apply` noted on ``module``, are zero, their biases too."""
    layer = options.get("layer") or getattr(module, "fine_pruned_layer", None)
    return Expectation(
        min_silent_channels=float(options["share"]) - _TOLERANCE,
        silent_layer=layer,
        roles=treated_roles(module),
    )


def apply(
    module: torch.nn.Module,
    options: Mapping[str, Any],
    device: str,
    *,
    data: EvaluationData,
    preparation: Preparation | None = None,
) -> torch.nn.Module:
    """Prune and train a classifier in place, with ``module`` on ``device``; it is then in
    evaluation mode, in the float types that it had, and wants no gradients.

    ``ceil(share × n)`` of the n channels of ``layer`` (None: the last convolution that runs, or
    where there is none the last linear layer before the output) are set to zero, with their biases
    and what a normalization right after the layer makes of them, and stay zero. Of equal
    activations the first go. Then ``epochs`` passes over ``data``: stochastic gradient descent with
    momentum .9 in float32, in an order that ``seed`` fixes, without dropout, with the statistics of
    batch normalizations following along. No random state but its own is read or changed.

    ``preparation`` is what is done to inputs before the module sees them
    (:class:`pytest_compsec.classification.model.ClassifierModel` has it); None: nothing.

    Raises NotCompressedError when no layer fits or the one named cannot be pruned, for data that
    the model cannot be trained on, and for a loss or weights that are not finite.
    """
    from pytest_compsec.compression.channel_activity import mean_activity, runs, target_layer
    from pytest_compsec.compression.clean_training import (
        TrainingSettings,
        check_data,
        in_float32,
        train_on_clean,
    )
    from pytest_compsec.compression.silencing import Silenced

    check_data(data)
    module.to(device).eval().requires_grad_(False)
    batch = int(options["batch_size"])
    with in_float32(module):
        order = runs(module, data, preparation, device)
        target = target_layer(module, order, options.get("layer"))
        activity, norm = mean_activity(module, target, data, preparation, device, batch)
        count = pruned_count(float(options["share"]), len(activity))
        if count >= len(activity):
            raise NotCompressedError(
                f"fine-pruning would take all {len(activity)} channels of {target.name}: choose a "
                "smaller 'share', or another 'layer'"
            )
        chosen = activity.argsort(stable=True)[:count]
        silenced = Silenced(target, norm, chosen)
        changed = silenced.apply()
        if not changed and int(options["epochs"]) == 0:
            raise NotCompressedError(
                f"fine-pruning changes nothing: the {count} least active channels of "
                f"{target.name} are zero already, and 'epochs: 0' trains nothing"
            )
        settings = TrainingSettings(
            epochs=int(options["epochs"]),
            learning_rate=float(options["learning_rate"]),
            batch_size=batch,
            seed=int(options["seed"]),
        )
        train_on_clean(
            module, data, preparation, device, settings, after_step=_kept_at_zero(silenced)
        )
    marked: Any = module
    marked.fine_pruned_layer = target.name
    return module


def _kept_at_zero(silenced: Silenced) -> Callable[[], None]:
    def keep() -> None:
        silenced.apply()

    return keep
