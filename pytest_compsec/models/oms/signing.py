"""Write a ``model.sig`` that compsec and the tools of OpenSSF Model Signing verify.

All files of the directory are signed, whole, with sha256. Left out, and named in the signature as
left out, are only the signature itself, the notes of ``hf download`` (never staged) and git's own
two files, which the tool ``model-signing`` passes over unless it is told otherwise. A model that is
one ``.gguf`` file is signed alone, under the name that ``model-signing`` gives it.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pytest_compsec.atomic import write_atomically
from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models.hashing import open_and_hash
from pytest_compsec.models.integrity import local_location, raise_problems
from pytest_compsec.models.listing import IGNORED, Location, Problem, list_source, printable
from pytest_compsec.models.oms.bundle import bundle_text, read_bundle
from pytest_compsec.models.oms.certificates import load_certificates, signer_key
from pytest_compsec.models.oms.checking import require_model_key, signature_path
from pytest_compsec.models.oms.names import name_problem
from pytest_compsec.models.oms.statement import (
    SINGLE_FILE,
    Resource,
    Serialization,
    Statement,
    root_digest,
    statement_bytes,
)
from pytest_compsec.models.roles import refused_content
from pytest_compsec.signing import dsse, keys

if TYPE_CHECKING:
    from cryptography import x509

_OF_GIT = (".gitattributes", ".gitignore")
#: As files too (``.git`` is one in a submodule); model-signing would pass over them.
_REFUSED_OF_GIT = (".git", ".github")


@dataclasses.dataclass(frozen=True)
class Signed:
    """``path`` of the signature, how many ``files`` it covers, the sha256 (hex) over their digests,
    the sha256 (hex) of the signer's public key in PEM form, and whether another signature was
    ``replaced``."""

    path: Path
    files: int
    digest: str
    key: str
    replaced: bool


def sign_model(
    model: Path,
    key: Path,
    *,
    output: Path | None = None,
    password: bytes | None = None,
    certificate: Path | None = None,
    chain: Sequence[Path] = (),
) -> Signed:
    """Sign every file of a model directory (or one ``.gguf`` file) and write the signature
    (default: its ``model.sig``; of a file ``<file>.sig`` beside it).

    ``certificate`` (PEM) is the signer's, ``chain`` leads from it to an authority; without them the
    method is ``key``. Raises IntegrityError for a directory with links or files that no model may
    hold, CompsecError for keys that do not fit, a certificate that is not valid today, a private
    key among the files and an ``output`` that is no signature so far.
    """
    if chain and certificate is None:
        raise CompsecError("--chain leads from the signer's certificate: give --certificate too")
    private = keys.load_private_key(key, password)
    require_model_key(private, str(key))
    certificates = _certificates(certificate, chain, private.public_key())
    location = _location(model)
    _require_outside(key, location)
    target = output if output is not None else signature_path(None, location.directory, location)
    _require_target(target)
    statement = _statement(location, _inside(target, location))
    payload = statement_bytes(statement)
    envelope = dsse.sign_envelope(payload, dsse.IN_TOTO, private)
    hint = keys.key_hint(private.public_key())
    text = bundle_text(envelope, key_hint=hint, chain=[_der(one) for one in certificates])
    if certificates:
        # What was just written would be refused by everybody whom this chain is given to.
        where = ", ".join(str(path) for path in [certificate, *chain])
        signer_key([_der(one) for one in certificates], certificates[1:] or certificates, where)
    try:
        replaced = target.exists()
        write_atomically(target, text)
    except OSError as error:
        raise CompsecError(f"{target}: cannot be written ({error.strerror})") from None
    return Signed(target, len(statement.resources), statement.digest, hint, replaced)


def _location(model: Path) -> Location:
    # os.path, which also answers where pathlib raises: no permission, a name that is too long.
    if os.path.islink(model):  # noqa: PTH114
        raise IntegrityError(f"{model}: is a link. Name what it leads to")
    if os.path.isdir(model):  # noqa: PTH112
        return Location(str(model), model.resolve(), pass_over=IGNORED)
    if model.suffix.lower() == ".gguf" and os.path.isfile(model):  # noqa: PTH113
        return local_location(model)
    raise CompsecError(
        f"{model}: is no directory and no .gguf file; name the directory that holds the model"
    )


def _require_outside(key: Path, location: Location) -> None:
    """Raise CompsecError where the private key would be published with what it signs."""
    if location.only is None and key.resolve().is_relative_to(location.directory):
        raise CompsecError(
            f"{key}: the private key lies in the directory that it is to sign, and would be given "
            "away with the model. Move it"
        )


def _statement(location: Location, signature: str | None) -> Statement:
    listing = list_source(location)
    names = [name for name in listing.names if name != signature and name not in _OF_GIT]
    problems = [one for one in listing.problems if one.file != signature]
    for name in names:
        reason = name_problem(name)
        if name in _REFUSED_OF_GIT:
            reason = "is git's own, which other tools do not look at. Remove it"
        if reason is None and (location.directory / name).is_symlink():
            # Into the hub's cache, which other tools do not follow.
            reason = "is a link. Fetch the model with `hf download ... --local-dir` and sign that"
        if reason is not None:
            problems.append(Problem("refused", name, f"{printable(name)}: {reason}"))
    raise_problems(problems, "Nothing was signed.")
    if not names:
        raise IntegrityError(f"{location.label}: holds no file, so there is nothing to sign")
    if location.only is not None:
        (one,) = _resources(location, names)
        resources: tuple[Resource, ...] = (Resource(SINGLE_FILE, one.digest),)
        return Statement(location.only, root_digest(resources), resources, Serialization())
    ignored = [signature] if signature is not None else []
    ignored += [name for name in IGNORED if (location.directory / name).is_dir()]
    ignored += [name for name in _OF_GIT if name in listing.names]
    resources = _resources(location, names)
    return Statement(
        model=location.directory.name or "model",  # no name: the root of a file system
        digest=root_digest(resources),
        resources=resources,
        serialization=Serialization(ignore_paths=tuple(ignored)),
    )


def _resources(location: Location, names: Sequence[str]) -> tuple[Resource, ...]:
    """Sorted part by part, as model-signing sorts."""
    ordered = sorted(names, key=lambda name: PurePosixPath(name).parts)
    files, failures = open_and_hash(location, ordered, lambda file: None)
    try:
        problems = [Problem("refused", name, message) for name, message in failures]
        for file in files:
            reason = refused_content(file.role, file.name, file.size, file.head)
            if reason is not None:
                problems.append(Problem("refused", file.name, f"{file.shown}: {reason}"))
        raise_problems(problems, "Nothing was signed.")
        digests = {file.name: file.sha256 for file in files}
    finally:
        for file in files:
            file.close()
    return tuple(Resource(name, digests[name]) for name in ordered)


def _inside(target: Path, location: Location) -> str | None:
    """The name of the signature among the files; None when it is elsewhere."""
    path = target.parent.resolve() / target.name
    if location.only is not None or not path.is_relative_to(location.directory):
        return None
    return path.relative_to(location.directory).as_posix()


def _require_target(target: Path) -> None:
    """Raise CompsecError where something lies there that is no signature."""
    if not os.path.isdir(target.parent):  # noqa: PTH112
        raise CompsecError(f"{target}: the directory {str(target.parent)!r} does not exist")
    if os.path.islink(target):  # noqa: PTH114
        raise IntegrityError(f"{target}: is a link, through which nothing is written")
    if not os.path.lexists(target):
        return
    try:
        if not os.path.isfile(target):  # noqa: PTH113 - a pipe would be waited for
            raise IntegrityError(f"{target}: is no regular file")
        read_bundle(target.read_bytes(), str(target))
    except (IntegrityError, OSError):
        raise CompsecError(
            f"{target}: is there and is no signature, so it is not replaced. Choose another "
            "--output"
        ) from None


def _certificates(
    certificate: Path | None, chain: Sequence[Path], key: keys.PublicKey
) -> list[x509.Certificate]:
    if certificate is None:
        return []
    own = load_certificates([certificate])
    if len(own) != 1:
        raise CompsecError(
            f"{certificate}: holds {len(own)} certificates; the others go to --chain"
        )
    if not _is_of(own[0], key):
        raise CompsecError(f"{certificate}: is the certificate of another key than the one given")
    begin, end = own[0].not_valid_before_utc, own[0].not_valid_after_utc
    if not begin <= datetime.datetime.now(datetime.timezone.utc) <= end:
        # Whoever verifies later cannot tell when it was signed, so it is seen to here.
        raise CompsecError(
            f"{certificate}: is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and "
            "not now. Sign with a certificate that is"
        )
    return [*own, *load_certificates(chain)]


def _is_of(certificate: x509.Certificate, key: keys.PublicKey) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return bool(certificate.public_key() == key)
    except (ValueError, UnsupportedAlgorithm):
        return False  # a kind of key that is not known here, so not the one given


def _der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)
