"""What an attack may do: how far it may move a sample, how often it may look at the model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from pytest_compsec.errors import MeasurementError

if TYPE_CHECKING:
    import torch

Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = ("linf", "l2")
Method = Literal["pgd", "fgsm"]
METHODS: tuple[Method, ...] = ("pgd", "fgsm")
# Room for float32: x + delta is rounded, and so is what is left after subtracting x again.
_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Budget:
    """Examples may be at most ``eps`` from their sample in ``norm`` (``linf``: each number; ``l2``:
    the Euclidean length of the change), and every number stays in [``lower``, ``upper``]."""

    eps: float
    norm: Norm
    lower: float = 0.0
    upper: float = 1.0

    def require_inside(self, inputs: torch.Tensor) -> None:
        """Raises MeasurementError for samples that are outside of [lower, upper] themselves."""
        least, most = float(inputs.min()), float(inputs.max())
        if not (least >= self.lower and most <= self.upper):
            raise MeasurementError(
                f"the samples reach from {least:g} to {most:g}, outside of clip=({self.lower:g}, "
                f"{self.upper:g}). Write the range that inputs can have as clip=(lowest, highest), "
                "and eps in the same unit"
            )

    def require_kept(self, samples: torch.Tensor, examples: torch.Tensor) -> None:
        """Raises MeasurementError for examples that are not finite, too far from their samples, or
        out of range: an attack that breaks its own rules shows nothing."""
        inside = (examples >= self.lower - _TOLERANCE) & (examples <= self.upper + _TOLERANCE)
        beyond = float(self.distance(examples - samples).max()) if len(samples) else 0.0
        allowed = self.eps * (1 + _TOLERANCE) + _TOLERANCE * max(abs(self.lower), abs(self.upper))
        if not bool(inside.all()) or not beyond <= allowed:
            raise MeasurementError(
                f"an attack returned examples outside of its budget (the largest distance is "
                f"{beyond:g} in {self.norm}, eps={self.eps:g}, clip=({self.lower:g}, "
                f"{self.upper:g})), so nothing is known of the robustness"
            )

    def distance(self, change: torch.Tensor) -> torch.Tensor:
        """(samples,): the size of each change in ``norm``."""
        flat = change.flatten(1)
        if self.norm == "linf":
            return flat.abs().amax(1)
        length: torch.Tensor = flat.norm(dim=1)
        return length

    def start(self, samples: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A change per sample, uniform in the ball, not yet clipped to the range of inputs."""
        import torch

        if self.norm == "linf":
            drawn = torch.rand(samples.shape, generator=generator) * 2 - 1
            return drawn * self.eps
        direction = torch.randn(samples.shape, generator=generator).flatten(1)
        width = direction.shape[1]
        radius = torch.rand((len(samples), 1), generator=generator) ** (1 / width)
        scaled = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-12)
        started: torch.Tensor = (scaled * radius * self.eps).view(samples.shape)
        return started


@dataclasses.dataclass(frozen=True)
class AttackSettings:
    """The list of attacks and what each may cost, the same for both arms.

    ``steps`` of the gradient attack (``fgsm``: one), run anew ``restarts`` times; ``queries`` of
    the attack that sees outputs only; ``quantization_bits`` of the simulated quantized model.
    """

    budget: Budget
    method: Method = "pgd"
    steps: int = 20
    restarts: int = 3
    queries: int = 200
    quantization_bits: int = 4
    seed: int = 0
    batch_size: int = 256

    def to_json(self) -> dict[str, Any]:
        """For the reports."""
        return dataclasses.asdict(self)


def margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(samples,): the logit of the true class above the largest of the others; negative where the
    sample is classified wrong."""
    import torch

    true = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    return true - others
