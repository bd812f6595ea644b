"""Is this the suite that a certificate was made under, and does it still hold that artefact?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pytest_compsec.config.loading import LoadedConfig, load_config
from pytest_compsec.config.pairs import all_pairs
from pytest_compsec.models.artefact_facts import ADAPTER, MODEL
from pytest_compsec.models.chosen_files import pinned_location
from pytest_compsec.models.integrity import verify
from pytest_compsec.models.lock import ArmPin, SourcePin, read_lock
from pytest_compsec.models.sources import locate, locate_local
from pytest_compsec.signing.comparing import File, differences
from pytest_compsec.signing.statement import Statement


def other_suite(statement: Statement, path: Path) -> Iterator[str]:
    """How the suite at ``path`` differs from that of the statement: its config, its lock, the files
    that the lock pins for the pair, and, where they are on this disk, their bytes.

    Raises ConfigError where config or lock cannot be read.
    """
    loaded = load_config(path)
    lock = read_lock(loaded.lock_path)
    digests = {entry.sha256 for entry in statement.configuration[1:]}
    found = hashlib.sha256(loaded.path.read_bytes()).hexdigest()
    if statement.configuration[0].sha256 != found:
        yield _other(str(loaded.path), "config", statement.configuration[0].sha256, found)
    if lock.digest not in digests:
        yield f"{loaded.lock_path}: is another lock than that of the test (sha256 {lock.digest})"
    pair = statement.told.get("pair")
    name = next((one for one in all_pairs(loaded.config) if one.id == pair), None)
    model = lock.models.get(name.model) if name is not None else None
    pin = model.variants.get(name.variant) if model is not None and name is not None else None
    if name is None or pin is None:
        yield f"{loaded.path}: has no pair {pair!r} that its lock pins"
        return
    if pin.files is None or pin.recipe is not None:
        yield f"{loaded.lock_path}: pins no files for {pair!r}"
        return
    yield from differences(statement, pinned_files(pin))
    yield from _changed(loaded, name.model, name.variant, pin, pin.files)


def pinned_files(pin: ArmPin) -> list[File]:
    """The files of a pinned arm, named as a certificate names them."""
    on_top = pin.adapter is not None
    parts = [(MODEL if on_top else "", pin.files), (ADAPTER, pin.adapter)]
    return [
        {"path": f"{prefix}{file.name}", "sha256": file.sha256, "role": file.role}
        for prefix, source in parts
        if source is not None
        for file in source.files
    ]


def _changed(
    loaded: LoadedConfig, model: str, variant: str, pin: ArmPin, files: SourcePin
) -> Iterator[str]:
    if pin.code is not None:  # weights beside the code that makes the module
        for problem in verify(pinned_location(files, loaded.root), files):
            yield problem.message
        return
    source = loaded.config.models[model].compressed[variant].as_source()
    if source is None or source.classified(loaded.root).kind == "hub":
        return  # by commit and digest; what of it is on this disk does not matter
    for problem in verify(locate(source, loaded.root, files), files):
        yield problem.message
    if source.adapter is not None and pin.adapter is not None:
        place = locate_local(source.adapter, loaded.root, adapter=True)
        for problem in verify(place, pin.adapter):
            yield problem.message


def _other(name: str, kind: str, expected: str | None, found: str) -> str:
    return (
        f"{name}: is another {kind} than that of the test\n    tested sha256 {expected}\n"
        f"    found  sha256 {found}"
    )
