"""The in-toto statement inside a model signature: which files were signed, and how hashed.

Statement v1 with the predicate ``https://model_signing/signature/v1.0``. Everything that is not
exactly as the specification has it is refused with the reason, for a field that is guessed at is a
field that two tools read differently.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.listing import printable
from pytest_compsec.models.oms.names import name_problem

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
#: Of model-signing before 1.0; its statement lists no settings, and its signature escapes bytes.
_BEFORE_1_0 = "https://model_signing/Digests/v0.1"
#: Bytes of a digest of each algorithm that is read here (``blake2b`` is BLAKE2b-512).
DIGEST_BYTES = {"sha256": 32, "blake2b": 64}
_HEX = re.compile(r"[0-9a-f]+")
#: What a model that is one file is called by model-signing 1.x; the specification: its base name.
SINGLE_FILE = "."


@dataclasses.dataclass(frozen=True)
class Resource:
    """A file or, of the method ``shards``, its bytes ``start`` to ``end`` (exclusive); ``digest``
    in hex."""

    name: str
    digest: str
    start: int | None = None
    end: int | None = None


@dataclasses.dataclass(frozen=True)
class Serialization:
    """How the files were hashed: ``method`` is ``files`` or ``shards`` (of ``shard_size`` bytes),
    ``hash_type`` an algorithm of :data:`DIGEST_BYTES`. ``ignore_paths`` were left out."""

    method: str = "files"
    hash_type: str = "sha256"
    shard_size: int | None = None
    ignore_paths: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Statement:
    """What was signed. ``model`` is a name for people, ``digest`` the sha256 (hex) over the bytes
    of all digests in the order of ``resources``."""

    model: str
    digest: str
    resources: tuple[Resource, ...]
    serialization: Serialization


def root_digest(resources: Sequence[Resource]) -> str:
    """sha256 (hex) over the bytes of the digests, in this order (specification, 6.5.1)."""
    digest = hashlib.sha256()
    for resource in resources:
        digest.update(bytes.fromhex(resource.digest))
    return digest.hexdigest()


def strict_json(content: bytes, where: str, what: str) -> dict[str, Any]:
    """A JSON object without a key that stands twice. Raises IntegrityError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}: {what} is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{where}: {what} is no JSON object")
    return value


def parse_statement(payload: bytes, where: str) -> Statement:
    """The statement in the payload of an envelope; ``where`` is for messages.

    Raises IntegrityError for another type of statement or predicate, unknown methods, names that
    leave the directory or stand twice, and a subject that is not the digest of the resources.
    """
    top = _Fields(strict_json(payload, where, "its statement"), where, "its statement")
    _require(top.text("_type") == STATEMENT_TYPE, where, f"its statement is no {STATEMENT_TYPE}")
    kind = top.text("predicateType")
    if kind == _BEFORE_1_0:
        raise IntegrityError(
            f"{where}: was made by model-signing before 1.0, which does not say how files were "
            "hashed. Sign the model again"
        )
    _require(kind == PREDICATE_TYPE, where, f"its predicate is {kind!r}, not {PREDICATE_TYPE!r}")
    top.allow("_type", "subject", "predicateType", "predicate")
    predicate = top.object("predicate")
    predicate.allow("resources", "serialization")
    serialization = _serialization(predicate.object("serialization"))
    resources = tuple(
        _resource(_Fields(item, where, "a resource of its statement"), serialization)
        for item in predicate.list("resources")
    )
    _require(bool(resources), where, "it covers no file")
    counts = collections.Counter((one.name, one.start) for one in resources)
    (name, _), times = counts.most_common(1)[0]
    _require(times == 1, where, f"it lists {name!r} twice")
    subjects = top.list("subject")
    _require(len(subjects) == 1, where, f"it has {len(subjects)} subjects, and one is a model's")
    subject = _Fields(subjects[0], where, "its subject")
    _require(bool(subject.text("name")), where, "its subject has no name")
    digest = subject.object("digest").text("sha256")
    found = root_digest(resources)
    if digest != found:
        raise IntegrityError(
            f"{where}: its subject is not the digest of the files that it lists\n"
            f"    subject sha256 {printable(digest[:80])}\n    listed  sha256 {found}"
        )
    return Statement(subject.text("name"), digest, resources, serialization)


def statement_bytes(statement: Statement) -> bytes:
    """The statement as JSON, to be signed. ``statement.digest`` is written as it is."""
    serialization = statement.serialization
    assert serialization.method == "files", "only whole files are signed here"
    settings: dict[str, Any] = {
        "method": serialization.method,
        "hash_type": serialization.hash_type,
        "allow_symlinks": False,
    }
    if serialization.ignore_paths:
        settings["ignore_paths"] = list(serialization.ignore_paths)
    resources = [
        {"name": one.name, "algorithm": serialization.hash_type, "digest": one.digest}
        for one in statement.resources
    ]
    value = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": statement.model, "digest": {"sha256": statement.digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"serialization": settings, "resources": resources},
    }
    return json.dumps(value, indent=2).encode("utf-8")


