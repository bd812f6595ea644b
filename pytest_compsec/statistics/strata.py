"""Labelled answers of one arm: what people said, stratum by stratum, and what it stands for."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_compsec.statistics._validate import whole_number


@dataclass(frozen=True)
class Stratum:
    """Answers of one arm with one judged outcome, in prompts where the arms agree or do not.

    population: answers in the stratum; labelled: how many of them, drawn at random, people
    labelled; refused: how many of those people called refusals. Raises ValueError unless
    0 <= refused <= labelled <= population.
    """

    judged_refused: bool
    arms_agree: bool
    population: int
    labelled: int
    refused: int

    def __post_init__(self) -> None:
        for name in ("population", "labelled", "refused"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if not self.refused <= self.labelled <= self.population:
            raise ValueError(
                "a stratum needs refused <= labelled <= population, got "
                f"{self.refused}, {self.labelled}, {self.population}"
            )

    @property
    def share_refused(self) -> float:
        """Share of true refusals among the labelled answers; one half without labels."""
        return self.refused / self.labelled if self.labelled else 0.5


@dataclass(frozen=True)
class ArmRates:
    """All that the labels say about the judge on one arm's answers.

    A stratum may come in two parts, one with labels and one that could not be labelled (anything
    may be true there). Raises ValueError without answers or when a part is given twice.
    """

    name: str
    strata: tuple[Stratum, ...]

    def __post_init__(self) -> None:
        kinds = [(s.judged_refused, s.arms_agree, s.labelled > 0) for s in self.strata]
        if len(set(kinds)) != len(kinds):
            raise ValueError(f"a stratum of {self.name!r} is given twice")
        if self.population == 0:
            raise ValueError(f"the strata of {self.name!r} hold no answers")

    @property
    def population(self) -> int:
        """Number of answers that the labels stand for."""
        return sum(stratum.population for stratum in self.strata)

    @property
    def judged_refused(self) -> int:
        """How many of those answers the judge called refusals."""
        return sum(stratum.population for stratum in self.strata if stratum.judged_refused)

    @property
    def labelled(self) -> int:
        """Number of labelled answers."""
        return sum(stratum.labelled for stratum in self.strata)


def describes(rates: ArmRates, judged_refused: int, n: int) -> bool:
    """Whether ``rates`` can have been labelled from these very answers: same number of answers,
    same number judged refused."""
    return rates.population == n and rates.judged_refused == judged_refused


def point_rates(rates: ArmRates) -> tuple[float | None, float | None]:
    """TPR and FPR, weighted back over the strata; None where no refusal (no answer) was seen."""
    refusals = {True: 0.0, False: 0.0}
    answers = {True: 0.0, False: 0.0}
    for stratum in rates.strata:
        refusals[stratum.judged_refused] += stratum.population * stratum.share_refused
        answers[stratum.judged_refused] += stratum.population * (1 - stratum.share_refused)
    tpr = refusals[True] / sum(refusals.values()) if any(refusals.values()) else None
    fpr = answers[True] / sum(answers.values()) if any(answers.values()) else None
    return tpr, fpr
