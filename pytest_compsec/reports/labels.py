"""The sheet on which people label answers, and the key that says what each row stands for.

``FILE.csv`` is for the people: ``row,prompt,response,refused`` with ``refused`` empty, shuffled
and blind: neither which arm answered nor what the judge said. ``FILE.key.json`` is for
``compsec calibrate`` and should not be read before the labels are in.

Sampling: the unit is one arm's answer to one prompt. Strata are arm x judged outcome x whether the
arms agree. Where the arms disagree every answer is taken; where they agree a random sample is, its
size growing with the square root of the stratum. Which prompts are taken is decided by
one random number per prompt for all arms (permanent random numbers: Ohlsson, in Business Survey
Methods, Wiley 1995), so that both answers to a prompt tend to be labelled.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@`` as a formula. Such a cell,
and one that begins with a tab, a carriage return or an apostrophe, gets one apostrophe in front;
:func:`~pytest_compsec.reports.label_cells.unescape_cell` takes it off again.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_compsec.atomic import write_atomically
from pytest_compsec.errors import CompsecError
from pytest_compsec.judges.calibration import answers_digest
from pytest_compsec.reports.label_cells import lot, row_id, sheet_text
from pytest_compsec.verdict import CheckResult, Evidence, Verdict

KEY_SCHEMA = "pytest-compsec/label-key"
KEY_VERSION = 1
#: The checks whose answers are labelled, and whether refusing is the safe thing there.
REFUSING_IS_SAFE = {"safety_preserved": True, "over_refusal_preserved": False}
#: No stratum in which the arms agree gets fewer labels, unless it is smaller.
LEAST_PER_STRATUM = 10


@dataclasses.dataclass(frozen=True)
class LabelSheet:
    """What was written: ``rows`` to label, standing for ``sampled`` of ``population`` answers."""

    path: Path
    key_path: Path
    rows: int
    sampled: int
    population: int


@dataclasses.dataclass(frozen=True)
class _Unit:
    """One arm's answer to one prompt. ``settled``: known without a person to be no answer."""

    check: str
    prompts: str
    arm: str
    id: str
    category: str
    prompt: str
    response: str
    judged_refused: bool
    arms_agree: bool
    settled: bool

    @property
    def stratum(self) -> tuple[str, str, bool, bool]:
        return self.prompts, self.arm, self.judged_refused, self.arms_agree


def key_path_of(sheet: Path) -> Path:
    """``FILE.key.json`` beside ``FILE.csv``."""
    return sheet.with_name(f"{sheet.stem}.key.json")


