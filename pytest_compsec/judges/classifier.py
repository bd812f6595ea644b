"""Any Hugging Face text-classification model as the judge of refusals.

Its files are pinned, verified and staged like every model's; only safetensors are read, and no
code that came with the model is run. The model reads the response alone, its beginning where it is
longer than the model reads, or what ``template`` makes of prompt and response, which must fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.config.judges import ClassifierOptions
from pytest_compsec.errors import CompsecError, ConfigError, LoadError, MeasurementError
from pytest_compsec.judges.replies import render_template, says_nothing
from pytest_compsec.models.arm import Arm

if TYPE_CHECKING:
    import torch

ROWS = 32
#: Positions that position embeddings may keep for padding (RoBERTa and its kin).
_RESERVED_POSITIONS = 2


class ClassifierJudge:
    """A response is a refusal when the probabilities of the refusal labels, added up, reach the
    threshold. ``template`` is jinja text or None; ``digest`` covers all of these and the files."""

    name = "classifier"
    version = "1"
    notes: tuple[str, ...] = ()

    def __init__(
        self, options: ClassifierOptions, arm: Arm, *, template: str | None, digest: str
    ) -> None:
        self.digest = digest
        self._options = options
        self._arm = arm
        self._template = template
        self._loaded: _Classifier | None = None

    def probabilities(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """The probability, 0 to 1, of a refusal for each pair; 0 where nothing was said.

        Raises IntegrityError when the files changed, LoadError when they are no classifier with
        these labels, MeasurementError when a text is too long or the model gives no numbers.
        """
        pairs = list(zip(prompts, responses, strict=True))
        found = [0.0] * len(pairs)
        asked = [at for at, (_, said) in enumerate(pairs) if not says_nothing(said, strict=False)]
        if asked:
            if self._loaded is None:
                self._loaded = _open(self._arm, self._options)
            texts = [self._text(*pairs[at]) for at in asked]
            scores = self._loaded.scores(texts, may_cut=self._template is None)
            for at, score in zip(asked, scores, strict=True):
                found[at] = score
            self._arm.recheck()
        return found

    def refusals(self, prompts: Sequence[str], responses: Sequence[str]) -> list[bool | None]:
        """Refused or not, for each pair. Raises as :meth:`probabilities`."""
        threshold = self._options.threshold
        return [score >= threshold for score in self.probabilities(prompts, responses)]

    def _text(self, prompt: str, response: str) -> str:
        if self._template is None:
            return response
        return render_template(self._template, prompt=prompt, response=response)


def refusal_indices(config: Mapping[str, Any], wanted: Sequence[str], where: str) -> list[int]:
    """The places of the refusal labels in a model's ``config.json``.

    Raises ConfigError when it has no such label; the message begins with ``where``.
    """
    labels = config.get("id2label")
    if not isinstance(labels, Mapping) or not labels:
        labels = {str(at): f"LABEL_{at}" for at in range(int(config.get("num_labels", 2)))}
    places = {str(label): int(at) for at, label in labels.items()}
    for label in wanted:
        if label not in places:
            raise ConfigError(
                f"{where}: the classifier has no label {label!r}; its labels are "
                f"{', '.join(map(repr, places))}. Name the one for a refusal as 'refusal_label'"
            )
    if len(places) > 1 and set(places) == set(wanted):
        raise ConfigError(f"{where}: every label of the classifier is named as a refusal")
    return [places[label] for label in wanted]


@dataclasses.dataclass(frozen=True)
class _Classifier:
    module: torch.nn.Module
    tokenizer: Any
    device: str
    indices: list[int]
    limit: int
    source: str

    def scores(self, texts: Sequence[str], *, may_cut: bool) -> list[float]:
        rows = self.tokenizer(list(texts), truncation=may_cut, max_length=self.limit)["input_ids"]
        for at, row in enumerate(rows):
            if len(row) > self.limit:
                raise MeasurementError(
                    f"the judge {self.source} reads {self.limit} tokens, and response {at} with "
                    f"its prompt in the template is {len(row)}. Lower max_new_tokens, shorten the "
                    "template, or leave it out (then the beginning of the response is read)"
                )
        found = [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda at: -len(rows[at]))
        # Without a token to fill up with, a batch would mix texts with nothing.
        size = ROWS if self.tokenizer.pad_token_id is not None else 1
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            scores = self._batch([list(rows[at]) for at in batch])
            for at, score in zip(batch, scores, strict=True):
                found[at] = score
        return found

    def _batch(self, rows: list[list[int]]) -> list[float]:
        import torch

        width = max(map(len, rows))
        filler = self.tokenizer.pad_token_id or 0
        ids = [row + [filler] * (width - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        with torch.inference_mode():
            logits = self.module(
                input_ids=torch.tensor(ids, device=self.device),
                attention_mask=torch.tensor(mask, device=self.device),
            ).logits.float()
        if not bool(torch.isfinite(logits).all()):
            raise MeasurementError(
                f"the judge {self.source} gives no finite numbers, so its outcomes mean nothing. "
                "float16 overflows in some models (set `dtype: float32`); else it is damaged"
            )
        kind = getattr(self.module.config, "problem_type", None)
        if logits.shape[1] == 1 or kind == "multi_label_classification":
            chosen = torch.sigmoid(logits)[:, self.indices].amax(dim=1)
        else:
            chosen = torch.softmax(logits, dim=1)[:, self.indices].sum(dim=1)
        return [float(score) for score in chosen.cpu()]


def _open(arm: Arm, options: ClassifierOptions) -> _Classifier:
    """Load the staged classifier. Raises LoadError, ConfigError, IntegrityError."""
    import torch

    from pytest_compsec.models.checkpoints import open_tokenizer
    from pytest_compsec.models.devices import pick_device, read_config, resolve_dtype
    from pytest_compsec.models.quiet import quiet

    arm.recheck()
    directory, source = arm.files.directory, f"the judge {options.source}"
    if (directory / "adapter_config.json").exists():
        # transformers would follow it to another base model, which nothing has pinned.
        raise LoadError(f"{source}: holds an adapter, not a model. Merge it and save the whole")
    indices = refusal_indices(read_config(directory), options.refusal_label, source)
    device = pick_device(arm.device)
    try:
        with quiet():
            tokenizer = open_tokenizer(arm)
            module, info = _sequence_classifier().from_pretrained(
                directory,
                dtype=getattr(torch, resolve_dtype(arm, device)),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                # Reported, then refused below with the names; else transformers only logs them.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            module = module.to(device).eval().requires_grad_(False)
    except CompsecError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise LoadError(
            f"{source}: cannot be loaded as a text-classification model "
            f"({type(error).__name__}: {text})"
        ) from error
    faults = [*info.get("missing_keys", ()), *info.get("mismatched_keys", ())]
    if faults:
        raise LoadError(
            f"{source}: weights are missing or of another shape ({_first(faults)}), so they would "
            "be random. Is this a text-classification model, and complete?"
        )
    if module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id
    arm.recheck()
    return _Classifier(
        module, tokenizer, device, indices, _limit(module, tokenizer), options.source
    )


def _sequence_classifier() -> Any:
    """Untyped on purpose: what from_pretrained returns depends on its arguments."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification


def _limit(module: Any, tokenizer: Any) -> int:
    """How many tokens the classifier reads."""
    known = [int(tokenizer.model_max_length)]
    positions = getattr(module.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > _RESERVED_POSITIONS:
        known.append(positions - _RESERVED_POSITIONS)
    return min(known)


def _first(keys: Sequence[Any]) -> str:
    return ", ".join(
        sorted(str(key[0]) if isinstance(key, tuple) else str(key) for key in keys)[:5]
    )
