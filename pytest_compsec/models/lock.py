"""``compsec.lock``: every byte and setting that a verdict depends on, as text that people review.

Read and written here, compared with the config in :mod:`pytest_compsec.models.agreement`, with
files in :mod:`pytest_compsec.models.integrity`. Only ``compsec pin`` writes it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.atomic import write_atomically
from pytest_compsec.errors import ConfigError
from pytest_compsec.models.arm import TEXT_GENERATION, Recipe, Runtime, digest_of
from pytest_compsec.models.oms.pin import SignaturePin
from pytest_compsec.models.roles import Role
from pytest_compsec.models.served.pin import EndpointPin

LOCK_VERSION = 1
UNVERIFIED = "UNVERIFIED"
HUB_MATCHED = "hub LFS sha256 matched"
EXPECTED_MATCHED = "sha256 given to compsec pin matched"
#: ``dtype`` of an arm whose float type is the checkpoint's own.
CHECKPOINT_DTYPE = "checkpoint"

_HEADER = """\
# Written by `compsec pin` and by nothing else: commit it beside compsec.yaml, review its changes.
# A run refuses every model file, prompt set, judge, recipe and setting that is not as listed here.
# `provenance` says who else vouches for a digest; UNVERIFIED: it is what was on this disk.

"""


@dataclasses.dataclass(frozen=True)
class FilePin:
    """One file: relative POSIX name, sha256 (hex), size in bytes, role, who vouches for it."""

    name: str
    sha256: str
    size: int
    role: Role
    provenance: str = UNVERIFIED


@dataclasses.dataclass(frozen=True)
class SourcePin:
    """One source path and all its files. ``commit`` is the resolved commit of a hub source,
    ``revision`` what the config says; ``entry`` names the one file of a GGUF source."""

    source: str
    files: tuple[FilePin, ...]
    revision: str | None = None
    commit: str | None = None
    entry: str | None = None

    @property
    def tree(self) -> str:
        """sha256 (hex) over all names, sizes and contents."""
        return tree_of(self.files)


@dataclasses.dataclass(frozen=True)
class CodePin:
    """A Python function (``python:module:function``), the local ``files`` that it needs, and
    ``tools``, the distribution (and its version) that it comes with where there are no such files.
    """

    source: str
    files: SourcePin | None = None
    tools: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class BackdoorPin:
    """The trigger and target of a model: ``settings`` as JSON text, the file of its pattern, and
    the code of a trigger that is a function."""

    settings: str
    files: SourcePin | None = None
    code: CodePin | None = None


@dataclasses.dataclass(frozen=True)
class ArmPin:
    """An original or a variant: its own files, a recipe that derives it from the original, or the
    ``endpoint`` of a server that answers for it.

    ``adapter`` belongs to the files, or to what the recipe makes. ``runtime``: see Arm. ``code``
    makes the module of which ``files`` hold the weights. ``data`` is what the recipe trains on.
    ``signature`` is one of the ``files``."""

    dtype: str
    files: SourcePin | None = None
    adapter: SourcePin | None = None
    recipe: Recipe | None = None
    runtime: Runtime | None = None
    code: CodePin | None = None
    data: SourcePin | None = None
    endpoint: EndpointPin | None = None
    signature: SignaturePin | None = None


@dataclasses.dataclass(frozen=True)
class SettingsPin:
    """Settings of a model that decide what it answers."""

    max_new_tokens: int
    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ModelPin:
    settings: SettingsPin
    original: ArmPin
    variants: Mapping[str, ArmPin]
    task: str = TEXT_GENERATION
    evaluation_data: SourcePin | None = None
    backdoor: BackdoorPin | None = None


@dataclasses.dataclass(frozen=True)
class PromptPin:
    version: str
    digest: str
    count: int


@dataclasses.dataclass(frozen=True)
class DataPin:
    """A data file: ``version`` ("file" for a user's own), sha256 (hex), bytes."""

    version: str
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class JudgePin:
    """A judge. One that is a model has ``files``; ``tools`` are the distributions (and their
    versions) that ``digest`` covers; ``note`` says what of it cannot be pinned."""

    version: str
    digest: str
    files: SourcePin | None = None
    tools: Mapping[str, str] = dataclasses.field(default_factory=dict)
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class CalibrationPin:
    """The calibration file of the judge: its path as the config has it, sha256 (hex), bytes."""

    file: str
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class TensorsPin:
    """The digests of single tensors: file name beside the lock, sha256 (hex), bytes."""

    file: str
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class Lock:
    """The whole lock. ``digest`` is the sha256 (hex) of the file that it was read from."""

    models: Mapping[str, ModelPin]
    prompts: Mapping[str, PromptPin]
    judges: Mapping[str, JudgePin]
    calibration: CalibrationPin | None = None
    data: Mapping[str, DataPin] = dataclasses.field(default_factory=dict)
    tensors: TensorsPin | None = None
    digest: str = dataclasses.field(default="", compare=False)


def order_digest(lock: Lock) -> str:
    """sha256 (hex) of what the order of asking hangs on: the lock without its data files and its
    digests of tensors, so that pinning a text or a baseline does not put other prompts together.
    The lock's own digest where it lists none."""
    if not lock.data and lock.tensors is None:
        return lock.digest
    text = lock_text(dataclasses.replace(lock, data={}, tensors=None))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def tree_of(files: tuple[FilePin, ...]) -> str:
    """sha256 (hex) of the canonical JSON of ``[name, size, sha256]`` of each file, by name."""
    return digest_of([[file.name, file.size, file.sha256] for file in sorted(files, key=_by_name)])


def _by_name(file: FilePin) -> str:
    return file.name


def lock_digest(path: Path) -> str:
    """sha256 (hex) of the lock's bytes. Raises ConfigError when it cannot be read."""
    return hashlib.sha256(_read_bytes(path)).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no lock, so no model may be opened. Run `compsec pin`, review "
            "what it writes and commit it"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}:1: cannot be read ({error.strerror})") from None