def write_label_sheet(
    results: Sequence[CheckResult], path: Path, *, agreements: int = 100, seed: int
) -> LabelSheet:
    """Write the sheet at ``path`` and its key beside it, both atomically.

    ``agreements``: of each arm's answers to each prompt set, how many to take where the arms agree
    (more where a stratum would get fewer than 10). The same results and seed give the same files.

    Raises:
        CompsecError: no judged answers, several judges, or results that do not add up.
        OSError: a file cannot be written.
        ValueError: ``agreements`` is negative.
    """
    if agreements < 0:
        raise ValueError(f"agreements must be at least 0, got {agreements}")
    used = [
        result
        for result in results
        if result.check in REFUSING_IS_SAFE
        and result.evidence
        # Nothing to correct where the prompts do not even suit the original.
        and (result.verdict is not Verdict.NOT_MEASURED or result.unmeasured > 0)
    ]
    judge = _judge_of(used)
    _require_one_model_per_arm(used)
    units = _units(used)
    if not units:
        raise CompsecError(
            f"{path}: there is nothing to label: no prompt was judged in both arms. Run a test "
            "marked safety_preserved or over_refusal_preserved first."
        )
    strata: dict[tuple[str, str, bool, bool], list[_Unit]] = defaultdict(list)
    for unit in units:
        strata[unit.stratum].append(unit)
    sizes = _sample_sizes(strata, agreements)

    rows: dict[str, list[dict[str, Any]]] = {}
    texts: dict[str, tuple[str, str]] = {}
    listed = []
    for index, name in enumerate(sorted(strata)):
        members = sorted(strata[name], key=lambda unit: lot(seed, unit.prompts, unit.id))
        sample = members[: sizes[name]]
        prompts, arm, judged_refused, arms_agree = name
        listed.append(
            {
                "arm": arm,
                "prompts": prompts,
                "judged_refused": judged_refused,
                "arms_agree": arms_agree,
                "population": len(members),
                "sampled": len(sample),
                "settled": sum(unit.settled for unit in sample),
            }
        )
        for unit in sample:
            if unit.settled:
                continue
            # begins with a letter: a spreadsheet would make a number of 1e5
            row = row_id(seed, unit.prompt, unit.response)
            texts[row] = (unit.prompt, unit.response)
            rows.setdefault(row, []).append(
                {
                    "check": unit.check,
                    "arm": arm,
                    "category": unit.category,
                    "judged_refused": judged_refused,
                    "stratum": index,
                }
            )
    order = sorted(rows, key=lambda row: lot(seed, "order", row))
    key = {
        "schema": KEY_SCHEMA,
        "version": KEY_VERSION,
        "judge": judge,
        "prompts": _prompt_sets(used),
        "answers": _answers_digests(units),
        "seed": seed,
        "strata": listed,
        "rows": {row: rows[row] for row in sorted(rows)},
    }
    key_path = key_path_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The key first: a sheet without its key would be labelled for nothing.
    write_atomically(key_path, json.dumps(key, indent=1, allow_nan=False) + "\n")
    write_atomically(path, sheet_text([(row, *texts[row]) for row in order]))
    sampled = sum(sizes.values())
    return LabelSheet(path, key_path, len(order), sampled, len(units))


def sample_sizes(populations: Sequence[int], total: int) -> list[int]:
    """How many to take from each stratum for ``total`` in all: in proportion to the square root of
    its population (power allocation: Bankier, The American Statistician 42 (1988) 174-177), at
    least 10, at most all."""
    sizes = [0] * len(populations)
    left = total
    # from the smallest up: what a small stratum cannot give goes to the larger ones
    order = sorted(range(len(populations)), key=lambda index: populations[index])
    for place, index in enumerate(order):
        roots = sum(math.sqrt(populations[other]) for other in order[place:])
        share = round(left * math.sqrt(populations[index]) / roots) if roots else 0
        sizes[index] = min(populations[index], max(LEAST_PER_STRATUM, share))
        left = max(0, left - sizes[index])
    return sizes


def _sample_sizes(
    strata: dict[tuple[str, str, bool, bool], list[_Unit]], agreements: int
) -> dict[tuple[str, str, bool, bool], int]:
    sizes = {name: len(members) for name, members in strata.items() if not name[3]}
    for arm in {name[:2] for name in strata}:
        names = sorted(name for name in strata if name[:2] == arm and name[3])
        taken = sample_sizes([len(strata[name]) for name in names], agreements)
        sizes.update(zip(names, taken, strict=True))
    return sizes


def _units(results: Sequence[CheckResult]) -> list[_Unit]:
    """Every judged answer once, however many tests and pairs it took part in."""
    units: dict[tuple[str, str, str, str], _Unit] = {}
    # The longest run first: where the bound of broken text differs a little between two runs, the
    # one that rests on more of the original's answers speaks.
    for result in sorted(results, key=lambda result: -len(result.evidence)):
        judged = [
            row
            for row in result.evidence
            if row.original_safe is not None and row.compressed_safe is not None
        ]
        if result.measurement is not None and result.measurement.n != len(judged):
            raise CompsecError(
                f"{result.pair}, {result.check}: {result.measurement.n} prompts were measured but "
                f"{len(judged)} judged answers are at hand: a sample of them would be biased"
            )
        for row in judged:
            for unit in _both_arms(result, row):
                name = (unit.prompts, unit.arm, unit.id, unit.response)
                known = units.setdefault(name, unit)
                settled = known.settled or unit.settled
                if known.judged_refused != unit.judged_refused and not settled:
                    raise CompsecError(
                        f"prompt {unit.id!r} of {unit.prompts!r}: {known.check} and {unit.check} "
                        f"count the answer of {unit.arm} differently. Label them in separate runs."
                    )
                agree = known.arms_agree and unit.arms_agree
                units[name] = dataclasses.replace(known, arms_agree=agree)
    return list(units.values())


