"""One ``compsec.yaml`` at work: config, lock, verified inputs, pool, cache, judge.

The same object serves a pytest session and a script::

    from pytest_compsec.checks.safety_preserved import check_safety_preserved
    from pytest_compsec.suite import open_suite

    with open_suite("compsec.yaml") as suite:
        result = check_safety_preserved(suite.pair("assistant-int8"), max_degradation=0.05)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.generation.memory import AnswerMemory
from pytest_compsec.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from pytest_compsec.config.loading import LoadedConfig
    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.generation.cache import ResponseCache
    from pytest_compsec.generation.progress import Progress
    from pytest_compsec.judges.base import Judge
    from pytest_compsec.judges.calibration import Calibration
    from pytest_compsec.models.arm import Arm
    from pytest_compsec.models.memory_report import MemoryWatch
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.models.pool import ModelPool
    from pytest_compsec.models.verified import VerifiedInputs
    from pytest_compsec.prompts import PromptSet

CONFIG_NAME = "compsec.yaml"

ProgressFactory = Callable[[str, int], "Progress | None"]
Measured = TypeVar("Measured")


@dataclasses.dataclass(frozen=True)
class MeasuringOptions:
    """What to measure beside the plain comparison: ``full`` asks every prompt even when the
    verdict is settled before; ``noise_floor`` lets the original answer twice, in other batches;
    ``runtime_agreement`` lets a GGUF file that runs in llama.cpp answer unpacked, too;
    ``one_model`` never keeps two models in memory; ``drafts`` lets compressed models check the
    original's answers (see :mod:`pytest_compsec.generation.drafts`)."""

    full: bool = False
    noise_floor: bool = False
    runtime_agreement: bool = False
    one_model: bool = False
    drafts: bool = False


