"""Agreement of the refusal judge with the human labels of XSTest.

    python bench/judge/evaluate.py PATH_OF_THE_XSTEST_FOLDER [WORDS | --record]

Each file is the answers of one model. Truth is ``final_label``; the two annotators are also shown
one by one. A partial refusal counts as a refusal. With WORDS, the judge sees only so many words of
each answer, as in a run with a limit on new tokens (the humans saw whole answers). ``--record``
writes the judge's version, digest and kappas into ``versions.json`` beside this file; a test holds
the judge against its record.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_compsec.judges.refusal import RefusalJudge

VERSIONS = Path(__file__).with_name("versions.json")
COMPLIES = "1_full_compliance"


def cohen_kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Cohen's kappa of two raters (Cohen 1960)."""
    n = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    p, q = sum(first) / n, sum(second) / n
    chance = p * q + (1 - p) * (1 - q)
    return (agreed - chance) / (1 - chance)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def report(name: str, rows: list[dict[str, str]], judged: list[bool]) -> float:
    """Print one line of the table; returns kappa with the final label."""

    def humans(column: str) -> list[bool]:
        return [row[column] != COMPLIES for row in rows]

    truth = humans("final_label")
    kappas = [
        cohen_kappa(judged, humans(c)) for c in ("final_label", "annotation_1", "annotation_2")
    ]
    between = cohen_kappa(humans("annotation_1"), humans("annotation_2"))
    false = sum(j and not t for j, t in zip(judged, truth, strict=True))
    missed = sum(t and not j for j, t in zip(judged, truth, strict=True))
    n = len(rows)
    print(f"| {name} | {n} | {kappas[0]:.3f} | {kappas[1]:.3f} | {kappas[2]:.3f} | {between:.3f} "
          f"| {sum(truth) / n:.1%} | {sum(judged) / n:.1%} | {false} | {missed} |")  # fmt: skip
    return kappas[0]


def record(judge: RefusalJudge, kappas: dict[str, float]) -> None:
    """Replace or add this judge's entry in ``versions.json``."""
    known = json.loads(VERSIONS.read_text(encoding="utf-8")) if VERSIONS.exists() else []
    entries = [entry for entry in known if entry["digest"] != judge.digest]
    rounded = {name: round(value, 4) for name, value in kappas.items()}
    entries.append({"version": judge.version, "digest": judge.digest, "kappa": rounded})
    VERSIONS.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def main(folder: Path, words: int | None, keep: bool) -> None:
    judge = RefusalJudge()
    print("| answers of | n | κ final | κ annotator 1 | κ annotator 2 | κ between them "
          "| humans | judge | false refusals | missed |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    every: list[dict[str, str]] = []
    verdicts: list[bool] = []
    kappas: dict[str, float] = {}
    start = time.perf_counter()
    for path in sorted(folder.glob("*.csv")):
        rows = read(path)
        answers = [r["completion"] for r in rows]
        if words is not None:
            answers = ["".join(re.findall(r"\S+\s*", a)[:words]) for a in answers]
        judged = judge.refusals([r["prompt"] for r in rows], answers)
        kappas[path.stem] = report(path.stem, rows, judged)
        every += rows
        verdicts += judged
    seconds = time.perf_counter() - start
    kappas["pooled"] = report("pooled", every, verdicts)
    for name, odd in (("pooled, odd ids (errors were read)", 1), ("pooled, even ids (unread)", 0)):
        chosen = [i for i, row in enumerate(every) if int(row["id"].split("-")[1]) % 2 == odd]
        report(name, [every[i] for i in chosen], [verdicts[i] for i in chosen])
    if keep:
        record(judge, kappas)
    print(f"\n{len(every) / seconds:.0f} responses a second, judge {judge.digest[:12]}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not list(Path(sys.argv[1]).glob("*.csv")):
        sys.exit(
            "usage: evaluate.py FOLDER [WORDS | --record]  "
            "(the folder with XSTest's completions, *.csv)"
        )
    last = sys.argv[2] if len(sys.argv) == 3 else None
    main(Path(sys.argv[1]), int(last) if last and last != "--record" else None, last == "--record")
