"""The verified inputs of one session: the only door through which anything under test is opened.

Each source is hashed once, when it is first asked for, before any parser sees it, and staged in a
private directory. Prompt sets, judges, recipes, tool versions and settings are compared with the
lock in the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from pytest_compsec.compression.options.base import named_prompt_sets
from pytest_compsec.config.loading import LoadedConfig
from pytest_compsec.config.pairs import pair_id
from pytest_compsec.config.schema import ModelEntry, SourceEntry
from pytest_compsec.errors import ConfigError, IntegrityError, MissingExtraError
from pytest_compsec.models.agreement import (
    PIN_AGAIN,
    disagreements,
    effective_device,
    effective_dtype,
    installed_tools,
    judge_disagreements,
    model_disagreements,
    tool_differences,
    tool_version,
)
from pytest_compsec.models.arm import Arm, Code, StagedFiles
from pytest_compsec.models.calibration_file import read_calibration_text
from pytest_compsec.models.chosen_files import pinned_location
from pytest_compsec.models.data_files import read_pinned_data
from pytest_compsec.models.listing import Location
from pytest_compsec.models.lock import (
    UNVERIFIED,
    ArmPin,
    CodePin,
    Lock,
    ModelPin,
    SourcePin,
    order_digest,
)
from pytest_compsec.models.model_inputs import make_backdoor, pinned_data
from pytest_compsec.models.prompt_sets import load_prompt_set, prompt_set_names, unknown_set
from pytest_compsec.models.served.checked import CheckedServers
from pytest_compsec.models.sources import locate, locate_local
from pytest_compsec.models.staging import Staging
from pytest_compsec.models.tensors.explaining import explain_source
from pytest_compsec.models.tensors.sidecar import read_sidecar
from pytest_compsec.prompts import PromptSet

if TYPE_CHECKING:
    from pytest_compsec.attacks.backdoor import Backdoor
    from pytest_compsec.classification.data import EvaluationData
    from pytest_compsec.data import DataFile


class VerifiedInputs:
    """Config, lock and staging directory of one session. Safe to use from several threads."""

    def __init__(self, loaded: LoadedConfig, lock: Lock, staging: Staging) -> None:
        self._loaded = loaded
        self._lock = lock
        self._staging = staging
        self._guard = threading.RLock()
        self._staged: dict[tuple[Location, str], StagedFiles] = {}
        self._signed: set[tuple[Location, str]] = set()
        sidecar = lock.tensors
        self._tensors = read_sidecar(loaded.root, sidecar) if sidecar is not None else {}
        self._prompts: dict[str, PromptSet] = {}
        self._data: dict[str, EvaluationData] = {}
        self._data_files: dict[str, DataFile] = {}
        self._backdoors: dict[str, Backdoor] = {}
        self._servers = CheckedServers()

    @classmethod
    def open(
        cls,
        loaded: LoadedConfig,
        lock: Lock,
        *,
        staging: Literal["link", "copy"] = "link",
        staging_root: Path | None = None,
        only: Collection[str] | None = None,
    ) -> VerifiedInputs:
        """Compare config and lock; hash nothing yet. ``only`` limits the comparison to these pair
        ids. Raises IntegrityError that lists every difference."""
        _require_none(disagreements(loaded, lock, only))
        return cls(loaded, lock, Staging(staging, staging_root))

    @property
    def lock_digest(self) -> str:
        """sha256 (hex) of the lock file's bytes."""
        return self._lock.digest

    @property
    def lock(self) -> Lock:
        """All that is pinned."""
        return self._lock

    @property
    def order_digest(self) -> str:
        """sha256 (hex) of what the order of asking hangs on."""
        return order_digest(self._lock)

    def lock_state_line(self) -> str:
        """The lock in a few words, for the header of a run."""
        return lock_state(self._lock)

    def arm(self, model: str, variant: str | None) -> Arm:
        """The original (``variant`` None) or a variant, its files verified and staged.

        Raises ConfigError for a name that is not in the config, IntegrityError when bytes, recipe
        or tool are not what the lock pins, or a server runs something else, MissingExtraError when
        the tool is not installed, MeasurementError when a server cannot be asked.
        """
        with self._guard:
            entry = self._model(model)
            chosen = None if variant is None else entry.compressed.get(variant)
            if variant is not None and chosen is None:
                raise ConfigError(f"{self._loaded.path}: {model!r} has no variant {variant!r}")
            label = model if variant is None else pair_id(model, variant)
            variants = [] if variant is None else [variant]
            _require_none(model_disagreements(self._loaded, self._lock, model, variants))
            pins = self._lock.models[model]
            pin = pins.original if variant is None else pins.variants[variant]
            _check_tools(label, pin)
            own = (chosen.as_source() if chosen is not None else entry.original) or entry.original
            if pin.endpoint is not None and own.endpoint is not None:
                return self._servers.arm(
                    model,
                    variant,
                    own.endpoint,
                    pin.endpoint,
                    system=entry.system,
                    chat_template_kwargs=entry.chat_template_kwargs,
                )
            source, compressed_adapter = entry.original, None
            if chosen is not None and pin.recipe is None:
                source, files_pin = own, pin  # the comparison above saw to the kinds
            else:
                files_pin = pins.original
                if chosen is not None:
                    compressed_adapter = self._adapter(chosen.adapter, pin)
            files, adapter = self._sources(source, files_pin)
            return Arm(
                model=model,
                variant=variant,
                files=files,
                adapter=adapter,
                recipe=pin.recipe,
                dtype=effective_dtype(entry, chosen),
                device=effective_device(entry, chosen),
                system=entry.system,
                chat_template_kwargs=dict(entry.chat_template_kwargs),
                compressed_adapter=compressed_adapter,
                calibration=self._recipe_prompts(label, pin),
                runtime=pin.runtime,
                task=pins.task,
                code=self._code(files_pin.code),
                data=self._chosen(pin.data),
            )

    def _chosen(self, pin: SourcePin | None) -> StagedFiles | None:
        """Files that a pin names one by one."""
        return None if pin is None else self._stage(pinned_location(pin, self._loaded.root), pin)

    def _code(self, pin: CodePin | None) -> Code | None:
        if pin is None:
            return None
        present = {tool: tool_version(tool) or "not installed" for tool in pin.tools}
        _require_none(tool_differences(pin.source, pin, present))
        return Code(pin.source, self._chosen(pin.files), dict(pin.tools))

    def evaluation_data(self, model: str) -> EvaluationData | None:
        """The pinned samples of a classifier; None when the config names none.

        Raises IntegrityError when the file is not what the lock pins, ConfigError when it holds no
        samples.
        """
        with self._guard:
            pin = self._agreeing(model).evaluation_data
            files = self._chosen(pin)
            if pin is None or files is None:
                return None
            if model not in self._data:
                self._data[model] = pinned_data(files, pin.source)
            return self._data[model]

    def backdoor(self, model: str) -> Backdoor | None:
        """The trigger and target that the config names for a model; None when it names none.

        Raises IntegrityError when its files or code are not what the lock pins.
        """
        with self._guard:
            pin = self._agreeing(model).backdoor
            if pin is None:
                return None
            if model not in self._backdoors:
                where = self._loaded.where("models", model, "backdoor")
                pattern, code = self._chosen(pin.files), self._code(pin.code)
                entry = self._model(model)
                self._backdoors[model] = make_backdoor(entry, pattern, code, where)
            return self._backdoors[model]

    def _agreeing(self, model: str) -> ModelPin:
        """The pin of a model, its original compared with the config."""
        self._model(model)
        _require_none(model_disagreements(self._loaded, self._lock, model, []))
        return self._lock.models[model]

    def _model(self, model: str) -> ModelEntry:
        entry = self._loaded.config.models.get(model)
        if entry is None:
            known = ", ".join(self._loaded.config.models)
            raise ConfigError(f"{self._loaded.path}: there is no model {model!r}; known: {known}")
        return entry

    def _sources(self, source: SourceEntry, pin: ArmPin) -> tuple[StagedFiles, StagedFiles | None]:
        root = self._loaded.root
        assert pin.files is not None  # the lock's reader saw to it
        if pin.code is not None:
            return self._stage(pinned_location(pin.files, root), pin.files), None
        location = locate(source, root, pin.files)
        files = self._stage(location, pin.files)
        self._require_signature(location, pin)
        return files, self._adapter(source.adapter, pin)

    def _require_signature(self, location: Location, pin: ArmPin) -> None:
        """The files of this arm are signed as the lock says, if it says so."""
        if pin.signature is None or (location, repr(pin.signature)) in self._signed:
            return
        from pytest_compsec.models.oms.checking import require_signature

        assert pin.files is not None
        require_signature(pin.signature, self._loaded.root, location, pin.files)
        self._signed.add((location, repr(pin.signature)))

    def _adapter(self, adapter: str | None, pin: ArmPin) -> StagedFiles | None:
        if adapter is None or pin.adapter is None:
            return None
        location = locate_local(adapter, self._loaded.root, adapter=True)
        return self._stage(location, pin.adapter)

    def _recipe_prompts(self, label: str, pin: ArmPin) -> tuple[str, ...]:
        """The calibration prompts of a recipe (none: ()); every set that it names is compared
        with the digest in the recipe."""
        if pin.recipe is None:
            return ()
        sets = {
            option: self.prompt_set(name)
            for option, name in named_prompt_sets(pin.recipe.options).items()
        }
        for option, prompts in sets.items():
            if pin.recipe.inputs.get(option) != prompts.digest:
                raise IntegrityError(
                    f"the prompts of {option!r} of {label!r} ({prompts.name}) are not those that "
                    f"the lock pins with its recipe\n"
                    f"    locked {pin.recipe.inputs.get(option, 'none')}\n"
                    f"    found  {prompts.digest}\n{PIN_AGAIN}"
                )
        if "calibration" not in sets:
            return ()
        return tuple(prompt.text for prompt in sets["calibration"].prompts)

    def _stage(self, location: Location, pin: SourcePin) -> StagedFiles:
        key = (location, pin.tree)
        if key not in self._staged:
            try:
                self._staged[key] = self._staging.stage(location, pin)
            except IntegrityError as error:
                more = explain_source(location, pin, self._tensors, str(error))
                raise IntegrityError(f"{error}\n{more}" if more else str(error)) from None
        return self._staged[key]

    def prompt_set(self, name: str) -> PromptSet:
        """A built-in or configured prompt set whose digest is the pinned one.

        Raises ConfigError for an unknown name, IntegrityError for other prompts.
        """
        with self._guard:
            if name not in self._prompts:
                self._prompts[name] = self._checked_prompts(name)
            return self._prompts[name]

    def _checked_prompts(self, name: str) -> PromptSet:
        if name not in prompt_set_names(self._loaded):
            raise ConfigError(unknown_set(name, self._loaded))
        pin = self._lock.prompts.get(name)
        if pin is None:
            raise IntegrityError(f"the prompt set {name!r} is not in the lock. {PIN_AGAIN}")
        prompts = load_prompt_set(self._loaded, name)
        if prompts.digest != pin.digest:
            raise IntegrityError(
                f"the prompt set {name!r} ({prompts.source}) is not what the lock pins\n"
                f"    locked {pin.digest} (version {pin.version}, {pin.count} prompts)\n"
                f"    found  {prompts.digest} (version {prompts.version}, "
                f"{len(prompts.prompts)} prompts)\n{PIN_AGAIN}"
            )
        return prompts

    def data(self, name: str) -> DataFile:
        """A built-in or configured data file whose bytes are the pinned ones.

        Raises ConfigError for an unknown name, IntegrityError for other bytes.
        """
        with self._guard:
            if name not in self._data_files:
                self._data_files[name] = read_pinned_data(self._loaded, self._lock, name)
            return self._data_files[name]

    def judge_files(self) -> StagedFiles:
        """The files of the config's judge, verified and staged; only for a judge that has some.

        Raises IntegrityError when the lock pins another source, or other bytes.
        """
        with self._guard:
            _require_none(judge_disagreements(self._loaded, self._lock))
            options = self._loaded.config.judge.model
            pin = self._lock.judges[self._loaded.config.judge.name].files
            assert options is not None
            assert pin is not None  # judge_disagreements saw to it
            return self._stage(locate(options.as_source(), self._loaded.root, pin), pin)

    def calibration_text(self) -> str | None:
        """The text of the pinned calibration file; None when the config names none.

        Raises IntegrityError when it is not what the lock pins, ConfigError when it is missing.
        """
        name = self._loaded.config.calibration
        if name is None:
            return None
        pin = self._lock.calibration
        if pin is None:
            raise IntegrityError(f"the calibration {name!r} is not in the lock. {PIN_AGAIN}")
        # Read once: what is parsed is what was hashed, whatever happens to the file meanwhile.
        text, found = read_calibration_text(self._loaded)
        if found != pin:
            raise IntegrityError(
                f"the calibration {name!r} is not what the lock pins\n"
                f"    locked sha256 {pin.sha256} ({pin.file}, {pin.size} bytes)\n"
                f"    found  sha256 {found.sha256} ({found.file}, {found.size} bytes)\n{PIN_AGAIN}"
            )
        return text

    def judge_note(self, name: str) -> str | None:
        """What the lock says that it cannot pin of this judge, None for one that it pins whole."""
        pin = self._lock.judges.get(name)
        return None if pin is None else pin.note

    def check_judge(
        self, name: str, version: str, digest: str, tools: Mapping[str, str] | None = None
    ) -> None:
        """Raise IntegrityError unless this judge is the pinned one. ``tools`` are the versions
        that its digest covers, so that the message can say when one of them is another."""
        pin = self._lock.judges.get(name)
        if pin is None:
            raise IntegrityError(f"the judge {name!r} is not in the lock. {PIN_AGAIN}")
        if (pin.version, pin.digest) != (version, digest):
            raise IntegrityError(
                f"the judge {name!r} is not what the lock pins\n"
                f"    locked {pin.digest} (version {pin.version})\n"
                f"    found  {digest} (version {version})\n"
                + "".join(
                    f"    {tool} is {(tools or {}).get(tool)}, the lock pins {pinned}\n"
                    for tool, pinned in pin.tools.items()
                    if (tools or {}).get(tool) != pinned
                )
                + PIN_AGAIN
            )

    def recheck(self) -> None:
        """Raise IntegrityError when a file behind any arm, or the judge, changed since it was
        verified."""
        with self._guard:
            for staged in self._staged.values():
                staged.recheck()

    def close(self) -> None:
        """Remove the staging directory. Arms made here cannot be loaded any more."""
        self._staging.close()

    def __enter__(self) -> VerifiedInputs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _require_none(messages: list[str]) -> None:
    if messages:
        raise IntegrityError("\n".join([*messages, PIN_AGAIN]))


