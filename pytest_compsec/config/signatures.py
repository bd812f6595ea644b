"""``signature:`` of a source: by whom its files must be signed (OpenSSF Model Signing).

Imported by the schema, so it imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationInfo, model_validator

from pytest_compsec.config.base import Section
from pytest_compsec.config.source_text import PYTHON_PREFIX, classify, is_file, path_of

#: Beside a model directory's other files, where model-signing looks for it too.
SIGNATURE_NAME = "model.sig"


class SigstoreIdentity(Section):
    """Who signed without a key: ``identity`` (an e-mail address, or the URL of a workflow) as the
    OpenID provider ``issuer`` (a URL) knows it."""

    identity: str = Field(min_length=1)
    """The signer: an e-mail address, or the URL of a workflow."""
    issuer: str = Field(min_length=1)
    """URL of the OpenID provider that vouches for the identity."""


class SignatureEntry(Section):
    """Exactly one of: a public ``key`` (PEM), ``certificates`` (PEM files of authorities that are
    trusted), or a ``sigstore`` identity. ``file`` is the signature, where it is not ``model.sig``
    in the model's directory (of one file: ``<file>.sig`` beside it)."""

    key: str | None = Field(default=None, min_length=1)
    """The signer's public key (PEM)."""
    certificates: tuple[str, ...] | None = None
    """Authorities (PEM files), one of which must have issued the signer's certificate."""
    sigstore: SigstoreIdentity | None = None
    """Who signed without a key."""
    file: str | None = Field(default=None, min_length=1)
    """The signature; left out, ``model.sig`` in the directory, or ``<file>.sig`` beside one
    file."""

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("certificates"), list):
            return {**data, "certificates": tuple(data["certificates"])}
        return data

    @model_validator(mode="after")
    def _one_signer(self, info: ValidationInfo) -> SignatureEntry:
        given = [name for name in ("key", "certificates", "sigstore") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                "says by whom the model must be signed with exactly one of 'key', 'certificates' "
                f"and 'sigstore'; it has {' and '.join(map(repr, given)) or 'none of them'}"
            )
        root: Path = info.context["root"] if info.context else Path.cwd()
        for name in self.trusted:
            if not is_file(path_of(name, root)):
                raise ValueError(f"{name!r} is no file (paths are relative to this file)")
        return self

    @property
    def trusted(self) -> tuple[str, ...]:
        """The files whose content decides whom to trust, as the config names them."""
        if self.key is not None:
            return (self.key,)
        return self.certificates or ()

    @property
    def method(self) -> str:
        """``key``, ``certificates`` or ``sigstore``."""
        if self.key is not None:
            return "key"
        return "certificates" if self.certificates else "sigstore"


def check_signature(
    source: str,
    revision: str | None,
    moving: bool,
    signature: SignatureEntry | None,
    info: ValidationInfo,
) -> None:
    """Raise ValueError where the files of this source cannot be compared with a signature."""
    if signature is None:
        return
    if source.startswith(PYTHON_PREFIX):
        raise ValueError("'signature' belongs to a model directory or a .gguf file")
    root: Path = info.context["root"] if info.context else Path.cwd()
    if classify(source, revision, moving, root).kind == "hub":
        raise ValueError(
            f"'signature' needs every file that was signed, and of {source!r} only those are "
            "fetched that a loader needs. Fetch the whole repository (`hf download "
            f"{source} --local-dir ./models/...`) and name that directory as 'source'"
        )
