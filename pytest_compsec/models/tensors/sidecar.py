"""``compsec.tensors.json``: the digest of every tensor of every pinned weights file.

Keyed by the sha256 of the whole file, so that it says which bytes it is about whatever they are
called. The lock pins it; another content is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.atomic import write_atomically
from pytest_compsec.config.loading import LoadedConfig
from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.models.chosen_files import pinned_location
from pytest_compsec.models.hashing import CHUNK_BYTES, OpenFile
from pytest_compsec.models.listing import Location
from pytest_compsec.models.lock import FilePin, Lock, SourcePin, TensorsPin
from pytest_compsec.models.served.pinning import Notify
from pytest_compsec.models.sources import locate, locate_local
from pytest_compsec.models.tensors.layout import Layout, TensorPlace, layout_of

SIDECAR_NAME = "compsec.tensors.json"
_VERSION = 1
AGAIN = "If the change is wanted, run `compsec pin --tensors` and review the lock's change"


@dataclasses.dataclass(frozen=True)
class FileTable:
    """One weights file of ``size`` bytes: its layout, the sha256 (hex) of its header (all bytes
    before ``layout.data_start``) and of each tensor, by name."""

    size: int
    layout: Layout
    header: str
    digests: Mapping[str, str]


Tables = Mapping[str, FileTable]


def table_of(location: Location, pin: FilePin) -> FileTable | None:
    """The table of a pinned weights file; None when its format has no header that is known here.

    Raises IntegrityError when it is not the pinned file, LoadError when its header does not fit.
    """
    file = OpenFile(location, pin.name)
    try:
        file.hash()
        if (file.sha256, file.size) != (pin.sha256, pin.size):
            raise IntegrityError(f"{file.shown}: was changed while it was being pinned")
        layout = layout_of(file.path, pin.name)
        if layout is None:
            return None
        if not os.path.samestat(os.stat(file.path), os.fstat(file.descriptor)):  # noqa: PTH116
            raise IntegrityError(f"{file.shown}: was replaced while it was being pinned")
        digests = {
            place.name: digest_between(file.descriptor, place.start, place.end)
            for place in layout.tensors
        }
        header = digest_between(file.descriptor, 0, layout.data_start)
        file.recheck()
        return FileTable(pin.size, layout, header, digests)
    finally:
        file.close()


def digest_between(descriptor: int, start: int, end: int) -> str:
    """sha256 (hex) of the bytes ``start`` to ``end`` (exclusive) that the open file has."""
    digest = hashlib.sha256()
    os.lseek(descriptor, start, os.SEEK_SET)
    while start < end and (chunk := os.read(descriptor, min(CHUNK_BYTES, end - start))):
        digest.update(chunk)
        start += len(chunk)
    return digest.hexdigest()


def write_sidecar(
    loaded: LoadedConfig, lock: Lock, previous: Lock | None, notify: Notify
) -> TensorsPin:
    """Write the file beside the lock for all weights that ``lock`` pins, and return its pin.

    Tables of files that did not change since ``previous`` are taken over. Raises IntegrityError,
    LoadError, MissingExtraError; ConfigError when it cannot be written.
    """
    known = _known(loaded, previous)
    tables: dict[str, FileTable] = {}
    for location, source in weight_sources(loaded, lock):
        for pin in source.files:
            if pin.role not in ("weights", "adapter") or pin.sha256 in tables:
                continue
            table = known.get(pin.sha256)
            if table is None:
                notify(f"hashing the tensors of {location.label} ({pin.name})")
                table = table_of(location, pin)
            if table is not None:
                tables[pin.sha256] = table
    text = _text(tables)
    path = loaded.root / SIDECAR_NAME
    try:
        write_atomically(path, text)
    except OSError as error:
        raise ConfigError(f"{path}:1: cannot be written ({error.strerror})") from None
    content = text.encode("utf-8")
    return TensorsPin(SIDECAR_NAME, hashlib.sha256(content).hexdigest(), len(content))


def read_sidecar(root: Path, pin: TensorsPin) -> Tables:
    """The tables of the pinned file. Raises IntegrityError for other bytes, or none."""
    path = root / pin.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IntegrityError(
            f"{path}: is pinned by the lock and cannot be read ({error.strerror}). Restore it. "
            + AGAIN
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if (found, len(content)) != (pin.sha256, pin.size):
        raise IntegrityError(
            f"{path}: is not what the lock pins\n"
            f"    locked sha256 {pin.sha256} ({pin.size} bytes)\n"
            f"    found  sha256 {found} ({len(content)} bytes)\n{AGAIN}"
        )
    return _tables(json.loads(content))


def weight_sources(loaded: LoadedConfig, lock: Lock) -> Iterator[tuple[Location, SourcePin]]:
    """Where the pinned weights and adapters of all models are."""
    root = loaded.root
    for name, model in loaded.config.models.items():
        pins = lock.models[name]
        arms = [(model.original, pins.original)]
        for key, variant in model.compressed.items():
            source, pin = variant.as_source(), pins.variants[key]
            if source is not None:
                arms.append((source, pin))
            elif pin.adapter is not None:
                yield locate_local(pin.adapter.source, root, adapter=True), pin.adapter
        for source, pin in arms:
            if pin.files is not None and pin.code is not None:
                yield pinned_location(pin.files, root), pin.files
            elif pin.files is not None:
                yield locate(source, root, pin.files), pin.files
            if pin.adapter is not None:
                yield locate_local(pin.adapter.source, root, adapter=True), pin.adapter


def _known(loaded: LoadedConfig, previous: Lock | None) -> Tables:
    if previous is None or previous.tensors is None:
        return {}
    try:
        return read_sidecar(loaded.root, previous.tensors)
    except (IntegrityError, ConfigError):  # other bytes, or of a newer release
        return {}  # it is written anew, from the files themselves


def _text(tables: Tables) -> str:
    files = {sha256: _to_json(table) for sha256, table in sorted(tables.items())}
    return json.dumps({"version": _VERSION, "files": files}, indent=1, ensure_ascii=False) + "\n"


def _to_json(table: FileTable) -> dict[str, Any]:
    layout = table.layout
    return {
        "format": layout.format,
        "size": table.size,
        "header": {"end": layout.data_start, "sha256": table.header},
        "tensors": {
            place.name: {
                "dtype": place.dtype,
                "shape": list(place.shape),
                "bytes": [place.start, place.end],
                "sha256": table.digests[place.name],
            }
            for place in layout.tensors
        },
    }


def _tables(value: Mapping[str, Any]) -> Tables:
    """Of bytes that the lock pins, so written here: only another version can be met."""
    if value["version"] != _VERSION:
        raise ConfigError(
            f"{SIDECAR_NAME}:1: has version {value['version']}; this release reads version "
            f"{_VERSION}. Write it anew with `compsec pin --tensors`"
        )
    return {sha256: _table(table) for sha256, table in value["files"].items()}


def _table(value: Mapping[str, Any]) -> FileTable:
    tensors: Iterable[tuple[str, Any]] = value["tensors"].items()
    places = tuple(
        TensorPlace(name, one["dtype"], tuple(one["shape"]), *one["bytes"]) for name, one in tensors
    )
    layout = Layout(value["format"], value["header"]["end"], places)
    digests = {name: one["sha256"] for name, one in value["tensors"].items()}
    return FileTable(value["size"], layout, value["header"]["sha256"], digests)