def _check_tools(label: str, pin: ArmPin) -> None:
    """Raise IntegrityError when another version would compress, or run, this arm."""
    differences: list[str] = []
    if pin.recipe is not None:
        installed = installed_tools(
            pin.recipe.section, pin.recipe.method, f"the variant {label!r}"
        )  # fmt: skip
        differences += tool_differences(label, pin.recipe, installed)
    if pin.runtime is not None:
        present = {tool: tool_version(tool) for tool in pin.runtime.tools}
        for tool, version in present.items():
            if version is None:
                raise MissingExtraError(tool, pin.runtime.name, f"running {label!r}")
        installed = {tool: version for tool, version in present.items() if version is not None}
        differences += tool_differences(label, pin.runtime, installed)
    if differences:
        fix = "Install the pinned version. "
        raise IntegrityError("\n".join([*differences, fix + PIN_AGAIN]))


def lock_state(lock: Lock) -> str:
    """Digest, size and how many files nobody but this disk vouches for."""
    from pytest_compsec.models.agreement import pinned_sources

    files = [file for _, pin in pinned_sources(lock) for file in pin.files]
    unverified = sum(file.provenance == UNVERIFIED for file in files)
    arms = [
        arm for model in lock.models.values() for arm in (model.original, *model.variants.values())
    ]
    served = sum(arm.endpoint is not None for arm in arms)
    return (
        f"lock {lock.digest[:12]}: {len(files)} files pinned, {unverified} of them UNVERIFIED"
        + (f"; {served} served, without files to verify" if served else "")
    )