def read_lock(path: Path) -> Lock:
    """Read a lock. Raises ConfigError when it is missing, malformed, inconsistent or newer."""
    from pytest_compsec.models.lock_reading import parse_lock

    data = _read_bytes(path)
    lock = parse_lock(_toml(data, path), str(path))
    return dataclasses.replace(lock, digest=hashlib.sha256(data).hexdigest())


def _toml(data: bytes, path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{path}:1: is not valid TOML ({error}). Restore it from version control, or write it "
            "anew with `compsec pin`"
        ) from None


def lock_text(lock: Lock) -> str:
    """The lock as TOML, in a fixed order."""
    import tomli_w

    return _HEADER + tomli_w.dumps(_to_toml(lock))


def write_lock(lock: Lock, path: Path) -> None:
    """Write the lock so that a reader sees the old one or the new one, never a part."""
    path = Path(path)
    try:
        write_atomically(path, lock_text(lock))
    except OSError as error:
        raise ConfigError(f"{path}:1: cannot be written ({error.strerror})") from None


def _to_toml(lock: Lock) -> dict[str, Any]:
    calibration = lock.calibration
    return {
        "version": LOCK_VERSION,
        "judges": {name: _judge(pin) for name, pin in sorted(lock.judges.items())},
        **({"calibration": dataclasses.asdict(calibration)} if calibration is not None else {}),
        "prompts": {name: dataclasses.asdict(pin) for name, pin in sorted(lock.prompts.items())},
        **({"data": _data(lock)} if lock.data else {}),
        **({"tensors": dataclasses.asdict(lock.tensors)} if lock.tensors is not None else {}),
        "models": {name: _model(model) for name, model in lock.models.items()},
    }


def _data(lock: Lock) -> dict[str, Any]:
    return {name: dataclasses.asdict(pin) for name, pin in sorted(lock.data.items())}


def _model(model: ModelPin) -> dict[str, Any]:
    # Left out where it is the usual one, so that earlier locks stay as they are.
    table: dict[str, Any] = {} if model.task == TEXT_GENERATION else {"task": model.task}
    table["settings"] = _settings(model.settings)
    if model.evaluation_data is not None:
        table["evaluation_data"] = _source(model.evaluation_data)
    if model.backdoor is not None:
        table["backdoor"] = {"settings": model.backdoor.settings}
        if model.backdoor.files is not None:
            table["backdoor"]["files"] = _source(model.backdoor.files)
        if model.backdoor.code is not None:
            table["backdoor"]["code"] = _code(model.backdoor.code)
    table["original"] = _arm(model.original)
    table["variants"] = {key: _arm(arm) for key, arm in model.variants.items()}
    return table


def _judge(pin: JudgePin) -> dict[str, Any]:
    table: dict[str, Any] = {"version": pin.version, "digest": pin.digest}
    if pin.note is not None:
        table["note"] = pin.note
    if pin.tools:
        table["tools"] = dict(pin.tools)
    if pin.files is not None:
        table["files"] = _source(pin.files)
    return table


def _settings(settings: SettingsPin) -> dict[str, Any]:
    table: dict[str, Any] = {"max_new_tokens": settings.max_new_tokens}
    if settings.system is not None:
        table["system"] = settings.system
    # JSON text, for TOML has no null.
    table["chat_template_kwargs"] = json.dumps(settings.chat_template_kwargs, sort_keys=True)
    return table


def _arm(arm: ArmPin) -> dict[str, Any]:
    table: dict[str, Any] = {"dtype": arm.dtype}
    if arm.recipe is not None:
        options = {key: value for key, value in arm.recipe.options.items() if value is not None}
        table["recipe"] = {**arm.recipe.to_json(), "options": options}
    if arm.runtime is not None:
        table["runtime"] = arm.runtime.to_json()
    if arm.files is not None:
        table["files"] = _source(arm.files)
    if arm.adapter is not None:
        table["adapter"] = _source(arm.adapter)
    if arm.code is not None:
        table["code"] = _code(arm.code)
    if arm.data is not None:
        table["data"] = _source(arm.data)
    if arm.endpoint is not None:
        values = dataclasses.asdict(arm.endpoint)
        table["endpoint"] = {key: value for key, value in values.items() if value is not None}
    if arm.signature is not None:
        table["signature"] = arm.signature.to_toml()
    return table


def _code(pin: CodePin) -> dict[str, Any]:
    table: dict[str, Any] = {"source": pin.source}
    if pin.tools:
        table["tools"] = dict(pin.tools)
    if pin.files is not None:
        table["files"] = _source(pin.files)
    return table


def _source(pin: SourcePin) -> dict[str, Any]:
    table: dict[str, Any] = {"source": pin.source}
    for key in ("revision", "commit", "entry"):
        value = getattr(pin, key)
        if value is not None:
            table[key] = value
    table["tree"] = pin.tree
    table["file"] = [dataclasses.asdict(file) for file in sorted(pin.files, key=_by_name)]
    return table
