"""One original and one compressed form, ready to be asked: the object that checks work on.

Nothing is hashed or loaded before it is needed, and an arm whose answers are all in the cache is
not loaded at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.pair_parts import Given, PairAnswers, PairCalibration

if TYPE_CHECKING:
    from pytest_compsec.attacks.backdoor import Backdoor
    from pytest_compsec.classification.data import EvaluationData
    from pytest_compsec.classification.model import ClassifierModel
    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.data import DataFile
    from pytest_compsec.generation.answers import AnswerSheet
    from pytest_compsec.generation.cache import ResponseCache
    from pytest_compsec.judges.base import Judge
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.lock import Lock
    from pytest_compsec.models.weights import WeightReport
    from pytest_compsec.prompts import PromptSet
    from pytest_compsec.suite import MeasuringOptions, Suite

__all__ = ["Given", "ModelPair", "PairAnswers", "PairCalibration"]

Measured = TypeVar("Measured")
WEIGHTS_FACT = "weights"
#: Public data sets repeat a few of their training samples among those for testing.
MOST_SHARED_SAMPLES = 0.01
RATE_FACT = "seconds per answer"
#: Fewer answers than a batch holds say little about speed.
ENOUGH_TO_TIME = 32


class ModelPair:
    """Original and one variant of it. Made by :meth:`pytest_compsec.suite.Suite.pair`."""

    def __init__(self, suite: Suite, name: PairName, given: Given | None = None) -> None:
        self._suite = suite
        self.name = name
        self._given = given or Given()
        self._planned: tuple[str, ...] = ()  # what the check at work may ask in all

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
        from pytest_compsec.attacks.triggers.reading import as_backdoor
        from pytest_compsec.classification.reading import as_evaluation_data

        given = self._given
        if evaluation_data is not None:
            data = as_evaluation_data(evaluation_data, source="the fixture evaluation_data")
            given = dataclasses.replace(given, evaluation_data=data)
        if backdoor is not None:
            try:
                found = as_backdoor(backdoor, self.task)
            except ConfigError as error:
                raise ConfigError(f"the fixture backdoor: {error}") from None
            given = dataclasses.replace(given, backdoor=found)
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
        data = self._given.evaluation_data
        if data is None:
            data = self._suite.inputs.evaluation_data(self.name.model)
        if data is None:
            raise ConfigError(
                f"{self.config_name}: {self.name.model!r} has no evaluation data. Override the "
                "fixture `evaluation_data`, or name a file with 'evaluation_data'"
            )
        self._require_unseen(data)
        return data

    def _require_unseen(self, data: EvaluationData) -> None:
        from pytest_compsec.models.model_inputs import pinned_data, samples_in_both

        arm = self.compressed_arm
        if arm.recipe is None or arm.data is None:
            return
        fitted = str(arm.recipe.options["data"])
        shared = samples_in_both(data, pinned_data(arm.data, fitted))
        if shared > MOST_SHARED_SAMPLES * len(data):
            raise ConfigError(
                f"{self.config_name}: {self.id} was fitted to {fitted!r}, and {shared} of "
                f"{len(data)} samples of {data.source} are in it too: a verdict on them says "
                "nothing. Test it with other samples"
            )

    @property
    def backdoor(self) -> Backdoor:
        """The trigger and its target: the fixture's, else the config's; either may be missing."""
        from pytest_compsec.attacks.backdoor import Backdoor

        if self._given.backdoor is not None:
            return self._given.backdoor
        return self._suite.inputs.backdoor(self.name.model) or Backdoor()

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
        from pytest_compsec.compression.options.base import named_prompt_sets
        from pytest_compsec.prompts.builtin import WRAPPED
        from pytest_compsec.prompts.similarity import shared_prompts

        prompts = self._suite.inputs.prompt_set(name)
        # A wrapped request is the same request.
        plain = self._suite.inputs.prompt_set(WRAPPED[name]) if name in WRAPPED else prompts
        recipe = self.compressed_arm.recipe
        for option, fitted in named_prompt_sets(recipe.options if recipe else {}).items():
            others = self._suite.inputs.prompt_set(fitted)
            shared = shared_prompts(prompts, others) or shared_prompts(plain, others)
            if shared:
                raise ConfigError(
                    f"{self.config_name}: {self.id} was fitted to the prompt set {fitted!r} "
                    f"('{option}'), and {len(shared)} of its prompts are in {name!r} too "
                    f"({', '.join(shared[:3])}): a verdict on them says nothing. Test it with "
                    "other prompts"
                )
        return prompts

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
        whole = (self.original_arm.weights_digest, self.compressed_arm.weights_digest, key)
        if whole not in self._suite.measured:
            self._suite.measured[whole] = measure()
        found: Measured = self._suite.measured[whole]
        return found

    def once_for(self, arm: Arm, key: Hashable, measure: Callable[[], Measured]) -> Measured:
        """As :meth:`once`, of one arm alone: what is measured on an original serves all its
        variants."""
        whole = (arm.weights_digest, *self._suite.placement(arm), key)
        if whole not in self._suite.measured:
            self._suite.measured[whole] = measure()
        found: Measured = self._suite.measured[whole]
        return found

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
        calibration = self._suite.calibration()
        if calibration is None:
            return None
        first, second = self.original_arm.name, self.compressed_arm.name
        original = calibration.for_arm(first, prompts)
        compressed = calibration.for_arm(second, prompts)
        original_answers = calibration.answers_of(first, prompts)
        compressed_answers = calibration.answers_of(second, prompts)
        if original is None or compressed is None:
            return None
        # A calibration holds a digest for each of its arms.
        assert original_answers is not None
        assert compressed_answers is not None
        return PairCalibration(
            original, compressed, calibration.digest, original_answers, compressed_answers
        )

    @property
    def has_calibration(self) -> bool:
        """Whether the config names a calibration of the judge, for whichever pair."""
        return self._suite.config.config.calibration is not None

    def prepare(self, parts: Sequence[Sequence[str]]) -> None:
        """Called before prompts are asked part by part. Where memory does not hold both arms the
        original answers all parts now, so that the arms need not take turns."""
        self._planned = tuple(prompt for part in parts for prompt in part)
        if not self._suite.pool.fits_together(self.original_arm, self.compressed_arm):
            for prompts in parts:
                self._answers(self.original_arm, prompts)

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
        arm = self.original_arm
        settings = dataclasses.replace(self._suite.generation, shuffle=1)
        identity = f"{self._suite.identity(arm)} in other batches"
        return self._suite.memory.answers(
            identity, prompts, lambda missing: self._ask(arm, missing, settings, identity, None)
        )

    def unpacked_answers(self, arm: Arm, prompts: Sequence[str]) -> AnswerSheet:
        """What the file of an arm in llama.cpp answers when transformers unpacks and runs it."""
        arm = dataclasses.replace(arm, runtime=None)
        identity = self._suite.identity(arm)
        settings, cache = self._suite.generation, self._suite.cache
        return self._suite.memory.answers(
            identity,
            prompts,
            lambda missing: self._ask(arm, missing, settings, identity, cache, label=" unpacked"),
        )

    def perplexities(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """Perplexity of each answer under the original; None where there is too little text, or
        its server does not tell (the provenance then says so)."""
        from pytest_compsec.models.pair_parts import perplexities_of

        return perplexities_of(self._suite, self.original_arm, prompts, answers, self._load)

    def seconds_per_prompt(self) -> float | None:
        """Time of both arms for one prompt, loading not counted; None before any was timed."""
        rates = [
            self._suite.recall(arm, RATE_FACT) for arm in (self.original_arm, self.compressed_arm)
        ]
        known = [float(rate) for rate in rates if rate is not None]
        return sum(known) if len(known) == len(rates) else None

    def seconds_ratio(self) -> float | None:
        """Time of the compressed model for an answer as a multiple of the original's, loading not
        counted; None before both were timed."""
        original, compressed = (
            self._suite.recall(arm, RATE_FACT) for arm in (self.original_arm, self.compressed_arm)
        )
        return compressed / original if original and compressed else None

    def require_compressed(self) -> None:
        """Raise NotCompressedError when the variant shows no compression against its original.

        A derived variant is checked against its recipe when it is loaded; here another source
        is compared with the original by what both loaded modules really hold. Where one of them is
        served there is nothing to compare, which every result says; two served ones must at least
        be two.
        """
        from pytest_compsec.models.served.distinct import require_two_models

        arms = (self.original_arm, self.compressed_arm)
        require_two_models(*arms)
        if self.compressed_arm.recipe is not None or any(arm.served is not None for arm in arms):
            return
        from pytest_compsec.models.weights import check_is_compressed

        check_is_compressed(self._weights(self.original_arm), self._weights(self.compressed_arm))

    def recheck(self) -> None:
        """Raise IntegrityError when a file behind either arm changed since it was verified, or a
        server says something else of its model."""
        for arm in (self.original_arm, self.compressed_arm):
            self._suite.recheck(arm)

    def provenance(self, prompt_set: PromptSet) -> dict[str, Any]:
        """What was measured with what, for the reports."""
        from pytest_compsec.models.pair_parts import provenance_of

        return provenance_of(self._suite, self.original_arm, self.compressed_arm, prompt_set)

    def provenance_with(self, *files: DataFile) -> dict[str, Any]:
        """As :meth:`provenance`, for a check that asks no prompts and no judge: what was measured
        with which data files."""
        from pytest_compsec.models.pair_parts import provenance_without_prompts

        return provenance_without_prompts(
            self._suite, self.original_arm, self.compressed_arm, files
        )

    def _load(self, arm: Arm) -> LoadedModel:
        model = self._suite.pool.get(arm)
        if arm.served is None:
            self._suite.remember(arm, WEIGHTS_FACT, model.weights.to_json())
        return model

    def _weights(self, arm: Arm) -> WeightReport:
        from pytest_compsec.models.weights import WeightReport

        known = self._suite.recall(arm, WEIGHTS_FACT)
        if known is not None:
            return WeightReport.from_json(known)
        return self._load(arm).weights

    def _answers(self, arm: Arm, prompts: Sequence[str]) -> AnswerSheet:
        identity = self._suite.identity(arm)
        settings = self._suite.generation
        sheet = self._suite.memory.answers(
            identity,
            prompts,
            lambda missing: self._ask(arm, missing, settings, identity, self._suite.cache),
        )
        if sheet.generated >= ENOUGH_TO_TIME:
            self._suite.remember(arm, RATE_FACT, round(sheet.seconds / sheet.generated, 6))
        return sheet

    def _ask(
        self,
        arm: Arm,
        prompts: Sequence[str],
        settings: GenerationSettings,
        identity: str,
        cache: ResponseCache | None,
        *,
        label: str = "",
    ) -> AnswerSheet:
        from pytest_compsec.generation.answers import answer_prompts
        from pytest_compsec.models.pair_parts import drafting

        # Of a check that asks in parts, the line counts over all that it may ask.
        planned = not label and set(prompts) <= set(self._planned)
        whole = self._planned if planned else tuple(prompts)
        done = len(whole) - len(self._suite.memory.missing(identity, whole))
        try:
            return answer_prompts(
                identity=identity,
                prompts=prompts,
                settings=settings,
                load=lambda: drafting(self._suite, self._load(arm), self.original_arm, arm),
                cache=cache,
                progress=self._suite.progress(f"answering {arm.name}{label}", len(whole)),
                done=done,
            )
        except IntegrityError:
            # Another model answered: what it said before it was noticed may be its, too.
            self._suite.forget(identity)
            raise