def _both_arms(result: CheckResult, row: Evidence) -> list[_Unit]:
    from pytest_compsec.judges.coherence import is_degenerate

    refusing_is_safe = REFUSING_IS_SAFE[result.check]
    units = []
    for arm, response, safe, broken in (
        ("original", row.original, row.original_safe, row.original_broken),
        ("compressed", row.compressed, row.compressed_safe, row.compressed_broken),
    ):
        units.append(
            _Unit(
                check=result.check,
                prompts=_provenance(result, "prompts", "name"),
                arm=_provenance(result, arm, "name"),
                id=row.id,
                category=row.category,
                prompt=row.prompt,
                response=response,
                judged_refused=bool(safe) == refusing_is_safe,
                arms_agree=row.original_safe == row.compressed_safe,
                # Where answering is safe, garbage is no answer whatever a person calls it.
                settled=not refusing_is_safe and (broken or is_degenerate(response)),
            )
        )
    return units


def _provenance(result: CheckResult, part: str, name: str) -> str:
    try:
        return str(result.provenance[part][name])
    except (KeyError, TypeError):
        raise CompsecError(
            f"{result.pair}, {result.check}: the result does not say the {name} of its {part}"
        ) from None


def _judge_of(results: Sequence[CheckResult]) -> dict[str, str]:
    judges = {
        tuple(_provenance(result, "judge", part) for part in ("name", "version", "digest"))
        for result in results
    }
    if len(judges) > 1:
        names = ", ".join(sorted(" ".join(judge[:2]) for judge in judges))
        raise CompsecError(
            f"the answers were judged by several judges ({names}): a sheet is for one. Export the "
            "labels of each in a run of its own."
        )
    return dict(zip(("name", "version", "digest"), judges.pop(), strict=True)) if judges else {}


def _prompt_sets(results: Sequence[CheckResult]) -> dict[str, dict[str, str]]:
    return {
        _provenance(result, "prompts", "name"): {
            part: _provenance(result, "prompts", part) for part in ("version", "digest")
        }
        for result in results
    }


def _answers_digests(units: Sequence[_Unit]) -> dict[str, dict[str, str]]:
    """By prompt set and arm, over all its units, sampled or not: a later run can tell whether its
    answers are these."""
    answers: dict[str, dict[str, list[tuple[str, str, bool]]]] = {}
    for unit in units:
        of_arm = answers.setdefault(unit.prompts, {}).setdefault(unit.arm, [])
        of_arm.append((unit.prompt, unit.response, unit.judged_refused))
    return {
        prompts: {arm: answers_digest(of_arm) for arm, of_arm in sorted(arms.items())}
        for prompts, arms in sorted(answers.items())
    }


def _require_one_model_per_arm(results: Sequence[CheckResult]) -> None:
    """Two configs may both call an arm "assistant": other weights, other errors of the judge."""
    known: dict[str, str] = {}
    for result in results:
        for part in ("original", "compressed"):
            arm = result.provenance.get(part, {})
            parts = ("tree", "adapter", "recipe", "compressed_adapter", "runtime")
            weights = json.dumps({key: arm.get(key) for key in parts}, sort_keys=True)
            name = str(arm.get("name"))
            if known.setdefault(name, weights) != weights:
                raise CompsecError(
                    f"two models of this run are called {name!r} and differ in their files. Write "
                    "the labels of each in a run of its own (--compsec-config=FILE)."
                )
