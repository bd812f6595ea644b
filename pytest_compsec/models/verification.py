"""Compare everything that a lock pins with what is there now, and list every difference.

A test run stops at the first source that differs; ``compsec verify`` goes on to the end.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pytest_compsec.config.data_files import BUILTIN_DATA
from pytest_compsec.config.endpoints import EndpointEntry
from pytest_compsec.config.loading import LoadedConfig
from pytest_compsec.config.pairs import pair_id
from pytest_compsec.config.schema import SourceEntry
from pytest_compsec.errors import CompsecError
from pytest_compsec.models.agreement import (
    disagreements,
    judge_disagreements,
    stale_entries,
    tool_differences,
    tool_version,
)
from pytest_compsec.models.arm import Recipe, Runtime
from pytest_compsec.models.calibration_file import read_calibration_text
from pytest_compsec.models.chosen_files import pinned_location
from pytest_compsec.models.data_files import data_names, read_pinned_data
from pytest_compsec.models.integrity import verify
from pytest_compsec.models.listing import Location, Problem
from pytest_compsec.models.lock import ArmPin, CodePin, Lock, ModelPin, SourcePin
from pytest_compsec.models.model_inputs import wrong_distribution
from pytest_compsec.models.oms.pin import SignaturePin
from pytest_compsec.models.prompt_sets import load_prompt_set, prompt_set_names
from pytest_compsec.models.served.pin import EndpointPin
from pytest_compsec.models.served.verification import verify_served
from pytest_compsec.models.sources import locate, locate_local
from pytest_compsec.models.tensors.explaining import explain_problems
from pytest_compsec.models.tensors.sidecar import Tables, read_sidecar

#: Built-in prompt sets that releases after the first brought.
ADDED_LATER = frozenset({"jailbreak"})


@dataclasses.dataclass(frozen=True)
class VerificationReport:
    """``files`` counts the pinned files that were compared; ``notes`` are no reason to fail."""

    lock_digest: str
    files: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "ok": not self.problems,
            "lock_digest": self.lock_digest,
            "files": self.files,
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "notes": list(self.notes),
        }


def verify_lock(loaded: LoadedConfig, lock: Lock) -> VerificationReport:
    """Hash every pinned file and compare every other pin. Raises nothing that a pin may cause."""
    verifier = _Verifier(loaded, lock)
    verifier.settings()
    verifier.tensors()
    for name, model in loaded.config.models.items():
        pin = lock.models.get(name)
        if pin is None:
            continue
        verifier.inputs(pin)
        verifier.arm(name, model.original, pin.original)
        for key, variant in model.compressed.items():
            arm = pin.variants.get(key)
            if arm is not None:
                verifier.arm(pair_id(name, key), variant.as_source(), arm)
    verifier.prompts()
    verifier.data()
    verifier.judge()
    verifier.calibration()
    stale = [f"the lock lists {what}, which compsec.yaml no longer names" for what in
             stale_entries(loaded, lock)]  # fmt: skip
    return VerificationReport(
        lock.digest, verifier.files, tuple(verifier.problems), (*verifier.notes, *stale)
    )


class _Verifier:
    def __init__(self, loaded: LoadedConfig, lock: Lock) -> None:
        self._loaded = loaded
        self._lock = lock
        self._seen: set[tuple[Location, str]] = set()
        self._tensors: Tables = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.files = 0

    def settings(self) -> None:
        for message in disagreements(self._loaded, self._lock):
            unlisted = "is not in the lock" in message
            self._add("unlisted" if unlisted else "changed", "compsec.yaml", message)

    def tensors(self) -> None:
        """The digests of single tensors, which later say what of a file changed."""
        pin = self._lock.tensors
        if pin is None:
            return
        try:
            self._tensors = read_sidecar(self._loaded.root, pin)
        except CompsecError as error:
            self._add("changed", pin.file, str(error))
        self.files += 1

    def inputs(self, pin: ModelPin) -> None:
        """The evaluation data of a model and what its backdoor is made of."""
        backdoor = pin.backdoor
        code = backdoor.code if backdoor is not None else None
        self._chosen(pin.evaluation_data)
        self._chosen(backdoor.files if backdoor is not None else None)
        self._code(code)

    def _chosen(self, pin: SourcePin | None) -> None:
        if pin is None:
            return
        try:
            self._compare(pinned_location(pin, self._loaded.root), pin)
        except CompsecError as error:
            self._add("missing", pin.source, str(error))

    def _code(self, pin: CodePin | None) -> None:
        if pin is not None:
            self._chosen(pin.files)
            self._tools(pin.source, pin)
            problem = wrong_distribution(pin.source, pin.tools) if pin.files is None else None
            if problem is not None:
                self._add("changed", pin.source, problem)

    def arm(self, label: str, source: SourceEntry | None, pin: ArmPin) -> None:
        self._code(pin.code)
        self._chosen(pin.data)
        if pin.recipe is not None:
            self._tools(label, pin.recipe)
        if pin.runtime is not None:
            self._tools(label, pin.runtime)
        root = self._loaded.root
        if source is None and pin.recipe is not None and pin.adapter is not None:
            try:
                location = locate_local(pin.adapter.source, root, adapter=True)
                self._compare(location, pin.adapter)
            except CompsecError as error:
                self._add("missing", pin.adapter.source, str(error))
        if source is not None and source.endpoint is not None and pin.endpoint is not None:
            self._served(label, source.endpoint, pin.endpoint)
        if source is None or pin.files is None:
            return
        if pin.code is not None:
            self._chosen(pin.files)
            return
        if source.source != pin.files.source or source.revision != pin.files.revision:
            return  # told by settings(); comparing the files of another source says nothing
        try:
            location = locate(source, root, pin.files)
            self._compare(location, pin.files)
            self._signature(label, location, pin.files, pin.signature)
            if source.adapter is not None and pin.adapter is not None:
                location = locate_local(source.adapter, root, adapter=True)
                self._compare(location, pin.adapter)
        except CompsecError as error:
            self._add("missing", source.source, str(error))

    def _signature(
        self, label: str, location: Location, files: SourcePin, pin: SignaturePin | None
    ) -> None:
        from pytest_compsec.models.oms.checking import signature_problems, unchecked_note

        if pin is not None:
            self.problems += signature_problems(pin, self._loaded.root, location, files)
            return
        note = unchecked_note(label, location)
        if note is not None and note not in self.notes:
            self.notes.append(note)

    def _served(self, label: str, entry: EndpointEntry, pin: EndpointPin) -> None:
        problems, notes = verify_served(label, entry, pin)
        self.problems += problems
        self.notes += notes

    def _compare(self, location: Location, pin: SourcePin) -> None:
        if (location, pin.tree) in self._seen:
            return
        self._seen.add((location, pin.tree))
        self.files += len(pin.files)
        problems = verify(location, pin)
        self.problems += explain_problems(problems, location, self._tensors) if problems else ()

    def _tools(self, label: str, recipe: Recipe | Runtime | CodePin) -> None:
        installed = {tool: tool_version(tool) for tool in recipe.tools}
        present = {tool: version for tool, version in installed.items() if version is not None}
        for tool in installed.keys() - present.keys():
            self.notes.append(f"{label}: {tool} is not installed here, its version not compared")
        for message in tool_differences(label, recipe, present):
            self._add("changed", label, message)

    def prompts(self) -> None:
        for name in prompt_set_names(self._loaded):
            pin = self._lock.prompts.get(name)
            if pin is None:
                message = f"the prompt set {name!r} is not in the lock"
                if name in ADDED_LATER:
                    # Locks of earlier releases do not list it; a test that names it is refused.
                    self.notes.append(message)
                else:
                    self._add("unlisted", name, message)
                continue
            try:
                found = load_prompt_set(self._loaded, name).digest
            except CompsecError as error:
                self._add("changed", name, str(error))
                continue
            if found != pin.digest:
                self._differs(f"the prompt set {name!r}", name, pin.digest, found)

    def data(self) -> None:
        for name in data_names(self._loaded):
            if name not in self._lock.data and name in BUILTIN_DATA:
                # Locks of earlier releases do not list it; a check that reads it is refused.
                self.notes.append(f"the built-in data {name!r} are not in the lock")
                continue
            try:
                read_pinned_data(self._loaded, self._lock, name)
            except CompsecError as error:
                unlisted = name not in self._lock.data
                self._add("unlisted" if unlisted else "changed", name, str(error))
            self.files += name not in BUILTIN_DATA

    def judge(self) -> None:
        """Its files when it has some, then the digest, which covers settings and versions."""
        from pytest_compsec.judges.registry import identify

        name, options = self._loaded.config.judge.name, self._loaded.config.judge.model
        pin = self._lock.judges.get(name)
        if pin is None or (options is not None and pin.files is None):
            self._add("unlisted", name, f"the judge {name!r} is not in the lock")
            return
        try:
            if options is not None and pin.files is not None:
                messages = judge_disagreements(self._loaded, self._lock)
                for message in messages:
                    self._add("changed", "compsec.yaml", message)
                if not messages:
                    root = self._loaded.root
                    self._compare(locate(options.as_source(), root, pin.files), pin.files)
            found = identify(self._loaded, pin.files.tree if pin.files is not None else None)
        except CompsecError as error:
            self._add("missing", name, str(error))
            return
        for tool, version in pin.tools.items():
            if found.tools.get(tool) != version:
                message = f"{tool} is {found.tools.get(tool)}, the lock pins {version}"
                self._add("changed", name, f"the judge {name!r}: {message}")
        if pin.digest != found.digest:
            self._differs(f"the judge {name!r}", name, pin.digest, found.digest)
        if pin.note is not None:
            self.notes.append(f"the judge {name!r}: {pin.note}")

    def calibration(self) -> None:
        name = self._loaded.config.calibration
        if name is None:
            return
        pin = self._lock.calibration
        if pin is None:
            self._add("unlisted", name, f"the calibration {name!r} is not in the lock")
            return
        try:
            found = read_calibration_text(self._loaded)[1]
        except CompsecError as error:
            self._add("missing", name, str(error))
            return
        self.files += 1
        if found != pin:
            self._differs(f"the calibration {name!r}", name, pin.sha256, found.sha256)

    def _differs(self, what: str, name: str, expected: str, found: str) -> None:
        message = f"{what} is not what the lock pins\n    locked {expected}\n    found  {found}"
        self.problems.append(Problem("changed", name, message, expected, found))

    def _add(self, kind: Any, file: str, message: str) -> None:
        self.problems.append(Problem(kind, file, message))


def config_and_lock(path: Path) -> tuple[LoadedConfig, Lock]:
    """Both files, or ConfigError."""
    from pytest_compsec.config.loading import load_config
    from pytest_compsec.models.lock import read_lock

    loaded = load_config(path)
    return loaded, read_lock(loaded.lock_path)
