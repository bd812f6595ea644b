"""Write ``compsec.lock``: hash everything that the config names, and say what changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_compsec.compression.options.base import named_data_files, named_prompt_sets
from pytest_compsec.config.loading import LoadedConfig, load_config
from pytest_compsec.config.pairs import pair_id
from pytest_compsec.config.schema import ModelEntry, SourceEntry, VariantEntry
from pytest_compsec.config.source_text import PYTHON_PREFIX
from pytest_compsec.errors import CompsecError, ConfigError, IntegrityError
from pytest_compsec.models import lock_changes
from pytest_compsec.models.agreement import (
    backdoor_settings,
    effective_dtype,
    installed_tools,
    recipe_options,
    runtime_of,
    settings_of,
)
from pytest_compsec.models.arm import Recipe
from pytest_compsec.models.calibration_file import read_calibration_text, require_fitting
from pytest_compsec.models.chosen_files import code_location, file_location
from pytest_compsec.models.data_files import data_names, pin_of, read_data
from pytest_compsec.models.integrity import pin_source
from pytest_compsec.models.listing import Location
from pytest_compsec.models.lock import (
    CHECKPOINT_DTYPE,
    EXPECTED_MATCHED,
    HUB_MATCHED,
    UNVERIFIED,
    ArmPin,
    BackdoorPin,
    CalibrationPin,
    CodePin,
    JudgePin,
    Lock,
    ModelPin,
    PromptPin,
    SourcePin,
    read_lock,
    write_lock,
)
from pytest_compsec.models.oms.pin import SignaturePin
from pytest_compsec.models.prompt_sets import load_prompt_set, prompt_set_names
from pytest_compsec.models.python_source.closure import (
    code_files,
    imported_distributions,
    installed_distribution,
)
from pytest_compsec.models.served.pin import SERVED
from pytest_compsec.models.served.pinning import Notify, pin_endpoint
from pytest_compsec.models.sources import locate, locate_local


@dataclasses.dataclass(frozen=True)
class PinResult:
    """``changes`` are lines for people; empty when the lock already said all this."""

    path: Path
    lock: Lock
    changes: tuple[str, ...]
    created: bool


def pin(
    config_path: Path,
    *,
    expect: Mapping[str, str] | None = None,
    notify: Notify = lambda text: None,
    tensors: bool | None = None,
) -> PinResult:
    """Pin everything that a config names and write the lock beside it.

    ``expect`` maps file names to the sha256 (hex) that they must have. ``notify`` is told what is
    being hashed or fetched. ``tensors``: whether to pin the digest of every tensor too (None: as
    the lock so far does). Nothing is written when anything is refused.

    Raises ConfigError, IntegrityError, MissingExtraError, or CompsecError for a hub that cannot
    be reached.
    """
    loaded = load_config(config_path)
    path = loaded.lock_path
    previous = _previous(path)
    builder = _Builder(loaded, previous, dict(expect or {}), notify)
    lock = _resolved(loaded, builder.build(), previous, notify)
    if tensors if tensors is not None else previous is not None and previous.tensors is not None:
        from pytest_compsec.models.tensors.sidecar import write_sidecar

        # Asked for, they are computed anew: what the lock has so far may be the fault.
        known = previous if tensors is None else None
        lock = dataclasses.replace(lock, tensors=write_sidecar(loaded, lock, known, notify))
    changes = tuple(lock_changes.describe(previous, lock))
    if previous is None or changes:
        write_lock(lock, path)
    return PinResult(path, read_lock(path), changes, created=previous is None)


def _resolved(loaded: LoadedConfig, lock: Lock, previous: Lock | None, notify: Notify) -> Lock:
    """The lock with what its recipes left to be found out."""
    recipes = [pin.recipe for model in lock.models.values() for pin in model.variants.values()]
    if all(recipe is None or recipe.keeps is not None for recipe in recipes):
        return lock
    # The only pins that need models in memory; imported for them alone.
    from pytest_compsec.choosing import resolve

    return resolve(loaded, lock, previous, notify)


def _previous(path: Path) -> Lock | None:
    """The lock so far. A malformed one is an error and not an invitation to forget it."""
    if not path.exists() and not path.is_symlink():
        return None
    try:
        return read_lock(path)
    except ConfigError as error:
        raise ConfigError(
            f"{error}. To begin anew, delete {path} first: its pins are then no longer compared"
        ) from None


class _Builder:
    def __init__(
        self,
        loaded: LoadedConfig,
        previous: Lock | None,
        expect: dict[str, str],
        notify: Notify,
    ) -> None:
        self._loaded = loaded
        self._root = loaded.root
        self._expect = expect
        self._met: set[str] = set()
        self._notify = notify
        self._known = dict(_vouched_before(previous)) if previous is not None else {}
        self._done: dict[tuple[str, str | None, bool], SourcePin] = {}

    def build(self) -> Lock:
        config = self._loaded.config
        judges = self._judges()
        lock = Lock(
            models={name: self._model(name, model) for name, model in config.models.items()},
            prompts={name: self._prompts(name) for name in prompt_set_names(self._loaded)},
            judges=judges,
            data={name: pin_of(read_data(self._loaded, name)) for name in data_names(self._loaded)},
            calibration=self._calibration(judges[config.judge.name]),
        )
        unmet = sorted(self._expect.keys() - self._met)
        if unmet:
            raise ConfigError(
                f"--expect names {', '.join(map(repr, unmet))}, and no file of any source is "
                "called so. Nothing was pinned"
            )
        return lock

    def _model(self, name: str, model: ModelEntry) -> ModelPin:
        return ModelPin(
            task=model.task,
            evaluation_data=self._chosen(model.evaluation_data),
            backdoor=self._backdoor(model),
            settings=settings_of(self._loaded, model),
            original=self._arm(
                f"the original {name!r}", model.original, effective_dtype(model, None)
            ),
            variants={
                key: self._variant(pair_id(name, key), model, variant)
                for key, variant in model.compressed.items()
            },
        )

    def _variant(self, label: str, model: ModelEntry, variant: VariantEntry) -> ArmPin:
        dtype = effective_dtype(model, variant)
        source = variant.as_source()
        if source is not None:
            return self._arm(f"the variant {label!r}", source, dtype)
        section, method, options = recipe_options(variant)
        tools = installed_tools(section, method, f"the variant {label!r}")
        inputs = {
            option: self._prompts(name).digest
            for option, name in named_prompt_sets(options).items()
        }
        return ArmPin(
            dtype or CHECKPOINT_DTYPE,
            adapter=self._adapter(variant.adapter),
            recipe=Recipe(section, method, options, tools, inputs),
            data=self._chosen(named_data_files(options).get("data")),
        )

    def _arm(self, label: str, entry: SourceEntry, dtype: str | None) -> ArmPin:
        if entry.endpoint is not None:
            return ArmPin(SERVED, endpoint=pin_endpoint(label, entry.endpoint, self._notify))
        files = self._files(entry) if entry.weights is None else self._chosen(entry.weights)
        return ArmPin(
            dtype or CHECKPOINT_DTYPE,
            files=files,
            adapter=self._adapter(entry.adapter),
            runtime=runtime_of(entry, label),
            code=self._code(entry.source) if entry.weights is not None else None,
            signature=self._signature(label, entry, files),
        )

    def _signature(
        self, label: str, entry: SourceEntry, files: SourcePin | None
    ) -> SignaturePin | None:
        if files is None or files.commit is not None or entry.weights is not None:
            return None  # The config allows no signature there.
        from pytest_compsec.models.oms.checking import pin_signature, unchecked_note

        location = locate(entry, self._root, files)
        if entry.signature is None:
            note = unchecked_note(label, location)
            if note is not None:
                self._notify(note)
            return None
        self._notify(f"verifying the signature of {entry.source}")
        return pin_signature(entry.signature, self._root, location, files)

    def _chosen(self, text: str | None) -> SourcePin | None:
        """One file, of weights or of samples."""
        return None if text is None else self._pin_files(file_location(text, self._root))

    def _pin_files(self, location: Location) -> SourcePin:
        key = (location.label, None, False)
        if key not in self._done:
            self._notify(f"hashing {location.label}")
            pinned = pin_source(location, source=location.label, holds_weights=False)
            self._done[key] = self._with_provenance(pinned)
        return self._done[key]

    def _code(self, source: str) -> CodePin:
        names = code_files(source, self._root)
        if names:
            location = code_location(source, self._root, names)
            tools = imported_distributions(source, self._root)
            return CodePin(source, files=self._pin_files(location), tools=tools)
        distribution = installed_distribution(source, self._root)
        if distribution is None:
            raise ConfigError(
                f"{source}: there is no such module beside {self._loaded.path.name}, nor in an "
                "installed package"
            )
        name, version = distribution
        return CodePin(source, tools={name: version})

    def _backdoor(self, model: ModelEntry) -> BackdoorPin | None:
        entry, settings = model.backdoor, backdoor_settings(model)
        if entry is None or settings is None:
            return None
        files = entry.files()
        source = entry.callable_source()
        return BackdoorPin(
            settings,
            files=self._chosen(files[0]) if files else None,
            code=self._code(f"{PYTHON_PREFIX}{source}") if source is not None else None,
        )

    def _adapter(self, adapter: str | None) -> SourcePin | None:
        if adapter is None:
            return None
        return self._pin(locate_local(adapter, self._root, adapter=True), adapter, None, {})

    def _files(self, entry: SourceEntry) -> SourcePin:
        text = entry.classified(self._root)
        if text.kind != "hub":
            return self._pin(locate_local(entry.source, self._root), entry.source, None, {})
        from pytest_compsec.models.hub import download, is_offline, repository_files, snapshot_path

        if is_offline():
            location = Location(
                entry.source, self._offline_snapshot(entry, text.location), only=text.file
            )
            location = dataclasses.replace(location, commit=location.directory.name)
            return self._pin(location, entry.source, entry.revision, {})
        self._notify(f"asking the hub for {entry.source}")
        files = repository_files(text.location, entry.revision, text.file)
        snapshot = snapshot_path(text.location, files.commit)
        if not all((snapshot / name).exists() for name in files.names):
            self._notify(f"downloading {entry.source} at {files.commit}")
            snapshot = download(text.location, files.commit, files.names)
        location = Location(entry.source, snapshot, only=text.file, commit=files.commit)
        vouched = {name: (digest, HUB_MATCHED) for name, digest in files.digests.items()}
        return self._pin(location, entry.source, entry.revision, vouched)

    def _offline_snapshot(self, entry: SourceEntry, repository: str) -> Path:
        from pytest_compsec.config.source_text import is_commit
        from pytest_compsec.models.hub import snapshot_path

        if entry.revision is None or not is_commit(entry.revision):
            raise CompsecError(
                f"{entry.source}: which commit {entry.revision or 'main'} is now cannot be asked "
                "while HF_HUB_OFFLINE is set. Give a 40-hex revision, or pin with network access"
            )
        path = snapshot_path(repository, entry.revision)
        if not path.is_dir():
            raise CompsecError(
                f"{entry.source}: commit {entry.revision} is not in the local cache ({path}) and "
                "HF_HUB_OFFLINE is set. Pin with network access"
            )
        return path

    def _pin(
        self,
        location: Location,
        source: str,
        revision: str | None,
        vouched: Mapping[str, tuple[str, str]],
    ) -> SourcePin:
        key = (source, location.commit, location.adapter)
        if key not in self._done:
            self._notify(f"hashing {location.label}")
            pinned = pin_source(location, source=source, revision=revision, vouched=vouched)
            self._done[key] = self._with_provenance(pinned)
        # Two entries may name one source with different texts of revision.
        return dataclasses.replace(self._done[key], revision=revision)

    def _with_provenance(self, pinned: SourcePin) -> SourcePin:
        files = []
        for file in pinned.files:
            provenance = file.provenance
            if provenance == UNVERIFIED:
                # What was vouched for once stays so as long as the bytes are the same.
                provenance = self._known.get((pinned.source, file.name, file.sha256), UNVERIFIED)
            if self._expected(pinned, file.name, file.sha256) and provenance == UNVERIFIED:
                provenance = EXPECTED_MATCHED
            files.append(dataclasses.replace(file, provenance=provenance))
        return dataclasses.replace(pinned, files=tuple(files))

    def _expected(self, pinned: SourcePin, name: str, sha256: str) -> bool:
        matched = False
        for given, digest in self._expect.items():
            names = {name, name.rpartition("/")[2], f"{pinned.source.rstrip('/')}/{name}"}
            if pinned.entry == name:
                names.add(pinned.source)
            if given not in names:
                continue
            self._met.add(given)
            matched = True
            if digest.lower() != sha256:
                raise IntegrityError(
                    f"{pinned.source}: {name} is not what --expect asks for\n"
                    f"    expected sha256 {digest.lower()}\n    found    sha256 {sha256}\n"
                    "Nothing was pinned. (Where several sources have a file of this name, say "
                    f"which one is meant: --expect {pinned.source.rstrip('/')}/{name}=HEX)"
                )
        return matched

    def _prompts(self, name: str) -> PromptPin:
        prompts = load_prompt_set(self._loaded, name)
        return PromptPin(prompts.version, prompts.digest, len(prompts.prompts))

    def _judges(self) -> dict[str, JudgePin]:
        """The one judge that the config names."""
        from pytest_compsec.judges.registry import check_labels, identify

        options = self._loaded.config.judge.model
        files = None
        if options is not None:
            source = options.as_source()
            files = self._files(source)
            check_labels(self._loaded, locate(source, self._root, files).directory)
        judge = identify(self._loaded, files.tree if files is not None else None)
        pin = JudgePin(judge.version, judge.digest, files, judge.tools, judge.note)
        return {judge.name: pin}

    def _calibration(self, judge: JudgePin) -> CalibrationPin | None:
        if self._loaded.config.calibration is None:
            return None
        text, pin = read_calibration_text(self._loaded)
        require_fitting(self._loaded, text, judge.digest)
        return pin


def _vouched_before(lock: Lock) -> Iterator[tuple[tuple[str, str, str], str]]:
    from pytest_compsec.models.agreement import pinned_sources

    for _, source in pinned_sources(lock):
        for file in source.files:
            if file.provenance != UNVERIFIED:
                yield (source.source, file.name, file.sha256), file.provenance
