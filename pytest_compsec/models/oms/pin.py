"""What the lock says of a signature: its bytes, and the bytes that say whom to trust."""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_compsec.config.signatures import SignatureEntry


@dataclasses.dataclass(frozen=True)
class SignaturePin:
    """``method`` is key, certificates or sigstore; ``file`` the signature's path as the config has
    it ("" for the usual place), with its sha256 (hex) and size in bytes. ``trusted`` maps each file
    of keys or certificates to its sha256; ``identity`` and ``issuer`` are Sigstore's."""

    method: str
    sha256: str
    size: int
    file: str = ""
    trusted: Mapping[str, str] = dataclasses.field(default_factory=dict)
    identity: str | None = None
    issuer: str | None = None

    def to_toml(self) -> dict[str, Any]:
        """A table without what is empty."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if value not in (None, "", {})}

    def same_file(self, sha256: str, size: int) -> bool:
        return hmac.compare_digest(self.sha256, sha256) and self.size == size


def signer_of(entry: SignatureEntry | SignaturePin) -> str:
    """By whom, in words: ``key ./release.pub``, ``sigstore a@b.org (https://issuer)``."""
    if isinstance(entry, SignaturePin):
        identity, issuer, file = entry.identity, entry.issuer, entry.file
        trusted = tuple(entry.trusted)
    else:
        sigstore = entry.sigstore
        identity = sigstore.identity if sigstore is not None else None
        issuer = sigstore.issuer if sigstore is not None else None
        file, trusted = entry.file or "", entry.trusted
    names = ", ".join(sorted(trusted))
    text = f"{entry.method} {names}" if identity is None else f"sigstore {identity} ({issuer})"
    return f"{text}, in {file}" if file else text


def signature_differences(
    entry: SignatureEntry | None, pin: SignaturePin | None
) -> Iterator[tuple[str | None, str | None]]:
    """``(locked, now)`` where config and lock ask for different signers, at most once."""
    now = signer_of(entry) if entry is not None else None
    locked = signer_of(pin) if pin is not None else None
    if now != locked:
        yield locked, now


def signature_facts(label: str, pin: SignaturePin) -> dict[tuple[str, str], str]:
    """The pin in the lines that ``compsec pin`` shows."""
    facts = {
        (label, "signed by"): signer_of(pin),
        (label, "signature"): f"sha256 {pin.sha256} ({pin.size} bytes)",
    }
    for name, digest in pin.trusted.items():
        facts[label, f"trusts {name}"] = f"sha256 {digest}"
    return facts
