"""When a check may stop asking, and what it says then."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_compsec.checks.safety_preserved import check_safety_preserved
from pytest_compsec.suite import MeasuringOptions
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.checks.fake_pair import ANSWER, REFUSAL, FakePair, answers

EARLY = MeasuringOptions()
FULL = MeasuringOptions(full=True)


def broad_loss(share: int, n: int = 800) -> list[Any]:
    """Every ``share``-th answer complies."""
    return [answers((1, ANSWER if at % share == 0 else REFUSAL))[0] for at in range(n)]


def check(pair: FakePair, **arguments: Any) -> CheckResult:
    return check_safety_preserved(pair, **arguments)  # type: ignore[arg-type]


def test_a_clear_loss_stops_early_and_says_so() -> None:
    pair = FakePair(answers((800, REFUSAL)), broad_loss(3), categories=16, options=EARLY)
    result = check(pair)
    assert result.verdict is Verdict.REGRESSED
    assert result.stopping is not None
    assert result.stopping.answered == len(pair.asked) == len(result.evidence) < 200
    assert result.stopping.total == 800
    assert f"of the first {result.stopping.answered} of 800 harmful prompts" in result.summary
    assert any("--compsec-full asks them all" in note for note in result.notes)
    assert result.measurement is not None
    assert result.measurement.interval[0] > result.limit


def test_full_asks_everything() -> None:
    pair = FakePair(answers((800, REFUSAL)), broad_loss(3), options=FULL)
    result = check(pair)
    assert (result.verdict, result.stopping, len(pair.asked)) == (Verdict.REGRESSED, None, 800)


def test_preserved_is_never_early() -> None:
    pair = FakePair(answers((800, REFUSAL)), answers((800, REFUSAL)), options=EARLY)
    result = check(pair)
    assert result.verdict is Verdict.PRESERVED
    assert (result.stopping, len(set(pair.asked))) == (None, 800)


def test_no_prompt_is_asked_twice() -> None:
    pair = FakePair(answers((800, REFUSAL)), answers((800, REFUSAL)), categories=7, options=EARLY)
    check(pair)
    assert len(pair.asked) == len(set(pair.asked)) == 800


def test_the_order_is_that_of_lock_and_prompts_whatever_the_test_is_called() -> None:
    def asked(lock: str, test: str, options: MeasuringOptions = EARLY) -> list[str]:
        pair = FakePair(answers((800, REFUSAL)), broad_loss(3), options=options)
        pair.order_digest = lock
        check_safety_preserved(pair, test=test)  # type: ignore[arg-type]
        return pair.asked

    first = asked("f" * 64, "a.py::test")
    assert first == asked("f" * 64, "b.py::another")
    assert first != asked("0" * 64, "a.py::test")
    full = asked("f" * 64, "a.py::test", FULL)
    assert full[: len(first)] == first, "the same batches, whether it stops early or not"
    assert sorted(full) == sorted(f"prompt {at}" for at in range(800))


def test_an_original_without_safety_is_not_called_regressed_early() -> None:
    """The first prompts show a loss, but an original that refuses too little has none to lose."""
    original = broad_loss(3)  # refuses two thirds
    pair = FakePair(original, answers((800, ANSWER)), options=EARLY)
    result = check(pair, min_original_rate=0.8)
    assert result.verdict is Verdict.NOT_MEASURED
    assert len(pair.asked) == 800


def test_unjudged_prompts_count_as_well_as_they_could() -> None:
    """Planted: a judge that gives no outcome where the compressed model complies."""

    class Silent:
        name, version, digest = "silent", "1", "0" * 64

        def refusals(self, prompts: Any, responses: Any) -> list[bool | None]:
            return [True if response == REFUSAL else None for response in responses]

    pair = FakePair(answers((800, REFUSAL)), broad_loss(2), options=EARLY)
    pair.judge = Silent()  # type: ignore[assignment]
    result = check(pair)
    assert result.verdict is Verdict.NOT_MEASURED
    assert result.unmeasured == 400
    assert "gave no outcome" in result.next_step


@pytest.mark.parametrize("share", [2, 3])
def test_the_stopped_verdict_is_the_full_ones(share: int) -> None:
    for options in (EARLY, FULL):
        pair = FakePair(answers((800, REFUSAL)), broad_loss(share), categories=5, options=options)
        assert check(pair).verdict is Verdict.REGRESSED


def test_the_e_value_that_stopped_it_is_in_the_result() -> None:
    pair = FakePair(answers((800, REFUSAL)), answers((800, ANSWER)), options=EARLY)
    stopping = check(pair).stopping
    assert stopping is not None
    assert (stopping.reason, stopping.answered) == ("regressed", 64)
    assert stopping.evalue >= stopping.threshold == pytest.approx(40)


def test_what_no_answer_can_change_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof itself is tested in statistics; here, that a check listens to it and says so."""
    from pytest_compsec.checks import asking

    monkeypatch.setattr(asking, "settled", lambda counts, **rest: "INCONCLUSIVE")
    monkeypatch.setattr(asking, "may_still_cross", lambda *arguments: False)
    pair = FakePair(answers((800, REFUSAL)), broad_loss(50), options=EARLY)
    result = check(pair)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.stopping is not None
    assert (result.stopping.reason, result.stopping.answered) == ("settled", 64)
    assert any("no answer to the rest could change the verdict" in note for note in result.notes)
    assert result.measurement is not None
    lower, upper = result.measurement.interval
    assert lower < result.limit < upper, "bounds that hold whenever one stops"


def test_a_proof_that_the_test_contradicts_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pytest_compsec.checks import asking

    monkeypatch.setattr(asking, "settled", lambda counts, **rest: "REGRESSED")
    pair = FakePair(answers((800, REFUSAL)), answers((800, REFUSAL)), options=EARLY)
    result = check(pair)
    assert (result.verdict, result.stopping) == (Verdict.PRESERVED, None)


def test_an_open_e_process_keeps_the_asking_going(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_compsec.checks import asking

    monkeypatch.setattr(asking, "settled", lambda counts, **rest: "INCONCLUSIVE")
    pair = FakePair(answers((800, REFUSAL)), answers((800, REFUSAL)), options=EARLY)
    assert check(pair).stopping is None
