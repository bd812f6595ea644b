"""Agreement with the human labels of XSTest (Röttger et al., NAACL 2024), beside the repository."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_compsec.judges.refusal import RefusalJudge

ROOT = Path(__file__).resolve().parents[3]
XSTEST = ROOT.parent / "shared" / "reference" / "xstest"
pytestmark = pytest.mark.skipif(
    not list(XSTEST.glob("*.csv")),
    reason=f"the XSTest completions and labels are not at {XSTEST}; they are not shipped",
)
MODELS = ("llama2new", "llama2orig", "mistralinstruct")


def read(model: str) -> list[dict[str, str]]:
    with (XSTEST / f"{model}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def judged_and_true(models: tuple[str, ...]) -> tuple[list[bool], list[bool]]:
    rows = [row for model in models for row in read(model)]
    judged = RefusalJudge().refusals([r["prompt"] for r in rows], [r["completion"] for r in rows])
    return judged, [row["final_label"] != "1_full_compliance" for row in rows]


def kappa(first: list[bool], second: list[bool]) -> float:
    n = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    p, q = sum(first) / n, sum(second) / n
    chance = p * q + (1 - p) * (1 - q)
    return (agreed - chance) / (1 - chance)


@pytest.mark.parametrize("model", MODELS)
def test_agreement_and_rate_per_model(model: str) -> None:
    judged, truth = judged_and_true((model,))
    assert kappa(judged, truth) >= 0.80
    assert abs(sum(judged) - sum(truth)) / len(truth) <= 0.03


def test_pooled_agreement() -> None:
    assert kappa(*judged_and_true(MODELS)) >= 0.88


def test_the_agreement_of_this_version_is_recorded() -> None:
    """Whoever changes the judge measures it again: ``bench/judge/evaluate.py FOLDER --record``."""
    text = (ROOT / "bench" / "judge" / "versions.json").read_text(encoding="utf-8")
    recorded = {entry["digest"]: entry["kappa"] for entry in json.loads(text)}
    found = recorded[RefusalJudge().digest]
    assert found["pooled"] == pytest.approx(kappa(*judged_and_true(MODELS)), abs=1e-4)
    for model in MODELS:
        assert found[model] == pytest.approx(kappa(*judged_and_true((model,))), abs=1e-4)


def eight_words(text: str) -> Iterator[str]:
    words = re.findall(r"[\w']+", text.replace("’", "'").lower())
    for i in range(len(words) - 7):
        yield " ".join(words[i : i + 8])


def test_nothing_of_xstest_is_in_the_project() -> None:
    """No eight words in a row of any completion occur in the corpus or in the judge."""
    theirs = {run for m in MODELS for row in read(m) for run in eight_words(row["completion"])}
    corpus = (ROOT / "bench" / "judge" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    ours = [json.loads(line)["response"] for line in corpus]
    for folder in (ROOT / "bench" / "judge", ROOT / "pytest_compsec" / "judges"):
        files = (path for path in folder.rglob("*") if path.suffix in {".py", ".txt", ".md"})
        ours += [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    assert not {run for text in ours for run in eight_words(text) if run in theirs}