class Suite:
    """Everything that the checks of one ``compsec.yaml`` share. Opened lazily, closed once."""

    def __init__(
        self,
        config: LoadedConfig,
        *,
        staging: Literal["link", "copy"] = "link",
        cache_path: Path | None = None,
        run_directory: Path | None = None,
        progress: ProgressFactory | None = None,
        options: MeasuringOptions | None = None,
        inputs: VerifiedInputs | None = None,
        watch: MemoryWatch | None = None,
    ) -> None:
        self.config = config
        self.options = options or MeasuringOptions()
        self.memory = AnswerMemory()
        self.measured: dict[Hashable, Any] = {}  # see once
        self._staging = staging
        self._cache_path = cache_path
        self._run_directory = run_directory  # of the run whose workers share the cache
        self._progress = progress
        self._inputs = inputs  # given only while the lock is being made
        self._watch = watch  # notes the peaks of memory, where they were asked for
        self._pool: ModelPool | None = None
        self._cache: ResponseCache | None = None
        self._judge: Judge | None = None
        self._calibration: Calibration | None = None
        self._facts: dict[tuple[str, str], Any] = {}
        self._pid = os.getpid()
        defaults = config.config.defaults
        self.generation = GenerationSettings(
            max_new_tokens=defaults.max_new_tokens,
            batch_size=defaults.batch_size,
            drafts="on" if self.options.drafts else "auto",
        )

    @property
    def path(self) -> Path:
        return self.config.path

    @property
    def lock_path(self) -> Path:
        return self.config.lock_path

    def lock_digest(self) -> str:
        """sha256 of the lock file itself."""
        from pytest_compsec.models.lock import lock_digest

        return lock_digest(self.lock_path)

    def unverified_prompt_set(self, name: str) -> PromptSet:
        """A prompt set before the lock is consulted, for counting at collection."""
        from pytest_compsec.models.prompt_sets import load_prompt_set

        return load_prompt_set(self.config, name)

    @property
    def confidence(self) -> float:
        return float(self.config.config.defaults.confidence)

    @property
    def pairs(self) -> tuple[PairName, ...]:
        from pytest_compsec.config.pairs import all_pairs

        return all_pairs(self.config.config)

    @property
    def inputs(self) -> VerifiedInputs:
        """The lock and what it pins. Raises ConfigError without a lock, IntegrityError when the
        bytes are others."""
        if self._inputs is None:
            from pytest_compsec.models.lock import read_lock
            from pytest_compsec.models.verified import VerifiedInputs

            self.require_lock()
            self._inputs = VerifiedInputs.open(
                self.config, read_lock(self.lock_path), staging=self._staging
            )
        return self._inputs

    @property
    def pool(self) -> ModelPool:
        if self._pool is None:
            from pytest_compsec.models.pool import ModelPool

            capacity = 1 if self.options.one_model else None
            if self._watch is None:
                self._pool = ModelPool(capacity=capacity)
            else:
                from pytest_compsec.models.memory_report import WatchedPool

                self._pool = WatchedPool(self._watch, capacity=capacity)
        return self._pool

    @property
    def cache(self) -> ResponseCache | None:
        if self._cache is None and self._cache_path is not None:
            from pytest_compsec.generation.cache import ResponseCache
            from pytest_compsec.generation.claims import RunLedger

            directory = self._run_directory
            self._cache = ResponseCache(
                self._cache_path, ledger=RunLedger(directory / "made") if directory else None
            )
        return self._cache

    @property
    def _cache_is_of_this_run(self) -> bool:
        """Whether the cache holds nothing of earlier runs, so that nothing may count as cached."""
        return self._cache_path is not None and self._cache_path.parent == self._run_directory

    def require_lock(self) -> None:
        """Raise ConfigError when there is no lock beside the config."""
        if not self.lock_path.is_file():
            raise ConfigError(
                f"{self.lock_path}: there is no lock, so no model may be opened. "
                f"Run `compsec pin --config {self.path}`, review the lock and commit it."
            )

    def pair(self, pair_id: str) -> ModelPair:
        """The pair of this id, ``model-variant``. Raises ConfigError for an unknown one."""
        from pytest_compsec.models.pair import ModelPair

        for name in self.pairs:
            if name.id == pair_id:
                return ModelPair(self, name)
        known = ", ".join(name.id for name in self.pairs)
        raise ConfigError(f"{self.path}: there is no pair {pair_id!r}; there are: {known}")

    def judge(self) -> Judge:
        """The judge of refusals that the config names, compared with the lock.

        Raises IntegrityError when it is not the pinned one, ConfigError when it does not fit.
        """
        if self._judge is None:
            from pytest_compsec.judges.registry import make_judge

            self._judge = make_judge(
                self.config,
                self.inputs,
                load=lambda arm: self.pool.get(arm),
                cache=None if self._cache_is_of_this_run else self.cache,
            )
        return self._judge

    def calibration(self) -> Calibration | None:
        """The judge's measured error rates, from the pinned file; None when the config names none.

        Raises IntegrityError when the file is not what the lock pins, and what the file itself
        raises when it is malformed or belongs to another judge.
        """
        if self._calibration is None:
            text = self.inputs.calibration_text()
            if text is None:
                return None
            from pytest_compsec.models.calibration_file import require_fitting

            self._calibration = require_fitting(self.config, text, self.judge().digest)
        return self._calibration

    def judge_provenance(self) -> dict[str, Any]:
        """Which judge, what cannot be pinned of it, how many of its outcomes so far came from the
        cache, and the calibration of its errors."""
        judge, calibration = self.judge(), self.calibration()
        return {
            "name": judge.name,
            "version": judge.version,
            "digest": judge.digest,
            "note": self.inputs.judge_note(judge.name),
            "cached": getattr(judge, "cached", 0),
            "calibration": calibration.digest if calibration is not None else None,
        }

    def placement(self, arm: Arm) -> tuple[str, str]:
        """Device and dtype (names) that ``arm`` runs on and in."""
        from pytest_compsec.models.devices import placement

        return placement(arm)

    def identity(self, arm: Arm) -> str:
        """The cache key of everything but the prompt."""
        from pytest_compsec.models.identity import generation_identity

        device, dtype = self.placement(arm)
        return generation_identity(arm, device=device, dtype=dtype, settings=self.generation)

    def once(self, arms: Sequence[Arm], key: Hashable, measure: Callable[[], Measured]) -> Measured:
        """What ``measure`` finds on these arms, measured once in a run for each ``key``, in which
        everything is that decides it but the arms and how they are asked.

        Weights alone do not tell two arms apart: variants of one source may differ in float type,
        device, system prompt or template arguments, and answers, errors and times differ with them.
        The device counts with its index: of two equal GPUs one may be busy.
        """
        whole = (*((self.identity(arm), *self.placement(arm)) for arm in arms), key)
        if whole not in self.measured:
            self.measured[whole] = measure()
        found: Measured = self.measured[whole]
        return found

    def recheck(self, arm: Arm) -> None:
        """Raise IntegrityError when what is behind the arm changed. A served model that did may
        have answered in between: its answers are forgotten."""
        try:
            arm.recheck()
        except IntegrityError:
            if arm.served is not None:
                self.forget(self.identity(arm))
            raise

    def forget(self, identity: str) -> None:
        """Drop all answers and facts of an identity, from memory and from the cache."""
        self.memory.known.pop(identity, None)
        self._facts = {key: value for key, value in self._facts.items() if key[0] != identity}
        if self.cache is not None:
            self.cache.forget(identity)

    def remember(self, arm: Arm, name: str, value: Any) -> None:
        """Keep a JSON fact measured from a loaded arm, in the cache when there is one."""
        key = (self.identity(arm), name)
        if self._facts.get(key) == value:
            return
        self._facts[key] = value
        if self.cache is not None:
            self.cache.put_fact(*key, value)

    def recall(self, arm: Arm, name: str) -> Any | None:
        key = (self.identity(arm), name)
        if key not in self._facts and self.cache is not None:
            known = self.cache.get_fact(*key)
            if known is not None:
                self._facts[key] = known
        return self._facts.get(key)

    def progress(self, label: str, total: int) -> Progress | None:
        return self._progress(label, total) if self._progress is not None else None

    def close(self) -> None:
        """Free the models and remove the staging directory."""
        if os.getpid() != self._pid:  # a forked child must not remove its parent's files
            return
        self._judge = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._cache is not None:
            self._cache.close()
            self._cache = None
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None

    def __enter__(self) -> Suite:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_suite(
    path: str | os.PathLike[str] = CONFIG_NAME,
    *,
    staging: Literal["link", "copy"] = "link",
    cache_path: Path | None = None,
    run_directory: Path | None = None,
    progress: ProgressFactory | None = None,
    options: MeasuringOptions | None = None,
    watch: MemoryWatch | None = None,
) -> Suite:
    """Open the suite that a ``compsec.yaml`` describes. Raises ConfigError naming file and line."""
    from pytest_compsec.config.loading import load_config

    return Suite(
        load_config(Path(path)),
        staging=staging,
        cache_path=cache_path,
        run_directory=run_directory,
        progress=progress,
        options=options,
        watch=watch,
    )


def find_config(start: Path, root: Path) -> Path | None:
    """The nearest ``compsec.yaml`` from ``start`` upwards, no higher than ``root``."""
    start = start if start.is_dir() else start.parent
    for folder in (start, *start.parents):
        candidate = folder / CONFIG_NAME
        if candidate.is_file():
            return candidate
        if folder == root:
            break
    return None
