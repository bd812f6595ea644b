"""What ``preprocessor_config.json`` says of pixel values, read without an image library.

Evaluation data hold images in [0, 1] in the size that the model takes, so resizing and cropping
are the user's; rescaling and normalization are the model's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.classification.preparation import ImagePreparation
from pytest_compsec.errors import LoadError
from pytest_compsec.models.devices import read_config

FILE = "preprocessor_config.json"
# Steps that choose which pixels there are, or that have been done in evaluation data.
_OF_THE_DATA = frozenset(
    {"do_resize", "do_center_crop", "do_convert_rgb", "do_thumbnail", "do_align_long_axis"}
)
_READ = frozenset({"do_rescale", "do_normalize"})
# Steps without "do_" in their name that change pixel values, too.
_OTHER_STEPS = ("rescale_offset", "offset", "include_top")
# Steps that these image processors take although their files need not say so.
_BY_TYPE: Mapping[str, Mapping[str, bool]] = {
    "EfficientNet": {"include_top": True},
    "ImageGPT": {"do_color_quantize": True},
    "MobileViT": {"do_flip_channel_order": True},
}
_SHADES = 255.0  # Rescaling is meant for pixels from 0 to 255.


def image_preparation(name: str, directory: Path) -> ImagePreparation:
    """How images in [0, 1] are put to the Hugging Face model in ``directory``.

    ``do_rescale``, ``rescale_factor``, ``do_normalize``, ``image_mean`` and ``image_std`` are
    followed; steps that only choose size and crop are left to the user. Without the file images
    are passed on as they come. Raises LoadError, beginning with ``name``, for a broken file and for
    any step that would change pixel values otherwise.
    """
    if not (directory / FILE).exists():
        return ImagePreparation(argument="pixel_values")
    settings = read_config(directory, FILE)
    _check_known(name, settings)
    rescales = settings.get("do_rescale", True)
    factor = settings.get("rescale_factor", 1 / _SHADES) if rescales else 1.0
    if not _is_number(factor) or factor <= 0:
        raise LoadError(f"{name}: {FILE}: rescale_factor is {factor!r}, not a positive number")
    scale = _SHADES * float(factor)
    if math.isclose(scale, 1.0, rel_tol=1e-6):
        scale = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if "image_mean" in settings and "do_normalize" not in settings:
        # What is meant depends on the image processor's class: some do, some do not.
        raise LoadError(
            f"{name}: {FILE} has image_mean, but does not say whether it is used. Add do_normalize "
            "(true or false)"
        )
    if settings.get("do_normalize"):
        mean = _channels(name, settings, "image_mean")
        std = _channels(name, settings, "image_std")
        if len(mean) != len(std) or min(std) <= 0:
            raise LoadError(
                f"{name}: {FILE}: image_mean {list(mean)} and image_std {list(std)} do not give "
                "one mean and one positive standard deviation for each channel"
            )
    return ImagePreparation(mean=mean, std=std, scale=scale, argument="pixel_values", declared=True)


def _check_known(name: str, settings: Mapping[str, Any]) -> None:
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    if kind.startswith("TimmWrapper"):
        raise LoadError(
            f"{name}: {FILE}: what {kind} does to pixels is not in the file. Save the model with "
            "another image processor (ViTImageProcessor), or use a `python:` source"
        )
    implied = next((steps for key, steps in _BY_TYPE.items() if kind.startswith(key)), {})
    steps = {**implied, **settings}
    unknown = sorted(
        step
        for step, value in steps.items()
        if value
        and (step.startswith("do_") or step in _OTHER_STEPS)
        and step not in _OF_THE_DATA
        and step not in _READ
    )
    if unknown:
        raise LoadError(
            f"{name}: {FILE}: {', '.join(unknown)} of {kind or 'the image processor'} is not "
            "supported, since it changes pixel values. Do it in the evaluation data and set it to "
            "false, or use a `python:` source that does it in its module"
        )


def _channels(name: str, settings: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = settings.get(key)
    if not isinstance(values, list) or not values or not all(map(_is_number, values)):
        raise LoadError(
            f"{name}: {FILE}: {key} is {values!r}, not one number for each channel, and "
            "do_normalize needs it"
        )
    return tuple(float(value) for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
