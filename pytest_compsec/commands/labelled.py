"""A labelled sheet and its key, read strictly: what people said, and what each row stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_compsec.errors import ConfigError
from pytest_compsec.judges.calibration import CalibratedJudge
from pytest_compsec.judges.json_object import JsonObject, read_text
from pytest_compsec.prompts.tables import Row, input_error, parse_rows
from pytest_compsec.reports.label_cells import row_id, unescape_cell
from pytest_compsec.reports.labels import KEY_SCHEMA, KEY_VERSION

_REFUSED = frozenset({"yes", "1", "true", "refused"})
_ANSWERED = frozenset({"no", "0", "false", "answered"})
_ACCEPTED = "yes/1/true/refused or no/0/false/answered"


@dataclass(frozen=True)
class KeyStratum:
    arm: str
    prompts: str
    judged_refused: bool
    arms_agree: bool
    population: int
    sampled: int
    settled: int

    def __str__(self) -> str:
        judged = "judged refused" if self.judged_refused else "judged answered"
        agree = "agree" if self.arms_agree else "disagree"
        return f"{self.arm} on {self.prompts}, {judged}, arms {agree}"


@dataclass(frozen=True)
class Key:
    """``rows``: for each row of the sheet, the index of the stratum of each answer it stands
    for. ``answers[prompts, arm]``: the digest of all answers that were sampled from."""

    judge: CalibratedJudge
    strata: tuple[KeyStratum, ...]
    rows: Mapping[str, tuple[int, ...]]
    answers: Mapping[tuple[str, str], str]
    seed: int


@dataclass(frozen=True)
class Labels:
    """``refused`` by row id; ``empty``: rows of the key without a label, with their line (None
    where the row is gone)."""

    refused: Mapping[str, bool]
    empty: Mapping[str, int | None]


def read_key(path: Path) -> Key:
    """The key at ``path``. Raises ConfigError."""
    remedy = "The key is written with the sheet by --compsec-export-labels: restore it"
    if not path.exists():
        raise ConfigError(f"{path}: no such file. {remedy}, or name it with --key.")
    top = JsonObject.parse(read_text(path), str(path), KEY_SCHEMA, KEY_VERSION, remedy)
    top.allow("schema", "version", "judge", "prompts", "answers", "seed", "strata", "rows")
    judge = top.object("judge")
    strata = tuple(_key_stratum(item) for item in top.objects("strata"))
    table = top.object("rows")
    rows = {}
    sampled = [stratum.settled for stratum in strata]
    for row in table.values:
        places = tuple(item.get("stratum", int) for item in table.objects(row))
        for place in places:
            if not 0 <= place < len(strata):
                raise table.error(f"row {row!r} names a stratum that is not there")
            sampled[place] += 1
        rows[row] = places
    if sampled != [stratum.sampled for stratum in strata]:
        raise table.error("the rows do not add up to what the strata say was sampled")
    digests = top.object("answers")
    answers = {
        (stratum.prompts, stratum.arm): digests.object(stratum.prompts).sha256(stratum.arm)
        for stratum in strata
    }
    return Key(
        CalibratedJudge(judge.get("name", str), judge.get("version", str), judge.sha256("digest")),
        strata,
        rows,
        answers,
        top.get("seed", int),
    )


def _key_stratum(item: JsonObject) -> KeyStratum:
    stratum = KeyStratum(
        arm=item.get("arm", str),
        prompts=item.get("prompts", str),
        judged_refused=item.get("judged_refused", bool),
        arms_agree=item.get("arms_agree", bool),
        population=item.get("population", int),
        sampled=item.get("sampled", int),
        settled=item.get("settled", int),
    )
    if not 0 <= stratum.settled <= stratum.sampled <= stratum.population:
        raise item.error("needs settled <= sampled <= population")
    return stratum


def read_labels(sheet: Path, key: Key) -> Labels:
    """The labels in the CSV file ``sheet``; other columns than ``row`` and ``refused`` are not
    read. Raises ConfigError: a row that is not in the key, a label that is none, two labels."""
    label = str(sheet)
    refused: dict[str, bool] = {}
    seen: dict[str, int] = {}
    for row in _records(sheet, label) if key.rows else ():
        name = str(row.values["row"]).strip()
        text = str(row.values["refused"]).strip().lower()
        if name not in key.rows:
            raise input_error(
                label, row.line, f"the row {name!r} is not in the key: another sheet's, or edited?"
            )
        if not _is_as_written(row, name, key.seed):
            raise input_error(
                label,
                row.line,
                f"prompt and response of the row {name!r} are not those that were written: were "
                "columns sorted apart, or texts edited? Start again from the sheet as exported",
            )
        if text and text not in _REFUSED | _ANSWERED:
            raise input_error(label, row.line, f"the label {text!r} is none of {_ACCEPTED}")
        if text and name in refused:
            raise input_error(
                label, row.line, f"the row {name!r} has a label already, at line {seen[name]}"
            )
        if text or name not in seen:
            seen[name] = row.line
        if text:
            refused[name] = text in _REFUSED
    return Labels(refused, {name: seen.get(name) for name in key.rows if name not in refused})


def _is_as_written(row: Row, name: str, seed: int) -> bool:
    """Whether the texts belong to the row; a sheet without those columns cannot tell."""
    prompt, response = row.values.get("prompt"), row.values.get("response")
    if prompt is None or response is None:
        return True
    return row_id(seed, unescape_cell(str(prompt)), unescape_cell(str(response))) == name


def _records(sheet: Path, label: str) -> list[Row]:
    if sheet.suffix.lower() != ".csv":
        raise ConfigError(f"{label}: must be the labelled .csv sheet")
    text = read_text(sheet)
    header = text.partition("\n")[0]
    if "," not in header and ";" in header:
        raise input_error(label, 1, "columns are separated by ';'. Save it with commas.")
    if not text.partition("\n")[2].strip():
        raise input_error(label, 1, "the sheet holds no rows")
    rows = parse_rows(text.encode("utf-8"), suffix=".csv", label=label)
    for name in ("row", "refused"):
        if name not in rows[0].values:
            raise input_error(label, 1, f"the column {name!r} is missing from the header")
    return rows
