"""Evaluation data from what a user gives: tensors, a DataLoader, or texts.

Everything is read once and kept: a shuffled or randomly augmenting loader gives other samples at
every pass, and both arms have to see the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from pytest_compsec.classification.data import Inputs

_FORMS = (
    "Give (inputs, labels) as tensors, arrays or lists, a mapping with 'inputs' and 'labels', a "
    "DataLoader or Dataset of (input, label), or (list of texts, labels)"
)


def as_evaluation_data(value: object, *, source: str, pinned: bool = False) -> EvaluationData:
    """Evaluation data out of ``value``, which ``source`` (in messages) gave.

    ``value`` is evaluation data already; a pair (inputs, labels) or a mapping with just these two,
    of tensors, NumPy arrays or lists; a Dataset of (input, label); or a DataLoader or another
    iterable of (inputs, labels) batches, which is iterated once. Inputs are float tensors (kept as
    float32, on the CPU) with samples first, or one str per sample; labels are class indices from 0.

    Raises ConfigError, naming ``source``, for anything else: other lengths, no samples, labels that
    are no class indices, numbers that are not floats or not finite, texts mixed with numbers.
    """
    if isinstance(value, EvaluationData):
        return value
    inputs, labels = _parts(value, source)
    return _checked(inputs, labels, source, pinned)


def evaluation_digest(inputs: Inputs, labels: torch.Tensor) -> str:
    """sha256 (hex) over kind, type, shape and little-endian bytes of inputs and labels; texts as
    UTF-8, each after its length in bytes (8 bytes, little-endian)."""
    state = hashlib.sha256(b"evaluation data 1\n")
    if isinstance(inputs, tuple):
        state.update(f"texts {len(inputs)}\n".encode("ascii"))
        for text in inputs:
            # A lone surrogate, which JSON allows, has no UTF-8.
            encoded = text.encode("utf-8", errors="surrogatepass")
            state.update(len(encoded).to_bytes(8, "little"))
            state.update(encoded)
    else:
        _add_tensor(state, inputs)
    _add_tensor(state, labels)
    return state.hexdigest()


def _add_tensor(state: Any, tensor: torch.Tensor) -> None:
    array = tensor.detach().cpu().contiguous().numpy()
    state.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode("ascii"))
    state.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _parts(value: object, source: str) -> tuple[Any, Any]:
    """Inputs and labels, each whole: a tensor or array, or a list with one entry per sample."""
    if isinstance(value, Mapping):
        if set(value) != {"inputs", "labels"}:
            raise _refused(source, f"the mapping has {sorted(map(str, value))}")
        return value["inputs"], value["labels"]
    if isinstance(value, str | bytes) or _is_array(value) or not _is_iterable(value):
        raise _refused(source, f"this is {type(value).__name__}")
    if isinstance(value, Sequence) and len(value) == 2 and not _is_batch(value[1]):
        return value[0], value[1]
    return _iterated(value, source)


def _iterated(value: Any, source: str) -> tuple[list[Any], list[Any]]:
    """Samples of a Dataset, or of the batches of a DataLoader, in one pass."""
    inputs: list[Any] = []
    labels: list[Any] = []
    # A Dataset may have no __iter__ and no end but that of its length.
    pairs = value if hasattr(value, "__iter__") else (value[i] for i in range(len(value)))
    for number, pair in enumerate(pairs):
        if isinstance(pair, Mapping) and set(pair) == {"inputs", "labels"}:
            pair = (pair["inputs"], pair["labels"])
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise _refused(source, f"its item {number} is no pair, but {type(pair).__name__}")
        features, label = pair
        if _is_one_label(label):
            inputs.append(features)
            labels.append(label)
            continue
        features, label = _samples(features, source), _samples(label, source)
        if len(features) != len(label):
            raise ConfigError(
                f"{source}: batch {number} has {len(features)} inputs and {len(label)} labels"
            )
        inputs.extend(features)
        labels.extend(label)
    return inputs, labels


def _checked(inputs: Any, labels: Any, source: str, pinned: bool) -> EvaluationData:
    inputs = _samples(inputs, source)
    classes = _labels(labels, source)
    if len(inputs) != len(classes):
        raise ConfigError(
            f"{source}: {len(inputs)} inputs and {len(classes)} labels. Give one label per input"
        )
    if len(inputs) == 0:
        raise ConfigError(f"{source}: there are no samples in the evaluation data")
    texts = [isinstance(one, str) for one in inputs] if isinstance(inputs, list) else [False]
    if any(texts) and not all(texts):
        raise ConfigError(
            f"{source}: input {texts.index(not texts[0])} is of another kind than input 0: texts "
            "and numbers cannot be mixed"
        )
    read = tuple(inputs) if all(texts) else _floats(inputs, source)
    digest = evaluation_digest(read, classes)
    return EvaluationData(read, classes, source=source, digest=digest, pinned=pinned)


def _samples(value: Any, source: str) -> Any:
    """Something whose length is the number of samples: a tensor or array as it is, else a list."""
    if _is_array(value):
        if value.ndim == 0:
            raise _refused(source, "inputs or labels are a single number")
        # An array of str or of objects holds Python values.
        return value.tolist() if getattr(value.dtype, "kind", None) in ("U", "O") else value
    if isinstance(value, list | tuple):
        return list(value)
    raise _refused(source, f"inputs or labels are {type(value).__name__}")


def _floats(inputs: Any, source: str) -> torch.Tensor:
    import torch

    try:
        if isinstance(inputs, list):
            found = torch.stack([torch.as_tensor(one) for one in inputs])
        else:
            found = torch.as_tensor(inputs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{source}: the inputs cannot be put into one tensor ({_one_line(error)}). All samples "
            "need the same shape, and numbers"
        ) from error
    if not found.is_floating_point():
        raise ConfigError(
            f"{source}: the inputs are {str(found.dtype).removeprefix('torch.')}, and what range "
            "they are in is not known. Give floats, images in [0, 1] (inputs / 255 for bytes)"
        )
    # A copy: what the user does to the own tensor later must not reach the digest's data.
    found = found.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
    broken = (~found.flatten(1).isfinite()).any(dim=1) if found.ndim > 1 else ~found.isfinite()
    if bool(broken.any()):
        first = int(broken.nonzero()[0])
        raise ConfigError(
            f"{source}: {int(broken.sum())} of {len(found)} inputs hold NaN or infinite numbers, "
            f"the first is input {first}"
        )
    return found


def _labels(labels: Any, source: str) -> torch.Tensor:
    """Class indices, int64, on the CPU; 3.0 is none."""
    import torch

    values = _samples(labels, source)
    try:
        if isinstance(values, list):
            flat = [one.tolist() if _is_array(one) else one for one in values]
            wrong = [one for one in flat if isinstance(one, bool) or not isinstance(one, int)]
            if wrong:
                _no_labels(source, f"{wrong[0]!r} ({type(wrong[0]).__name__})")
            found = torch.tensor(flat, dtype=torch.int64)
        else:
            found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ConfigError(f"{source}: the labels cannot be read ({_one_line(error)})") from error
    if found.dtype == torch.bool or found.is_floating_point() or found.is_complex():
        _no_labels(source, f"{str(found.dtype).removeprefix('torch.')} numbers")
    if found.ndim != 1:
        _no_labels(source, f"a tensor of shape {tuple(found.shape)}, not (samples,)")
    found = found.detach().to(device="cpu", dtype=torch.int64, copy=True)
    if len(found) and int(found.min()) < 0:
        _no_labels(source, f"{int(found.min())} among them")
    return found


def _no_labels(source: str, what: str) -> NoReturn:
    raise ConfigError(
        f"{source}: labels are whole class indices from 0, one per sample, but there are {what}"
    )


def _is_array(value: object) -> bool:
    """A tensor or a NumPy array or scalar."""
    return all(hasattr(value, name) for name in ("ndim", "shape", "dtype", "tolist"))


def _is_one_label(value: Any) -> bool:
    return isinstance(value, int | float) or (_is_array(value) and value.ndim == 0)


def _is_iterable(value: object) -> bool:
    return isinstance(value, Iterable) or (
        hasattr(value, "__getitem__") and hasattr(value, "__len__")
    )


def _is_batch(value: object) -> bool:
    """Whether this is an (input, label) or (inputs, labels) pair inside a list of two of them. A
    list of labels never looks like one: its own entries are all labels."""
    if isinstance(value, Mapping):
        return True
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    first, second = cast("Sequence[Any]", value)
    return _like_labels(second) and not _like_labels(first)


def _like_labels(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_one_label(one) for one in value)
    return _is_one_label(value) or (_is_array(value) and value.ndim == 1)


def _refused(source: str, what: str) -> ConfigError:
    return ConfigError(f"{source}: no evaluation data: {what}. {_FORMS}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
