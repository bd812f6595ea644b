"""Check a model's signature: when it is pinned, in ``compsec verify``, and in every run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from pytest_compsec.config.signatures import SIGNATURE_NAME, SignatureEntry
from pytest_compsec.config.source_text import path_of
from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models.hashing import OpenFile
from pytest_compsec.models.listing import Location, Problem, printable
from pytest_compsec.models.lock import SourcePin
from pytest_compsec.models.oms.bundle import MAX_BYTES, Bundle, read_bundle
from pytest_compsec.models.oms.certificates import read_certificates, signer_key
from pytest_compsec.models.oms.curves import on_model_curve
from pytest_compsec.models.oms.keyless import verify_keyless
from pytest_compsec.models.oms.manifest import compare_manifest
from pytest_compsec.models.oms.pin import SignaturePin
from pytest_compsec.models.oms.statement import Statement, parse_statement
from pytest_compsec.signing import dsse, keys


def pin_signature(
    entry: SignatureEntry, root: Path, location: Location, files: SourcePin
) -> SignaturePin:
    """Verify the signature of a source that is being pinned, and pin it.

    Raises IntegrityError with the reason, MissingExtraError where it cannot be verified here.
    """
    path = signature_path(entry.file, root, location)
    content = _read(path, f"{location.label}: its signature")
    trusted = {name: _read(path_of(name, root), "the trusted file") for name in entry.trusted}
    pin = SignaturePin(
        method=entry.method,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        file=entry.file or "",
        trusted={name: hashlib.sha256(one).hexdigest() for name, one in trusted.items()},
        identity=entry.sigstore.identity if entry.sigstore is not None else None,
        issuer=entry.sigstore.issuer if entry.sigstore is not None else None,
    )
    problems = _check(pin, content, trusted, path, location, files)
    if problems:
        lines = [problem.message for problem in problems]
        raise IntegrityError("\n".join([*lines, "Nothing was pinned."]))
    return pin


def signature_problems(
    pin: SignaturePin, root: Path, location: Location, files: SourcePin
) -> list[Problem]:
    """What is wrong with a pinned signature: other bytes of it or of a trusted file, another
    signer, other files. Empty when all is well. Raises MissingExtraError where it cannot be
    verified here; nothing else."""
    path = signature_path(pin.file or None, root, location)
    shown = printable(str(path))
    try:
        content = _read(path, f"{location.label}: its signature")
        found = hashlib.sha256(content).hexdigest()
        if not pin.same_file(found, len(content)):
            return [_other(shown, pin.sha256, found)]
        trusted = {}
        for name, digest in pin.trusted.items():
            trusted[name] = _read(path_of(name, root), "the trusted file")
            found = hashlib.sha256(trusted[name]).hexdigest()
            if found != digest:
                return [_other(f"{name} (trusted to sign {location.label})", digest, found)]
        return _check(pin, content, trusted, path, location, files)
    except IntegrityError as error:
        return [Problem("refused", shown, str(error))]


def require_signature(pin: SignaturePin, root: Path, location: Location, files: SourcePin) -> None:
    """As :func:`signature_problems`, raising IntegrityError when there is one."""
    problems = signature_problems(pin, root, location, files)
    if problems:
        lines = [problem.message for problem in problems]
        raise IntegrityError("\n".join([*lines, "Nothing of it was opened."]))


def unchecked_note(label: str, location: Location) -> str | None:
    """What to say of a signature that lies there and that no config asks to check."""
    path = signature_path(None, location.directory, location)
    if not path.is_file():
        return None
    return (
        f"{label}: {printable(path.name)} is there and was not checked. Say by whom it must be "
        "signed (`signature: {key: ./publisher.pub}` beside 'source'), then run `compsec pin`"
    )


def signature_path(file: str | None, root: Path, location: Location) -> Path:
    """Where the signature of a source is."""
    if file is not None:
        return path_of(file, root)
    if location.only is not None:
        return location.directory / f"{location.only}.sig"
    return location.directory / SIGNATURE_NAME


def verify_signer(
    bundle: Bundle, pin: SignaturePin, trusted: Mapping[str, bytes], where: str
) -> Statement:
    """The statement, once it is certain that the pinned signer signed it.

    Raises IntegrityError, MissingExtraError.
    """
    if bundle.method != pin.method:
        raise IntegrityError(
            f"{where}: is signed by the method {bundle.method!r}, the config asks for "
            f"{pin.method!r}"
        )
    if pin.method == "sigstore":
        assert pin.identity is not None
        assert pin.issuer is not None
        verify_keyless(bundle, pin.identity, pin.issuer, where)
    else:
        try:
            dsse.verify_envelope(bundle.envelope, _key(bundle, trusted, where))
        except keys.SignatureRefused as error:
            raise IntegrityError(f"{where}: {error}") from None
    return parse_statement(bundle.envelope.payload, where)


def _key(bundle: Bundle, trusted: Mapping[str, bytes], where: str) -> keys.PublicKey:
    if bundle.method == "certificates":
        anchors = [one for name, text in trusted.items() for one in read_certificates(text, name)]
        return signer_key(bundle.certificates, anchors, where)
    ((name, text),) = trusted.items()
    key = keys.public_key_of(text, where=name)
    require_model_key(key, name)
    hint = keys.key_hint(key)
    if bundle.key_hint is not None and bundle.key_hint.lower() != hint:
        raise IntegrityError(
            f"{where}: is signed with another key than {name}\n"
            f"    its key sha256 {printable(bundle.key_hint[:80])}\n    {name} sha256 {hint}"
        )
    return key


def require_model_key(key: object, where: str) -> None:
    """Raise CompsecError for a key that the specification has no signatures of (4.2)."""
    if on_model_curve(key):
        return
    raise CompsecError(
        f"{where}: models are signed with elliptic curve keys of P-256, P-384 or P-521 only "
        "(`openssl ecparam -name prime256v1 -genkey -noout`)"
    )


def _check(
    pin: SignaturePin,
    content: bytes,
    trusted: Mapping[str, bytes],
    path: Path,
    location: Location,
    files: SourcePin,
) -> list[Problem]:
    where = printable(str(path))
    statement = verify_signer(read_bundle(content, where), pin, trusted, where)
    real = Path(os.path.realpath(path.parent)) / path.name
    inside = location.only is None and real.is_relative_to(location.directory)
    return compare_manifest(
        statement,
        files.files,
        where=f"the signature {path.name}",
        open_file=lambda name: OpenFile(location, name),
        signature=real.relative_to(location.directory).as_posix() if inside else None,
        entry=files.entry,
    )


def _read(path: Path, what: str) -> bytes:
    try:
        # Asked first, for opening a pipe waits for somebody who writes to it.
        if path.exists() and not path.is_file():
            raise IntegrityError(f"{what} {str(path)!r} is no regular file and is not opened")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise IntegrityError(f"{what} {str(path)!r} cannot be read ({error.strerror})") from None


def _other(shown: str, expected: str, found: str) -> Problem:
    message = (
        f"{shown}: is not what the lock pins\n"
        f"    locked sha256 {expected}\n    found  sha256 {found}"
    )
    return Problem("changed", shown, message, expected, found)
