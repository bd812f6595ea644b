"""Is this the artefact that a certificate is about? Its files against the subjects, by digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models.artefact_facts import ADAPTER, MODEL, WEIGHTS
from pytest_compsec.models.integrity import local_location, pin_source
from pytest_compsec.signing.statement import ARTEFACT, Statement

#: Files beside the weights that decide answers, too. A licence or a picture does not.
DECIDING = ("config", "tokenizer", "template", "code")

#: A file of an artefact: ``path``, ``sha256`` (hex) and ``role``.
File = Mapping[str, Any]


def files_at(model: Path, adapter: Path | None = None) -> list[File]:
    """The files of a model directory (or the one GGUF file) and of the adapter on top of it.

    Raises IntegrityError for a directory with files that no model may have, CompsecError where
    there is nothing.
    """
    found = _files(model, adapter=False)
    if adapter is None:
        return found
    return [
        *({**file, "path": f"{MODEL}{file['path']}"} for file in found),
        *({**file, "path": f"{ADAPTER}{file['path']}"} for file in _files(adapter, adapter=True)),
    ]


def _files(path: Path, *, adapter: bool) -> list[File]:
    if not path.exists():
        raise CompsecError(f"{path}: there is no such file or directory")
    try:
        pin = pin_source(local_location(path, adapter=adapter), source=str(path))
    except IntegrityError as error:  # here nobody meant to pin anything
        raise IntegrityError(str(error).removesuffix("\nNothing was pinned.")) from None
    return [{"path": one.name, "sha256": one.sha256, "role": one.role} for one in pin.files]


def differences(statement: Statement, files: Iterable[File], *, whole: bool = True) -> list[str]:
    """How ``files`` differ from the artefact of the statement, none where they are it.

    Every subject must be there, no other file of weights, and nothing else that decides answers may
    differ. ``whole`` is False for a single file of weights: its name is not asked then. It is the
    artefact only where nothing beside it was tested that decides answers, too.
    """
    listed = list(files)
    weights = {str(one["path"]): one["sha256"] for one in listed if one["role"] in WEIGHTS}
    subjects = {subject.name: subject.sha256 for subject in statement.subjects}
    if not whole and len(subjects) == 1 and len(weights) == 1:
        weights = dict(zip(subjects, weights.values(), strict=True))
    found = list(_compared(subjects, weights, "weights"))
    roles = {entry.name: entry.annotations.get("role") for entry in statement.configuration}
    expected = {
        name: sha256
        for name, sha256 in statement.artefact_files.items()
        if roles.get(f"{ARTEFACT}{name}") in DECIDING
    }
    if whole:
        beside = {str(one["path"]): one["sha256"] for one in listed if one["role"] in DECIDING}
        found += _compared(expected, beside, "a file that decides answers")
    elif expected:
        found.append(
            f"one file is not the artefact: the certificate is about a directory in which "
            f"{', '.join(sorted(expected))} decide answers, too. Name that directory"
        )
    return found


def _compared(
    expected: Mapping[str, str | None], there: Mapping[str, str], kind: str
) -> Iterable[str]:
    for name in sorted(expected.keys() - there.keys()):
        yield f"{name} ({kind}): the certificate is about it, and it is not there"
    for name in sorted(there.keys() - expected.keys()):
        yield f"{name} ({kind}): the certificate does not know it"
    for name in sorted(expected.keys() & there.keys()):
        if expected[name] != there[name]:
            yield (
                f"{name} ({kind}): is another file\n    tested sha256 {expected[name]}\n"
                f"    found  sha256 {there[name]}"
            )
