"""One original and one compressed form, ready to be asked: the object that checks work on.

Nothing is hashed or loaded before it is needed, and an arm whose answers are all in the cache is
not loaded at all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_compsec.models.arm import Arm
from pytest_compsec.models.pair_answers import Asking, PairAnswers
from pytest_compsec.models.pair_calibration import PairCalibration, calibration_of
from pytest_compsec.models.pair_facts import (
    WEIGHTS_FACT,
    perplexities_of,
    require_compressed,
    seconds_per_prompt,
    seconds_ratio,
)
from pytest_compsec.models.pair_given import (
    Given,
    backdoor_of,
    evaluation_data_of,
    given_by_fixtures,
    unseen_prompt_set,
)
from pytest_compsec.models.pair_provenance import provenance_of, provenance_without_prompts

if TYPE_CHECKING:
    from pytest_compsec.attacks.backdoor import Backdoor
    from pytest_compsec.classification.data import EvaluationData
    from pytest_compsec.classification.model import ClassifierModel
    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.data import DataFile
    from pytest_compsec.generation.answers import AnswerSheet
    from pytest_compsec.judges.base import Judge
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.lock import Lock
    from pytest_compsec.prompts import PromptSet
    from pytest_compsec.suite import MeasuringOptions, Suite

__all__ = ["Given", "ModelPair", "PairAnswers", "PairCalibration"]

Measured = TypeVar("Measured")


class ModelPair:
    """Original and one variant of it. Made by :meth:`pytest_compsec.suite.Suite.pair`."""

    def __init__(self, suite: Suite, name: PairName, given: Given | None = None) -> None:
        self._suite = suite
        self.name = name
        self._given = given or Given()
        self._asking = Asking(suite, lambda arm: self._load(arm))

    def __repr__(self) -> str:
        return f"<ModelPair {self.id}>"

    @property
    def id(self) -> str:
        """``model-variant``, as in test names."""
        return self.name.id

    def with_given(self, *, evaluation_data: object = None, backdoor: object = None) -> ModelPair:
        """The same pair with other data and another backdoor than the config's, as the fixtures
        ``evaluation_data`` and ``backdoor`` give them; None leaves what was there.

        Raises ConfigError for values that are neither.
        """
        given = given_by_fixtures(
            self._given, self.task, evaluation_data=evaluation_data, backdoor=backdoor
        )
        return ModelPair(self._suite, self.name, given)

    @property
    def task(self) -> str:
        """``text-generation``, ``image-classification`` or ``text-classification``."""
        return self._suite.config.config.models[self.name.model].task

    @property
    def evaluation_data(self) -> EvaluationData:
        """The samples of a classifier: the fixture's, else the config's pinned ones.

        Raises ConfigError when there are none, and for samples that the compressed model was
        fitted to.
        """
        return evaluation_data_of(self._suite, self.name, self._given)

    @property
    def backdoor(self) -> Backdoor:
        """The trigger and its target: the fixture's, else the config's; either may be missing."""
        return backdoor_of(self._suite, self.name, self._given)

    @property
    def classifiers(self) -> tuple[ClassifierModel, ClassifierModel]:
        """Original and compressed classifier, both in memory, of the same number of classes.

        Raises MeasurementError for another task, or other classes.
        """
        from pytest_compsec.classification.model import both_classifiers

        self.require_compressed()
        return both_classifiers(self.original, self.compressed)

    @property
    def original_arm(self) -> Arm:
        return self._suite.inputs.arm(self.name.model, None)

    @property
    def compressed_arm(self) -> Arm:
        return self._suite.inputs.arm(self.name.model, self.name.variant)

    @property
    def original(self) -> LoadedModel:
        """The original, verified and loaded. The pool may free it when the other arm is loaded."""
        return self._load(self.original_arm)

    @property
    def compressed(self) -> LoadedModel:
        """The compressed form, verified, loaded, and checked to be compressed."""
        self.require_compressed()
        return self._load(self.compressed_arm)

    @property
    def device(self) -> str:
        """The torch device of the compressed model."""
        return self._suite.placement(self.compressed_arm)[0]

    @property
    def judge(self) -> Judge:
        """The judge of refusals, compared with the lock."""
        return self._suite.judge()

    def prompt_set(self, name: str) -> PromptSet:
        """A built-in or configured prompt set, compared with the lock.

        Raises ConfigError for prompts that the compressed model was fitted to: the set from which
        its layers were chosen, or with which it was compressed.
        """
        return unseen_prompt_set(self._suite, self.name, name)

    def data(self, name: str) -> DataFile:
        """A built-in or configured data file, its bytes compared with the lock. Raises ConfigError
        for an unknown name, IntegrityError for other bytes."""
        return self._suite.inputs.data(name)

    @property
    def data_names(self) -> tuple[str, ...]:
        """The names under ``data`` of the config; the built-in ones are not among them."""
        return tuple(self._suite.config.config.data)

    def once(self, key: Hashable, measure: Callable[[], Measured]) -> Measured:
        """What ``measure`` finds on this pair, measured once in a run for each ``key``, in which
        everything is that decides it but the two models."""
        return self._suite.once(self._arms, key, measure)

    def once_for(self, arm: Arm, key: Hashable, measure: Callable[[], Measured]) -> Measured:
        """As :meth:`once`, of one arm alone: what is measured on an original serves all its
        variants."""
        return self._suite.once((arm,), key, measure)

    @property
    def options(self) -> MeasuringOptions:
        """What the whole run was asked to measure beside the plain comparison."""
        return self._suite.options

    @property
    def suite(self) -> Suite:
        """The suite that it is of."""
        return self._suite

    @property
    def pairs_of_suite(self) -> int:
        """How many pairs the config has: the choice that whoever ships one of them had."""
        return len(self._suite.pairs)

    @property
    def lock_digest(self) -> str:
        """sha256 (hex) of the lock file."""
        return self._suite.inputs.lock_digest

    @property
    def lock(self) -> Lock:
        """All that is pinned."""
        return self._suite.inputs.lock

    @property
    def order_digest(self) -> str:
        """sha256 (hex) from which the order of asking is drawn: the lock's without its data."""
        return self._suite.inputs.order_digest

    @property
    def config_name(self) -> str:
        """The name of the config, for messages."""
        return self._suite.path.name

    def calibration(self, prompts: str) -> PairCalibration | None:
        """The judge's error rates on both arms' answers to this prompt set; None where the config
        names no calibration, or it says nothing about these arms and prompts."""
        return calibration_of(self._suite, self.name, prompts)

    @property
    def has_calibration(self) -> bool:
        """Whether the config names a calibration of the judge, for whichever pair."""
        return self._suite.config.config.calibration is not None

    def prepare(self, parts: Sequence[Sequence[str]]) -> None:
        """Called before prompts are asked part by part. Where memory does not hold both arms the
        original answers all parts now, so that the arms need not take turns."""
        self._asking.prepare(*self._arms, parts)

    def answers(self, prompts: Sequence[str]) -> PairAnswers:
        """Both arms answer ``prompts`` greedily, one after the other."""
        # Both are verified before either is opened: a minute is not spent on a tampered pair.
        original_arm, compressed_arm = self.original_arm, self.compressed_arm
        original = self._answers(original_arm, prompts)
        self.require_compressed()
        return PairAnswers(original, self._answers(compressed_arm, prompts))

    def other_batches(self, prompts: Sequence[str]) -> AnswerSheet:
        """The original answers ``prompts`` once more, in batches composed at random and of another
        size. Never from the cache of earlier runs, nor into it."""
        return self._asking.other_batches(self.original_arm, prompts)

    def unpacked_answers(self, arm: Arm, prompts: Sequence[str]) -> AnswerSheet:
        """What the file of an arm in llama.cpp answers when transformers unpacks and runs it."""
        return self._asking.unpacked_answers(arm, prompts)

    def perplexities(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """Perplexity of each answer under the original; None where there is too little text, or
        its server does not tell (the provenance then says so)."""
        return perplexities_of(self._suite, self.original_arm, prompts, answers, self._load)

    def seconds_per_prompt(self) -> float | None:
        """Time of both arms for one prompt, loading not counted; None before any was timed."""
        return seconds_per_prompt(self._suite, *self._arms)

    def seconds_ratio(self) -> float | None:
        """Time of the compressed model for an answer as a multiple of the original's, loading not
        counted; None before both were timed."""
        return seconds_ratio(self._suite, *self._arms)

    def require_compressed(self) -> None:
        """Raise NotCompressedError when the variant shows no compression against its original (see
        :func:`pytest_compsec.models.pair_facts.require_compressed`)."""
        require_compressed(self._suite, *self._arms, self._load)

    def recheck(self) -> None:
        """Raise IntegrityError when a file behind either arm changed since it was verified, or a
        server says something else of its model."""
        for arm in self._arms:
            self._suite.recheck(arm)

    def provenance(self, prompt_set: PromptSet) -> dict[str, Any]:
        """What was measured with what, for the reports."""
        return provenance_of(self._suite, *self._arms, prompt_set)

    def provenance_with(self, *files: DataFile) -> dict[str, Any]:
        """As :meth:`provenance`, for a check that asks no prompts and no judge: what was measured
        with which data files."""
        return provenance_without_prompts(self._suite, *self._arms, files)

    @property
    def _arms(self) -> tuple[Arm, Arm]:
        return self.original_arm, self.compressed_arm

    def _load(self, arm: Arm) -> LoadedModel:
        model = self._suite.pool.get(arm)
        if arm.served is None:
            self._suite.remember(arm, WEIGHTS_FACT, model.weights.to_json())
        return model

    def _answers(self, arm: Arm, prompts: Sequence[str]) -> AnswerSheet:
        return self._asking.answers(arm, prompts)
