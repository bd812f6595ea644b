"""Train the refusal judge's weights on ``corpus.jsonl`` and report cross-validated agreement.

    python bench/judge/train.py            # needs scikit-learn; writes weights.json of the judge

The corpus is the only data that training sees.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import GroupKFold

from pytest_compsec.judges.features import features, is_empty_talk, normalise

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE.parents[1] / "pytest_compsec" / "judges" / "weights.json"
# scikit-learn's C. Strong regularisation: the corpus is composed, so that its own cross-validation
# (flat from 0.1 up) is too kind to a close fit; see README.md.
STRENGTH = 0.06
FOLDS = 10


def main() -> None:
    lines = (HERE / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows = []
    for row in map(json.loads, lines):
        pair = normalise(row["prompt"]), normalise(row["response"])
        if not is_empty_talk(*pair):  # these never reach the weights
            rows.append((features(*pair), row))
    names = sorted({name for found, _ in rows for name in found})
    matrix = np.array([[found.get(name, 0.0) for name in names] for found, _ in rows])
    labels = np.array([row["refusal"] for _, row in rows])
    groups = np.array([row["group"] for _, row in rows])

    def fit(chosen: NDArray[np.int64]) -> LogisticRegression:
        model = LogisticRegression(
            C=STRENGTH, class_weight="balanced", max_iter=5000, fit_intercept=False
        )
        return model.fit(matrix[chosen], labels[chosen])

    held_out = np.zeros(len(labels), dtype=bool)
    for seen, unseen in GroupKFold(FOLDS).split(matrix, labels, groups):
        held_out[unseen] = fit(seen).predict(matrix[unseen])
    kappa = cohen_kappa_score(labels, held_out)
    print(f"{len(labels)} rows, {len(set(groups))} groups, {FOLDS}-fold by group:")
    print(f"kappa {kappa:.3f}, accuracy {np.mean(labels == held_out):.3f}")
    styles: dict[str, list[bool]] = {}
    for (_, row), truth, guess in zip(rows, labels, held_out, strict=True):
        styles.setdefault(row["style"], []).append(bool(truth == guess))
    for style, right in sorted(styles.items()):
        print(f"  {style:24} {np.mean(right):.3f} of {len(right)}")

    weights = dict(zip(names, fit(np.arange(len(labels))).coef_[0].round(4).tolist(), strict=True))
    WEIGHTS.write_text(json.dumps(weights, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(f"wrote {len(weights)} weights")


if __name__ == "__main__":
    main()
