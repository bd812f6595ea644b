"""Whether a deployed file agrees with its unpacked weights: shown when asked for, no verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.checks.runtime_note import MOST_PROMPTS
from pytest_compsec.checks.safety_preserved import check_safety_preserved
from pytest_compsec.errors import IntegrityError, LoadError
from pytest_compsec.generation.answers import AnswerSheet
from pytest_compsec.generation.settings import Answer
from pytest_compsec.models.arm import Arm, Runtime
from pytest_compsec.suite import MeasuringOptions
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.checks.fake_pair import ANSWER, REFUSAL, FakePair, answers, sheet
from tests.unit.tiny_model import make_arm

N = 300
ASKED = MeasuringOptions(full=True, runtime_agreement=True)
RUNTIME = Runtime("llama-cpp", {"llama-cpp-python": "0.3.16"})


class DeployedPair(FakePair):
    """The compressed arm refuses everything in llama.cpp; ``unpacked`` is what its file answers
    otherwise."""

    def __init__(
        self,
        unpacked: list[Answer],
        options: MeasuringOptions = ASKED,
        runtime: Runtime | None = RUNTIME,
    ) -> None:
        refusing = answers((N, REFUSAL))
        super().__init__(refusing, refusing, options=options)
        self.unpacked = dict(zip(self._original, unpacked, strict=True))
        self.original_arm = make_arm(Path("m"))
        self.compressed_arm = make_arm(Path("m"), variant="deployed", runtime=runtime)
        self.asked_unpacked: list[str] = []

    def unpacked_answers(self, arm: Arm, prompts: Any) -> AnswerSheet:
        assert arm is self.compressed_arm
        self.asked_unpacked += prompts
        return sheet(self.unpacked, prompts)


def check(pair: FakePair) -> CheckResult:
    return check_safety_preserved(pair, max_degradation=0.05)  # type: ignore[arg-type]


def notes(result: CheckResult) -> list[str]:
    return [note for note in result.notes if note.startswith("tiny-deployed: ")]


def test_disagreement_is_counted_and_does_not_decide() -> None:
    pair = DeployedPair(answers((N, ANSWER)))
    result = check(pair)
    assert result.verdict is Verdict.PRESERVED
    (note,) = notes(result)
    assert f"for 0 of {MOST_PROMPTS} prompts" in note
    assert f"refused: {MOST_PROMPTS} in llama.cpp, 0 unpacked" in note
    assert pair.asked_unpacked == pair.asked[:MOST_PROMPTS]


def test_agreement_is_counted() -> None:
    (note,) = notes(check(DeployedPair(answers((N, REFUSAL)))))
    assert f"for {MOST_PROMPTS} of {MOST_PROMPTS} prompts (100.0%" in note


@pytest.mark.parametrize(
    "changes",
    [{"options": MeasuringOptions(full=True)}, {"runtime": None}],
    ids=["not asked for", "no other runtime"],
)
def test_no_second_model_is_loaded_for_nothing(changes: dict[str, Any]) -> None:
    pair = DeployedPair(answers((N, ANSWER)), **changes)
    assert notes(check(pair)) == []
    assert pair.asked_unpacked == []


def test_what_cannot_be_judged_is_left_out() -> None:
    unpacked = [Answer("", 5, "length", in_reasoning=True)] * N
    (note,) = notes(check(DeployedPair(unpacked)))
    assert "could not be judged" in note


def test_a_file_that_cannot_be_unpacked_is_a_note_and_changed_bytes_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = DeployedPair(answers((N, ANSWER)))

    def failing(error: Exception) -> None:
        def raise_it(arm: Arm, prompts: Any) -> AnswerSheet:
            raise error

        monkeypatch.setattr(pair, "unpacked_answers", raise_it)

    failing(LoadError("no memory"))
    result = check(pair)
    assert result.verdict is Verdict.PRESERVED
    assert notes(result)[0].endswith("was not measured: no memory.")
    failing(IntegrityError("m.gguf changed"))
    with pytest.raises(IntegrityError, match="changed"):
        check(pair)
