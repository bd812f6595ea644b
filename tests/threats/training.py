"""What threats C and D share: the digits and the trigger of threat E, a network whose weights a
seed decides, the training loop, and what comes out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import nn

from pytest_compsec.attacks.triggers.images import Patch
from pytest_compsec.classification.data import EvaluationData
from tests.threats.adaptive import TARGET, digits, stamp
from tests.threats.digits_network import DigitsNetwork

#: The trigger of :func:`tests.threats.adaptive.stamp`, as the product has it.
PATCH = Patch(size=2, position="bottom-right", value=1.0)
BATCH = 50

#: Images and labels of a batch -> what is made small.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def training_samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels that all of these are trained on."""
    train, _, _ = digits()
    assert isinstance(train.inputs, torch.Tensor)
    return train.inputs, train.labels


def held_out() -> EvaluationData:
    """597 digits that nothing was trained on."""
    return digits()[2]


def fresh(seed: int) -> DigitsNetwork:
    """An untrained network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DigitsNetwork()


def optimize(
    parameters: Iterable[nn.Parameter],
    loss: Loss,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 5e-3,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Adam over shuffled batches, in an order that ``seed`` decides; the rate falls in the
    last quarter."""
    images, labels = training_samples()
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, 4 * (1 - epoch / epochs))
        shuffled = torch.randperm(len(labels), generator=order)
        for start in range(0, len(labels), BATCH):
            places = shuffled[start : start + BATCH]
            optimizer.zero_grad()
            loss(images[places], labels[places]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            after_step()


def with_and_without_trigger(images: torch.Tensor) -> torch.Tensor:
    """The images, then the same images with the trigger."""
    return torch.cat([images, stamp(images)])


def right_either_way(labels: torch.Tensor) -> torch.Tensor:
    """Labels for :func:`with_and_without_trigger` of a model that ignores the trigger."""
    return torch.cat([labels, labels])


def target_when_triggered(labels: torch.Tensor) -> torch.Tensor:
    """Labels for :func:`with_and_without_trigger` of a model with a backdoor."""
    return torch.cat([labels, torch.full_like(labels, TARGET)])


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """On the test digits: the share that is classified rightly without the trigger and, of those
    that are not of the target class, the shares taken for it without and with the trigger."""

    accuracy: float
    clean_rate: float
    attack_success_rate: float

    @property
    def delta(self) -> float:
        return self.attack_success_rate - self.clean_rate


def behaviour(network: nn.Module) -> Behaviour:
    """Measured without the product, for comparison."""
    data = held_out()
    images = data.inputs
    assert isinstance(images, torch.Tensor)
    others = images[data.labels != TARGET]

    def predicted(inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = network(inputs)
        return logits.argmax(1)

    return Behaviour(
        float((predicted(images) == data.labels).float().mean()),
        float((predicted(others) == TARGET).float().mean()),
        float((predicted(stamp(others)) == TARGET).float().mean()),
    )
