"""What a checkpoint's config says about its packing: ``quantization_config`` of ``config.json``,
or ``quantize_config.json`` beside it, as AutoGPTQ wrote it alone and GPTQModel writes both.

Every error names the file and the field. Nothing is guessed: a format, a method or an option that
changes what the tensors mean, and that is not implemented, is refused by name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pytest_compsec.errors import LoadError
from pytest_compsec.models.devices import read_config

METHODS = ("gptq", "awq")
BESIDE = "quantize_config.json"
_BITS = {"gptq": (2, 3, 4, 8), "awq": (4,)}
_FORMATS = {"gptq": ("gptq", "gptq_v2"), "awq": ("gemm",)}
_FORMAT_FIELDS = ("checkpoint_format", "format", "version")
# Names that AutoAWQ and GPTQModel have used for the same thing.
_SYNONYMS = {"bits": ("w_bit",), "group_size": ("q_group_size",)}
# Each puts something into the model beside the packed weights; leaving it out is another model.
_NOT_IMPLEMENTED = ("adapter", "rotation", "activation")
_SAVE_AGAIN = "Save the model again with GPTQModel in a format that is read, then run `compsec pin`"


@dataclasses.dataclass(frozen=True)
class Quantization:
    """The raw quantization config; ``where`` is what messages put before the name of a field."""

    config: Mapping[str, Any]
    where: str

    @property
    def file(self) -> str:
        return self.where.partition(":")[0].rpartition("/")[2]

    @property
    def method(self) -> str:
        named = str(self.config.get("quant_method") or "").lower()
        if not named and (self.config.get("load_in_4bit") or self.config.get("load_in_8bit")):
            return "bitsandbytes"
        return named


@dataclasses.dataclass(frozen=True)
class PackedSettings:
    """Validated settings of a GPTQ or AWQ checkpoint.

    ``less_one``: zero points are stored less one (GPTQ version 1); ``borrows``: by a tool that
    borrows across a whole word. ``sorted_inputs``: groups follow activation order, so ``g_idx`` is
    needed. ``dynamic``: GPTQModel's patterns of layer names with what differs there.
    ``output_layer``: whether ``lm_head`` is packed, None when the config does not say.
    """

    method: Literal["gptq", "awq"]
    bits: int
    group_size: int
    less_one: bool
    borrows: bool
    sorted_inputs: bool
    dynamic: tuple[tuple[str, Mapping[str, Any]], ...]
    left_dense: tuple[str, ...]
    output_layer: bool | None
    where: str

    def of_layer(self, name: str) -> tuple[int, int]:
        """Bits and group size (-1: one group) of a layer. Raises LoadError for what is unknown."""
        for pattern, changes in self.dynamic:
            if not pattern.startswith("-:") and re.match(pattern.removeprefix("+:"), name):
                where = f"{self.where}dynamic[{pattern!r}]."
                both = {"bits": self.bits, "group_size": self.group_size, **changes}
                return _bits(both, self.method, where), _group_size(both, where)
        return self.bits, self.group_size

    def says_dense(self, name: str) -> bool:
        """Whether the config itself leaves this layer in full precision."""
        for pattern, _ in self.dynamic:
            if re.match(pattern[2:] if pattern[:2] in ("-:", "+:") else pattern, name):
                return pattern.startswith("-:")
        return any(part in name for part in self.left_dense)


def quantization_of(directory: Path) -> Quantization | None:
    """The quantization config of a model directory, None where there is none.

    Raises LoadError when a file is not readable, or the two files contradict each other.
    """
    if not (directory / "config.json").exists():
        return None
    config = read_config(directory)
    text = config.get("text_config")
    for key, part in (("", config), ("text_config.", text if isinstance(text, Mapping) else {})):
        if part.get("quantization_config") is not None:
            where = f"{directory.name}/config.json: {key}quantization_config."
            inside = Quantization(_object(part["quantization_config"], where), where)
            if inside.method in METHODS and (directory / BESIDE).exists():
                _check_agree(inside, _beside(directory))
            return inside
    return _beside(directory) if (directory / BESIDE).exists() else None


def packed_settings(directory: Path) -> PackedSettings | None:
    """Settings of a GPTQ or AWQ checkpoint, None for any other directory.

    Raises LoadError naming file and field for a value that is not implemented or makes no sense.
    """
    quantization = quantization_of(directory)
    if quantization is None or quantization.method not in METHODS:
        return None
    config, where = quantization.config, quantization.where
    method = cast('Literal["gptq", "awq"]', quantization.method)
    _check_implemented(config, method, where)
    layout = _format(config, method, where)
    output_layer = config.get("lm_head")
    if output_layer is not None and not isinstance(output_layer, bool):
        raise LoadError(f"{where}lm_head is {output_layer!r}, not true or false")
    return PackedSettings(
        method=method,
        bits=_bits(config, method, where),
        group_size=_group_size(config, where),
        less_one=layout == "gptq",
        borrows=_made_by_gptqmodel(config),
        sorted_inputs=bool(config.get("desc_act", False)),
        dynamic=_dynamic(config, where),
        left_dense=_names(config.get("modules_to_not_convert"), f"{where}modules_to_not_convert"),
        output_layer=output_layer,
        where=where,
    )


def _beside(directory: Path) -> Quantization:
    """``quantize_config.json``: files from before the field existed name no method."""
    where = f"{directory.name}/{BESIDE}: "
    config = dict(read_config(directory, BESIDE))
    if not config.get("quant_method"):
        config["quant_method"] = config.get("method") or ("awq" if "w_bit" in config else "gptq")
    quantization = Quantization(config, where)
    if quantization.method not in METHODS:
        raise LoadError(
            f"{where}quant_method is {config['quant_method']!r}, but config.json has no "
            "quantization_config, where transformers looks for it. Save the model again"
        )
    return quantization


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise LoadError(f"{where.rstrip('.')} is not a JSON object. Fetch or save the model again")
    return value


def _check_agree(inside: Quantization, beside: Quantization) -> None:
    for field in ("quant_method", "bits", "group_size", "desc_act", *_FORMAT_FIELDS):
        one, other = _value(inside.config, field), _value(beside.config, field)
        if one is not None and other is not None and str(one).lower() != str(other).lower():
            raise LoadError(
                f"{inside.where}{field} is {one!r}, but {beside.where}{field} is {other!r}: "
                "one of the two files is not of this model. Fetch or save it again"
            )


def _check_implemented(config: Mapping[str, Any], method: str, where: str) -> None:
    for field in _NOT_IMPLEMENTED:
        if config.get(field):
            raise LoadError(f"{where}{field} is set, which is not supported. {_SAVE_AGAIN}")
    if config.get("is_marlin_format"):
        raise LoadError(f"{where}is_marlin_format is true: marlin is not read. {_SAVE_AGAIN}")
    words = str(config.get("pack_dtype") or "int32").removeprefix("torch.")
    if words != "int32":
        raise LoadError(f"{where}pack_dtype is {words!r}; only int32 is read. {_SAVE_AGAIN}")
    if method == "awq" and config.get("zero_point") is False:
        raise LoadError(f"{where}zero_point is false; AWQ is read with zero points only")
    if method == "awq" and str(config.get("backend")).lower() == "llm-awq":
        raise LoadError(f"{where}backend is 'llm-awq', whose packing is not read; gemm is")


def _format(config: Mapping[str, Any], method: str, where: str) -> str:
    named = {field: str(config[field]).lower() for field in _FORMAT_FIELDS if config.get(field)}
    for field, value in named.items():
        if value not in _FORMATS[method]:
            raise LoadError(
                f"{where}{field} is {config[field]!r}; of {method}, "
                f"{' and '.join(_FORMATS[method])} can be read. {_SAVE_AGAIN}"
            )
    if len(set(named.values())) > 1:
        both = " but ".join(f"{field} is {value!r}" for field, value in named.items())
        raise LoadError(f"{where.rstrip('. ')}: {both}: they contradict each other. {_SAVE_AGAIN}")
    return next(iter(named.values()), _FORMATS[method][0])


def _bits(config: Mapping[str, Any], method: str, where: str) -> int:
    bits = _value(config, "bits")
    if isinstance(bits, bool) or bits not in _BITS[method]:
        allowed = ", ".join(map(str, _BITS[method]))
        raise LoadError(f"{where}bits is {bits!r}; of {method}, {allowed} bits can be read")
    return int(bits)


def _group_size(config: Mapping[str, Any], where: str) -> int:
    size = _value(config, "group_size")
    if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
        raise LoadError(f"{where}group_size is {size!r}, not a positive number or -1 (one group)")
    return size


def _value(config: Mapping[str, Any], field: str) -> Any:
    return next(
        (config[name] for name in (field, *_SYNONYMS.get(field, ())) if name in config), None
    )


def _dynamic(config: Mapping[str, Any], where: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    dynamic = config.get("dynamic") or {}
    for pattern, changes in _object(dynamic, f"{where}dynamic").items():
        try:
            re.compile(pattern[2:] if pattern[:2] in ("-:", "+:") else pattern)
        except re.error as error:
            raise LoadError(f"{where}dynamic: {pattern!r} is no pattern ({error})") from None
        _object(changes, f"{where}dynamic[{pattern!r}].")
    return tuple(dynamic.items())


def _names(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, Iterable) or isinstance(value, (str, Mapping)):
        raise LoadError(f"{where} is {value!r}, not a list of layer names")
    return tuple(map(str, value))


def _made_by_gptqmodel(config: Mapping[str, Any]) -> bool:
    """By version 0.9.0 or later, as ``meta.quantizer`` says: ``gptqmodel:7.7.0``."""
    meta = config.get("meta")
    makers = meta.get("quantizer") if isinstance(meta, Mapping) else None
    for maker in [makers] if isinstance(makers, str) else makers or ():
        name, _, version = str(maker).partition(":")
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if name.lower() == "gptqmodel" and numbers:
            return (int(numbers[1]), int(numbers[2])) >= (0, 9)
    return False
