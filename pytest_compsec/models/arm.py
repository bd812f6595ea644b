"""What is known of one arm (an original or a compressed form) before any parser opens it.

The integrity room makes :class:`Arm` objects out of ``compsec.yaml`` and ``compsec.lock``; the
loading room turns them into a working model. Plain data, no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_compsec.models.served.pin import Served

#: The task of a model that answers prompts.
TEXT_GENERATION = "text-generation"


@dataclasses.dataclass(frozen=True)
class StagedFiles:
    """Verified files in a private directory that holds only the names that the lock pins.

    ``entry`` is the file to load when the source is a single file (GGUF), else None and
    ``directory`` is a Hugging Face model directory. ``tree`` binds all names and contents.
    ``recheck`` raises IntegrityError when the bytes behind the directory have changed since.
    """

    directory: Path
    tree: str
    entry: str | None
    provenance: Mapping[str, Any]
    recheck: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a variant is derived from its original: ``section`` and ``method`` name the entry of
    :mod:`pytest_compsec.compression.methods`, ``options`` its validated values (JSON-safe, with
    defaults filled in), ``tools`` the distributions that do the work and their versions.

    ``inputs`` are the digests of the prompt sets that options name (``calibration``,
    ``selection``), by option. ``found`` is what `compsec pin` found out where an option says
    ``auto``, under that option's name, and ``basis``, a digest of what it was found with.
    """

    section: str
    method: str
    options: Mapping[str, Any]
    tools: Mapping[str, str]
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    found: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def keeps(self) -> tuple[str, ...] | None:
        """Names or patterns of the layers that are left alone; None for ``auto`` that `compsec
        pin` has not resolved."""
        asked = self.options.get("keep_in_full_precision")
        if asked == "auto":
            asked = self.found.get("keep_in_full_precision")
            return None if asked is None else tuple(asked)
        return tuple(asked or ())

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "section": self.section,
            "method": self.method,
            "options": dict(self.options),
            "tools": dict(self.tools),
        }
        # Left out where there are none, so that digests of earlier locks stay as they are.
        if self.inputs:
            value["inputs"] = dict(self.inputs)
        if self.found:
            value["found"] = dict(self.found)
        return value


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A program other than transformers that runs the files: ``llama-cpp``, and the versions of
    the distributions that it is."""

    name: str
    tools: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "tools": dict(self.tools)}


@dataclasses.dataclass(frozen=True)
class Code:
    """A Python function, ``source`` as in the config, and its staged local files (None: it comes
    with an installed distribution, ``tools``)."""

    source: str
    files: StagedFiles | None
    tools: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the function's name and all its code."""
        tree = self.files.tree if self.files is not None else None
        return digest_of([self.source, tree, dict(self.tools)])


@dataclasses.dataclass(frozen=True)
class Arm:
    """One model as the config and the lock describe it, its files verified and staged.

    ``variant`` is None for the original. ``dtype`` is None (the checkpoint's own), ``"fastest"``,
    or a torch float type's name; ``device`` is None (CUDA when there is one, else CPU) or a torch
    device string. ``adapter`` is merged into the files' model before a recipe works on it,
    ``compressed_adapter`` is put on what the recipe makes. ``calibration`` are the prompts that the
    recipe looks at. ``runtime`` is None for transformers. ``code`` makes the module of a classifier
    whose weights are in ``files``; ``data`` holds the samples that the recipe trains on.
    ``served``: a server answers for it, and ``files`` stands for what is not here
    (:class:`pytest_compsec.models.served.pin.NoFiles`).
    """

    model: str
    variant: str | None
    files: StagedFiles
    adapter: StagedFiles | None = None
    recipe: Recipe | None = None
    dtype: str | None = None
    device: str | None = None
    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compressed_adapter: StagedFiles | None = None
    calibration: tuple[str, ...] = ()
    runtime: Runtime | None = None
    task: str = TEXT_GENERATION
    code: Code | None = None
    data: StagedFiles | None = None
    served: Served | None = None

    @property
    def name(self) -> str:
        """``assistant`` for an original, ``assistant-int8`` for a variant."""
        return self.model if self.variant is None else f"{self.model}-{self.variant}"

    @property
    def weights_digest(self) -> str:
        """sha256 over everything that decides the weights: files, adapter, recipe, quantizer, and
        how calibration prompts are put to the model."""
        parts: dict[str, Any] = {
            "files": self.files.tree,
            "adapter": self.adapter.tree if self.adapter else None,
            "recipe": self.recipe.to_json() if self.recipe else None,
        }
        if self.compressed_adapter is not None:
            parts["compressed_adapter"] = self.compressed_adapter.tree
        if self.adapter is not None and self.variant is not None and self.recipe is None:
            # Beside the files' own weights; the same adapter of an original is merged into them.
            parts["adapter_on_top"] = True
        if self.calibration:
            # The same prompts under another system prompt are other texts, and other weights.
            parts["rendered_with"] = [self.system, dict(self.chat_template_kwargs)]
        if self.runtime is not None:
            parts["runtime"] = self.runtime.to_json()
        if self.task != TEXT_GENERATION:
            parts["task"] = self.task
        if self.code is not None:
            parts["code"] = self.code.digest
        if self.data is not None:
            parts["data"] = self.data.tree
        return digest_of(parts)

    def recheck(self) -> None:
        """Raise IntegrityError when any file behind this arm changed since it was verified, or its
        server says something else of it."""
        self.files.recheck()
        code = self.code.files if self.code is not None else None
        for files in (self.adapter, self.compressed_adapter, code, self.data):
            if files is not None:
                files.recheck()


def digest_of(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of a JSON-safe value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
