"""A classifier in memory: logits and predictions in batches, and gradients for attacks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_compsec.classification.preparation import (
    ImagePreparation,
    Preparation,
    TextPreparation,
    logits_of,
)
from pytest_compsec.errors import CompsecError, MeasurementError
from pytest_compsec.generation.settings import Answer, GenerationSettings
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.quiet import quiet
from pytest_compsec.models.weights import WeightReport

if TYPE_CHECKING:
    import torch

    from pytest_compsec.classification.data import Inputs
    from pytest_compsec.models.loaded import LoadedModel

# Texts of one batch, padded, have no more tokens than this: 32 texts of 512 tokens.
_TOKENS_PER_BATCH = 16_384


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierModel:
    """One arm in memory that gives each input a logit per class.

    ``module`` is in evaluation mode on ``device`` (a torch device string) and computes in ``dtype``
    (a torch float type's name). ``classes`` is their number; labels are 0 to ``classes - 1``.
    """

    arm: Arm
    module: torch.nn.Module
    device: str
    dtype: str
    weights: WeightReport
    classes: int
    preparation: Preparation

    def __post_init__(self) -> None:
        # Batch statistics and dropout would make a prediction depend on the rest of its batch.
        self.module.eval()
        _keep_codes_in_order(self.module)

    @property
    def is_text(self) -> bool:
        return isinstance(self.preparation, TextPreparation)

    @property
    def tokenizer(self) -> NoReturn:
        """Raises MeasurementError: a classifier's texts go through its ``preparation``."""
        raise self._no_language_model("the tokenizer of a language model")

    def serving(self, arm: Arm) -> ClassifierModel:
        """The same model in memory for another arm with the same weights."""
        return dataclasses.replace(self, arm=arm)

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
        *,
        on_answers: Callable[[Sequence[int], Sequence[Answer]], None] | None = None,
    ) -> list[Answer]:
        """Raises MeasurementError: a classifier answers no prompts."""
        raise self._no_language_model("answers to prompts")

    def perplexities(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """Raises MeasurementError: a classifier gives texts no probability."""
        raise self._no_language_model("perplexities")

    def logits(self, inputs: Inputs, *, batch_size: int = 256) -> torch.Tensor:
        """Logits, float32, shape (samples, classes), on the CPU, without gradients.

        Each sample's are the same up to rounding whatever it is batched with. Raises
        MeasurementError when the module does not take the inputs, or its logits have another shape
        or are not finite.
        """
        import torch

        if isinstance(inputs, torch.Tensor) == self.is_text:
            raise self._wrong_kind(inputs)
        found = torch.zeros(len(inputs), self.classes)
        with torch.no_grad(), quiet():
            for places, logits in self._batches(inputs, batch_size):
                found[places] = logits.float().cpu()
        broken = int((~found.isfinite()).any(dim=1).sum())
        if broken:
            raise MeasurementError(
                f"{self.arm.name}: the logits of {broken} of {len(found)} samples are not finite "
                f"(NaN or infinite), computed in {self.dtype}. Try another 'dtype' (float32); if "
                "that does not help, the weights are broken"
            )
        return found

    def predict(self, inputs: Inputs, *, batch_size: int = 256) -> torch.Tensor:
        """The class with the largest logit, int64, shape (samples,), on the CPU; raises as
        :meth:`logits` does."""
        return self.logits(inputs, batch_size=batch_size).argmax(dim=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of one batch of images, float32, shape (samples, classes), on ``device``.

        Differentiable with respect to ``inputs`` as far as the module's layers are: where one of
        them passes no gradient on, the result has none (``requires_grad`` is False). Raises
        MeasurementError for texts, and when the module does not take the inputs or its logits have
        another shape. Values are not checked.
        """
        import torch

        if not isinstance(self.preparation, ImagePreparation):
            raise MeasurementError(
                f"{self.arm.name}: a text classifier has no gradients with respect to its inputs; "
                "gradient attacks need task: image-classification"
            )
        if not isinstance(inputs, torch.Tensor):
            raise self._wrong_kind(inputs)
        moved = inputs.to(device=self.device, dtype=getattr(torch, self.dtype))
        if moved is inputs:
            # A module may work in place, and these are everyone's samples.
            moved = inputs.clone()
        shape = tuple(inputs.shape)
        return self._checked(
            functools.partial(self.preparation.call, self.module, moved),
            len(inputs),
            f"inputs of shape {shape}",
        ).float()

    def _batches(self, inputs: Inputs, batch_size: int) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Places in ``inputs`` and the logits of the samples there."""
        preparation = self.preparation
        if not isinstance(inputs, tuple):
            for start in range(0, len(inputs), batch_size):
                batch = inputs[start : start + batch_size]
                yield list(range(start, start + len(batch))), self.forward(batch)
        elif isinstance(preparation, TextPreparation) and preparation.tokenizer is None:
            for start in range(0, len(inputs), batch_size):
                texts = list(inputs[start : start + batch_size])
                logits = self._checked(
                    functools.partial(self.module, texts), len(texts), "a list of str"
                )
                yield list(range(start, start + len(texts))), logits
        elif isinstance(preparation, TextPreparation):
            yield from self._text_batches(preparation, list(inputs), batch_size)

    def _text_batches(
        self, preparation: TextPreparation, texts: list[str], batch_size: int
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        try:
            encoded = preparation.encode(texts) if texts else []
        except (TypeError, ValueError) as error:  # UnicodeEncodeError is one
            text = " ".join(str(error).split())[:300]
            raise MeasurementError(
                f"{self.arm.name}: the tokenizer does not take the texts ({text}). Is there half a "
                "character (a lone surrogate) among them?"
            ) from error
        lengths = [len(one["input_ids"]) for one in encoded]
        if 0 in lengths:
            # Nothing but padding: what comes out would depend on the rest of the batch.
            raise MeasurementError(
                f"{self.arm.name}: text {lengths.index(0)} ({texts[lengths.index(0)]!r}) has no "
                "token, so there is nothing to classify. Leave it out of the evaluation data"
            )
        for places in _by_length(lengths, batch_size if preparation.pads else 1):
            batch: list[Mapping[str, list[int]]] = [encoded[place] for place in places]
            logits = self._checked(
                functools.partial(preparation.call, self.module, batch, self.device),
                len(batch),
                f"texts of up to {max(len(one['input_ids']) for one in batch)} tokens",
            )
            yield places, logits

    def _checked(self, call: Callable[[], Any], samples: int, what: str) -> torch.Tensor:
        """Logits that ``call`` gives, their shape checked. ``what`` are the inputs, in words."""
        try:
            output = call()
        except MeasurementError as error:
            raise MeasurementError(f"{self.arm.name}: {error}") from error
        except CompsecError:
            raise
        except Exception as error:  # The module is the user's: anything can come out of it.
            if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
                problem = "not enough memory. Give fewer or smaller samples, or another 'device'"
            else:
                text = " ".join(str(error).split())[:300]
                problem = f"{type(error).__name__}: {text}{self._expected()}"
            raise MeasurementError(
                f"{self.arm.name}: the model does not take {what} ({problem})"
            ) from error
        try:
            logits = logits_of(output)
        except MeasurementError as error:
            raise MeasurementError(f"{self.arm.name}: {error}") from None
        if tuple(logits.shape) != (samples, self.classes):
            raise MeasurementError(
                f"{self.arm.name}: the logits have the shape {tuple(logits.shape)}, but {samples} "
                f"samples and {self.classes} classes make ({samples}, {self.classes}). A module of "
                "your own says how many classes it has with an attribute 'num_classes'"
            )
        return logits

    def _expected(self) -> str:
        """What the module takes, as far as it can be seen from outside."""
        from pytest_compsec.classification.shapes import expected_input

        expected = expected_input(self.module)
        return f". It expects {expected}" if expected else ""

    def _wrong_kind(self, inputs: object) -> MeasurementError:
        wanted = "texts (a tuple of str)" if self.is_text else "a tensor of images"
        given = "texts" if isinstance(inputs, tuple) else type(inputs).__name__
        return MeasurementError(
            f"{self.arm.name} takes {wanted}, and the inputs are {given}. Give evaluation data of "
            "the model's 'task', or correct the task in compsec.yaml"
        )

    def _no_language_model(self, what: str) -> MeasurementError:
        return MeasurementError(
            f"{self.arm.name} is a classifier, and {what} cannot be had from it: this check is for "
            "task: text-generation"
        )


def both_classifiers(
    original: LoadedModel, compressed: LoadedModel
) -> tuple[ClassifierModel, ClassifierModel]:
    """Both arms, known to be classifiers of the same inputs and the same number of classes.

    Raises MeasurementError when they are not, or when only one of two Hugging Face image models
    comes with its preparation: they would then see different pixels.
    """
    for arm in (original, compressed):
        if not isinstance(arm, ClassifierModel):
            raise MeasurementError(
                f"{arm.arm.name} is no classifier. This check is for task: image-classification "
                "and text-classification"
            )
    assert isinstance(original, ClassifierModel)  # known from the loop
    assert isinstance(compressed, ClassifierModel)
    names = f"{original.arm.name} and {compressed.arm.name}"
    if original.is_text != compressed.is_text:
        raise MeasurementError(f"{names}: one classifies texts, the other images")
    if original.classes != compressed.classes:
        raise MeasurementError(
            f"{names} have {original.classes} and {compressed.classes} classes: their predictions "
            "cannot be compared"
        )
    first, second = original.preparation, compressed.preparation
    if isinstance(first, ImagePreparation) and isinstance(second, ImagePreparation):
        same_kind = first.argument == second.argument and first.argument is not None
        if same_kind and first.declared != second.declared:
            without = compressed if first.declared else original
            raise MeasurementError(
                f"{without.arm.name} has no preprocessor_config.json and the other arm has one, so "
                "they would be shown different pixels. Save the image processor into the model's "
                "directory with save_pretrained(...), then run `compsec pin`"
            )
    return original, compressed


def _keep_codes_in_order(module: torch.nn.Module) -> None:
    """Have 4-bit layers of bitsandbytes compute from their codes as they are.

    On a processor with AVX512-BF16 the first forward pass without gradients would repack them in
    place. Layers whose outputs are no multiple of 32, as a head of 10 classes, fail at that, and
    no gradient passes a repacked layer any more.
    """
    for layer in module.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Places in batches of similar length, the longest first: running out of memory shows early."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        tokens = lengths[batch[0]] * (len(batch) + 1) if batch else 0
        if batch and (len(batch) == batch_size or tokens > _TOKENS_PER_BATCH):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
