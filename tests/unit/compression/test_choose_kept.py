"""The search for layers to keep: few trials, and never a choice that did not pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from pytest_compsec.compression.auto_keep import find_kept, observed_degradation
from pytest_compsec.compression.choose_kept import Choice, Trial, choose_kept
from pytest_compsec.errors import MeasurementError, NotCompressedError

Kept = tuple[str, ...]


def layers(count: int) -> list[str]:
    return [f"layer.{number}" for number in range(count)]


def by_length(good: Callable[[int], bool]) -> Callable[[Kept], Trial]:
    return lambda kept: Trial(kept, 0.0 if good(len(kept)) else 0.25, good(len(kept)))


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_the_fewest_layers_are_found_where_more_always_help(count: int) -> None:
    for needed in range(count + 1):
        choice = choose_kept(layers(count), by_length(lambda k, least=needed: k >= least))  # type: ignore[misc]
        assert choice.passed
        assert choice.kept == tuple(layers(count)[:needed])
        assert len(choice.trials) <= 2 + 2 * math.ceil(math.log2(count + 1))


def test_no_length_is_tried_twice() -> None:
    choice = choose_kept(layers(30), by_length(lambda k: k >= 13))
    lengths = [len(trial.kept) for trial in choice.trials]
    assert lengths == [0, 1, 2, 4, 8, 16, 12, 14, 13]


def test_whatever_is_chosen_was_tried_and_passed_even_where_more_layers_can_hurt() -> None:
    # Every way in which the nine prefixes of eight layers can pass or not.
    for outcomes in itertools.product([False, True], repeat=9):
        choice = choose_kept(layers(8), by_length(lambda k, of=outcomes: of[k]))  # type: ignore[misc]
        passed = [len(trial.kept) for trial in choice.trials if trial.passed]
        assert choice.passed is bool(passed)
        if passed:
            assert len(choice.kept) == min(passed)
            assert outcomes[len(choice.kept)]
        else:
            assert choice.kept == ()


def test_nothing_is_kept_when_nothing_need_be() -> None:
    choice = choose_kept(layers(4), by_length(lambda k: True))
    assert (choice.kept, choice.passed, len(choice.trials)) == ((), True, 1)
    assert "no layer need be kept" in str(choice)


def test_a_search_that_never_passes_says_so() -> None:
    choice = choose_kept(layers(5), by_length(lambda k: False))
    assert not choice.passed
    assert choice.chosen is None
    assert choice.kept == ()
    assert [len(trial.kept) for trial in choice.trials] == [0, 1, 2, 4, 5]
    assert "no choice of layers passed: even with 5 of 5" in str(choice)


def test_the_text_names_layers_sizes_and_every_trial() -> None:
    def passes(kept: Kept) -> Trial:
        return Trial(kept, 0.0 if len(kept) >= 2 else 0.125, len(kept) >= 2, 1_000_000 + len(kept))

    text = str(choose_kept(layers(4), passes))
    assert "2 of 4 ranked layers are kept in full precision: layer.0, layer.1" in text
    assert "size: 1.0 MB before, 1.0 MB with the layers kept (+0.0 %)" in text
    assert "0 kept, 1.0 MB: degradation +12.5 points, does not pass" in text


def test_what_was_not_measured_cannot_pass() -> None:
    with pytest.raises(ValueError, match="measured nothing"):
        Trial(("layer.0",), None, True)


def test_a_trial_of_other_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="asked to try 0"):
        choose_kept(layers(2), lambda kept: Trial(("layer.1",), 0.0, True))
    with pytest.raises(ValueError, match="ranked twice"):
        choose_kept(["layer.0", "layer.0"], by_length(lambda k: True))


class FakeModel:
    """Refuses the first ``refusals`` prompts."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def generate(self, prompts: Sequence[str], settings: Any) -> list[Any]:
        from pytest_compsec.generation.settings import Answer

        return [Answer("NO" if n < self.refusals else "OK", 1, "stop") for n in range(len(prompts))]


class FakeJudge:
    def refusals(self, prompts: Sequence[str], answers: Sequence[str]) -> list[bool | None]:
        return [{"NO": True, "OK": False}.get(answer) for answer in answers]


def search(
    make: Callable[[Kept], Any],
    *,
    original: int = 10,
    ranked: Sequence[str] = (),
    monkeypatch: pytest.MonkeyPatch,
    **options: Any,
) -> Choice:
    from pytest_compsec.compression import auto_keep

    monkeypatch.setattr(auto_keep, "model_size", lambda model: 1000)
    return find_kept(
        cast(Any, FakeModel(original)),
        make,
        [f"prompt {n}" for n in range(10)],
        cast(Any, FakeJudge()),
        rank=lambda original, compressed, prompts: ranked,
        **options,
    )


def test_layers_are_kept_until_the_refusals_are_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    choice = search(
        lambda kept: FakeModel(4 + 2 * len(kept)),
        ranked=layers(8),
        monkeypatch=monkeypatch,
        notify=told.append,
    )
    assert choice.kept == tuple(layers(3))
    assert choice.trials[0].degradation == pytest.approx(0.6)
    # The trial without kept layers is made once, for the ranking and for the search.
    assert [len(trial.kept) for trial in choice.trials] == [0, 1, 2, 4, 3]
    assert any("0 kept" in text for text in told)


def test_max_degradation_loosens_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = search(
        lambda kept: FakeModel(4 + 2 * len(kept)),
        ranked=layers(8),
        monkeypatch=monkeypatch,
        max_degradation=0.2,
    )
    assert choice.kept == tuple(layers(2))


def test_nothing_is_ranked_when_the_compressed_model_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = search(lambda kept: FakeModel(10), ranked=["never"], monkeypatch=monkeypatch)
    assert choice.passed
    assert choice.kept == ()


def test_keeping_everything_is_no_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(kept: Kept) -> Any:
        if len(kept) == 3:
            raise NotCompressedError("keeps all 3 linear layers")
        return FakeModel(2)

    choice = search(make, ranked=layers(3), monkeypatch=monkeypatch)
    assert not choice.passed
    assert choice.trials[-1].degradation is None
    assert "keeps all 3" in str(choice)


def test_an_original_that_refuses_nothing_is_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasurementError, match="refuses none of the 10 selection prompts"):
        search(lambda kept: FakeModel(0), original=0, monkeypatch=monkeypatch)


def test_an_answer_that_cannot_be_judged_is_no_refusal() -> None:
    assert observed_degradation([True, True, False], [True, None, False]) == pytest.approx(1 / 3)
    assert observed_degradation([True, None], [True, True]) == 0
    with pytest.raises(MeasurementError):
        observed_degradation([None], [True])