def _serialization(fields: _Fields) -> Serialization:
    fields.allow("method", "hash_type", "shard_size", "allow_symlinks", "ignore_paths")
    method, hash_type = fields.text("method"), fields.text("hash_type")
    if method not in ("files", "shards"):
        raise fields.error(f"hashes by the method {method!r}; known here: files, shards")
    if hash_type not in DIGEST_BYTES:
        known = ", ".join(DIGEST_BYTES)
        raise fields.error(f"hashes with {hash_type!r}; known here: {known}. Sign with sha256")
    if fields.get("allow_symlinks", bool):
        raise fields.error(
            "allows symlinks (allow_symlinks: true), which can point elsewhere tomorrow. Sign the "
            "files themselves, without --allow-symlinks"
        )
    shard_size = fields.values.get("shard_size")
    if method == "files" and shard_size is not None:
        raise fields.error("has a 'shard_size' beside the method 'files'")
    if method == "shards":
        if isinstance(shard_size, float) and shard_size.is_integer():
            shard_size = int(shard_size)  # model-signing writes 1000.0
        if not isinstance(shard_size, int) or isinstance(shard_size, bool):
            raise fields.error("has no whole number 'shard_size'")
        if shard_size < 1:
            raise fields.error("has no positive 'shard_size'")
    ignored = fields.list("ignore_paths") if "ignore_paths" in fields.values else []
    for name in ignored:
        problem = name_problem(name) if isinstance(name, str) else "a path is no text"
        if problem is not None:
            raise fields.error(f"leaves out paths (ignore_paths) that cannot be: {problem}")
    return Serialization(method, hash_type, shard_size, tuple(ignored))


def _resource(fields: _Fields, serialization: Serialization) -> Resource:
    full, digest = fields.text("name"), fields.text("digest")
    algorithm, hash_type = fields.text("algorithm"), serialization.hash_type
    known = {hash_type}
    if serialization.method == "shards":
        known.add(f"{hash_type}-sharded-{serialization.shard_size}")  # as model-signing writes it
    if algorithm not in known:
        raise fields.error(f"is hashed with {algorithm!r}, its settings say {hash_type!r}")
    if _HEX.fullmatch(digest) is None or len(digest) != 2 * DIGEST_BYTES[hash_type]:
        raise fields.error(f"{full!r} has a digest that is no {hash_type} in lower-case hex")
    if serialization.method == "files":
        name, start, end = full, None, None
    else:
        name, start, end = _shard(fields, full)
    problem = None if name == SINGLE_FILE else name_problem(name)
    if problem is not None:
        raise fields.error(problem)
    return Resource(name, digest, start, end)


def _shard(fields: _Fields, full: str) -> tuple[str, int, int]:
    match = re.fullmatch(r"([^:]+):(0|[1-9][0-9]{0,18}):([1-9][0-9]{0,18})", full, re.ASCII)
    if match is None or int(match[2]) >= int(match[3]):
        raise fields.error(f"{full!r} is no 'path:start:end' of a shard")
    return match[1], int(match[2]), int(match[3])


def _require(fine: bool, where: str, message: str) -> None:
    if not fine:
        raise IntegrityError(f"{where}: {message}")


_KINDS: Mapping[type[Any], str] = {
    str: "text", list: "list", dict: "object", bool: "true or false in",
}  # fmt: skip


class _Fields:
    """A JSON object that knows where it stands, so that every complaint can say so."""

    def __init__(self, values: object, where: str, what: str) -> None:
        self.where = where
        self.what = what
        if not isinstance(values, Mapping):
            raise self.error("is no JSON object")
        self.values: Mapping[str, Any] = values

    def error(self, message: str) -> IntegrityError:
        return IntegrityError(f"{self.where}: {self.what} {message}")

    def allow(self, *keys: str) -> None:
        """Refuse any other key: the schema has no others, and they may change what is meant."""
        unknown = sorted(self.values.keys() - set(keys))
        if unknown:
            raise self.error(f"has an unknown part {unknown[0][:80]!r}")

    def get(self, key: str, kind: type[Any]) -> Any:
        value = self.values.get(key)
        if not isinstance(value, kind):
            raise self.error(f"has no {_KINDS[kind]} {key!r}")
        return value

    def text(self, key: str) -> str:
        return str(self.get(key, str))

    def list(self, key: str) -> Sequence[Any]:
        found: Sequence[Any] = self.get(key, list)
        return found

    def object(self, key: str) -> _Fields:
        return _Fields(self.get(key, dict), self.where, f"{key!r} in {self.what}")
