"""``compsec export``: a derived variant as files, the same bit for bit, and their pins."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_compsec.config.loading import LoadedConfig
    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.models.exported import Exported
    from pytest_compsec.models.lock import SourcePin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``compsec export``, without ``--config``."""
    parser.add_argument("pair", metavar="MODEL-VARIANT", help="a variant with a recipe")
    parser.add_argument("directory", metavar="DIR", help="where to write it; must not exist yet")
    parser.add_argument("--as", dest="name", metavar="NAME", help="default: VARIANT-files")


def run_export(arguments: argparse.Namespace) -> int:
    """Write the files, print their digests and the lines for the config; where the config names
    ``DIR`` as a source already, pin it. Exit code 0.

    The variant is made from verified inputs only. Raises ConfigError, IntegrityError, LoadError
    for a model whose files, opened again, are another one, CompsecError when ``DIR`` is in use.
    """
    from pytest_compsec.config.loading import load_config

    loaded = load_config(Path(arguments.config))
    for line in _export(loaded, arguments):
        print(line, flush=True)
    return 0


def _export(loaded: LoadedConfig, arguments: argparse.Namespace) -> Iterator[str]:
    from pytest_compsec.atomic_directory import require_free
    from pytest_compsec.commands.variant_lines import (
        find_pair,
        new_name,
        paste_lines,
        require_derived,
        require_language_model,
        require_outside_sources,
        written_path,
    )
    from pytest_compsec.models.exported import export_files
    from pytest_compsec.models.loading import load
    from pytest_compsec.models.lock import read_lock
    from pytest_compsec.models.verified import VerifiedInputs

    directory = Path(arguments.directory)
    require_free(directory)
    require_outside_sources(loaded, directory)
    pair = find_pair(loaded, arguments.pair)
    require_derived(loaded, pair, "export")
    require_language_model(loaded, pair.model, "export")
    name = new_name(arguments.name, f"{pair.variant}-files")
    # Only this pair: a variant that is to hold the files may be in the config and not in the lock.
    lock = read_lock(loaded.lock_path)
    with VerifiedInputs.open(loaded, lock, only=[pair.id]) as inputs:
        arm = inputs.arm(pair.model, pair.variant)
        _notify(f"making {pair.id}")
        exported = export_files(load, arm, directory)
    yield f"Wrote {pair.id} to {directory}; opened again, it gives the same logits bit for bit."
    sources = list(_sources(exported))
    for pin in sources:
        yield f"digest of {pin.source}: {pin.tree}"
    if exported.simulated:
        yield (
            "note: this variant simulates its quantization: the files hold the values of the grid "
            "as plain floats and take no less memory. As a source they show no compression, and a "
            "run refuses them: keep testing the variant by its recipe"
        )
    if names_directory(loaded, pair, exported):
        yield from _pinned(loaded, exported, sources)
        return
    values: dict[str, Any] = {"source": written_path(exported.model, loaded.root)}
    if exported.adapter is not None:
        values["adapter"] = written_path(exported.adapter, loaded.root)
    yield ""
    yield from paste_lines(pair.model, name, values)
    expected = " ".join(f"--expect {key}={sha256}" for key, sha256 in _expect(sources, loaded))
    yield f"Then pin it, and hold the lock to what was written:\n      compsec pin {expected}"


def names_directory(loaded: LoadedConfig, pair: PairName, exported: Exported) -> bool:
    """Whether a variant of the same model has the exported directory as its source already."""
    return any(
        variant.source is not None
        and (loaded.root / Path(variant.source).expanduser()).resolve() == exported.model.resolve()
        for variant in loaded.config.models[pair.model].compressed.values()
    )


def _pinned(loaded: LoadedConfig, exported: Exported, sources: list[SourcePin]) -> Iterator[str]:
    from pytest_compsec.models.pinning import pin

    result = pin(loaded.path, expect=dict(_expect(sources, loaded)), notify=_notify)
    yield from result.changes
    yield (
        f"\nPinned: compsec.yaml names {exported.model} as a source. Review the changes of "
        f"{result.path} above before you commit it."
    )
    yield f"sha256 of the lock: {result.lock.digest}"


def _sources(exported: Exported) -> Iterator[SourcePin]:
    """What a lock would say of the written directories."""
    from pytest_compsec.models.integrity import local_location, pin_source

    yield pin_source(local_location(exported.model), source=str(exported.model))
    if exported.adapter is not None:
        location = local_location(exported.adapter, adapter=True)
        yield pin_source(location, source=str(exported.adapter))


def _expect(sources: list[SourcePin], loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
    """``FILE`` and ``HEX`` of each weights file, as ``compsec pin --expect`` takes them."""
    from pytest_compsec.commands.variant_lines import written_path

    for pin in sources:
        for file in pin.files:
            if file.role in ("weights", "adapter"):
                yield f"{written_path(Path(pin.source), loaded.root)}/{file.name}", file.sha256


def _notify(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)
