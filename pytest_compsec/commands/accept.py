"""``compsec accept``: make a run of the history the baseline that ``no_drift`` compares with."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_compsec.errors import CompsecError, ConfigError

if TYPE_CHECKING:
    from pytest_compsec.checks.drift.baseline import Baseline
    from pytest_compsec.checks.drift.outcomes import Outcomes
    from pytest_compsec.reports.history_reading import History, Line

_SHOWN = 5
_FIRST = "run `pytest --compsec-history` with tests that are marked safety_preserved"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``compsec accept``, without ``--config``."""
    parser.add_argument(
        "run", metavar="RUN", nargs="?", help="a run, or how its name begins (default: the last)"
    )
    parser.add_argument(
        "--history",
        metavar="FILE",
        help="default: compsec-history.jsonl beside compsec.yaml",
    )
    parser.add_argument("--list", action="store_true", help="show the runs and accept none")


def run_accept(arguments: argparse.Namespace) -> int:
    """Write the baseline, note it in the history, print what changed. Exit code 0.

    Raises IntegrityError for a history that was changed, ConfigError for a run that is not there,
    did not finish (unless it is named), or holds no outcomes, CompsecError where nothing can be
    written.
    """
    from pytest_compsec.reports.history_reading import FILE_NAME, read_history

    config = Path(arguments.config)
    path = Path(arguments.history) if arguments.history else config.with_name(FILE_NAME)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no history. First {_FIRST}")
    if arguments.list:
        for line in _list(read_history(path), config):
            print(line)
        return 0
    for text in _accept(path, config, arguments.run):
        print(text, flush=True)
    return 0


def _list(history: History, config: Path) -> Iterator[str]:
    accepted = history.accepted(config)
    for line in history.runs(config):
        record = line.record
        verdicts = record.get("verdicts") or {}
        counts = ", ".join(f"{count} {name}" for name, count in verdicts.items() if count)
        state = "" if record.get("finished") else "  did not finish"
        mark = "  <- accepted" if line.run == accepted else ""
        yield f"{line.run}  {record.get('created', '')}  {counts or 'no result'}{state}{mark}"


def _accept(path: Path, config: Path, wanted: str | None) -> Iterator[str]:
    from pytest_compsec import __version__
    from pytest_compsec.checks.drift.baseline import Baseline, baseline_text, entries_of_run
    from pytest_compsec.history_writing import config_beside
    from pytest_compsec.reports.history import accepted_record, append_while_locked, locked
    from pytest_compsec.reports.history_reading import read_history

    target, named = _baseline_path(config)
    with locked(path):
        history = read_history(path)
        line = find_run(history, config, wanted)
        entries = entries_of_run(line.record, history.where(line))
        if not entries:
            raise ConfigError(
                f"{history.where(line)}: run {line.run} holds no outcomes of prompts that could be "
                f"compared: {_FIRST}"
            )
        baseline = Baseline(line.run, str(line.record.get("created", "")), line.sha256, entries)
        former, problem = _former(target)
        text = baseline_text(baseline)
        record = accepted_record(
            run=line.run,
            line=line.sha256,
            former=history.accepted(config),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            version=__version__,
            config=config_beside(config, path),
            sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
        )
        with _written(target, text):
            append_while_locked(path, record)
    yield f"Accepted run {line.run} of {line.record.get('created', '')} as the baseline."
    yield from _warnings(line, baseline)
    yield from [problem] if problem else []
    yield from _compared(former, baseline)
    yield ""
    yield from _what_next(target, config, named)


@contextlib.contextmanager
def _written(target: Path, text: str) -> Iterator[None]:
    """The file with its new text; with the former one again where what follows fails: a baseline
    that the history does not know was accepted by nobody."""
    from pytest_compsec.atomic import write_atomically

    try:
        former = target.read_bytes() if target.exists() else None
        write_atomically(target, text)
    except OSError as error:
        raise CompsecError(f"{target}: cannot be written ({error.strerror})") from None
    try:
        yield
    except BaseException as error:
        try:
            target.unlink() if former is None else target.write_bytes(former)
        except OSError as fault:
            raise CompsecError(
                f"{error}; and {target}, which is written already, cannot be put back "
                f"({fault.strerror}): restore it yourself"
            ) from error
        raise


def find_run(history: History, config: Path, wanted: str | None) -> Line:
    """The run that ``wanted`` names or begins, the last when it is None.

    Raises ConfigError where there is none, several begin so, or the last did not finish.
    """
    runs = history.runs(config)
    if not runs:
        raise ConfigError(f"{history.path}: holds no run of {config}. First {_FIRST}")
    if wanted is None:
        last = runs[-1]
        if last.record.get("finished"):
            return last
        done = [line.run for line in runs if line.record.get("finished")]
        other = f"`compsec accept {done[-1]}` takes the last that did, " if done else ""
        raise ConfigError(
            f"{history.where(last)}: the last run, {last.run}, did not finish; {other}"
            f"`compsec accept {last.run}` what finished of this one"
        )
    found = [line for line in runs if line.run == wanted] or [
        line for line in runs if line.run.startswith(wanted)
    ]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} runs begin with" if found else "there is no run"
    known = ", ".join(line.run for line in (found or runs)[-_SHOWN:])
    raise ConfigError(f"{history.path}: {what} {wanted!r}; `compsec accept --list` shows: {known}")


def _baseline_path(config: Path) -> tuple[Path, bool]:
    """Where the baseline is written, and whether the config names it: the file under ``data:``
    that is called ``baseline``, else ``compsec-baseline.json`` beside the config.

    Raises ConfigError for a config that cannot be read so far.
    """
    from pytest_compsec.checks.drift.baseline import DATA_NAME, FILE_NAME, beside
    from pytest_compsec.config.loading import read_text
    from pytest_compsec.config.positions import read_document
    from pytest_compsec.config.source_text import path_of

    # That key alone: the config need not be valid, for it may name the very file that is about to
    # be written, and a fault elsewhere must not send the baseline to another place.
    document = read_document(read_text(config))
    if document.problems:
        found = [f"{config}:{one.line}: {one.message}" for one in document.problems]
        raise ConfigError("\n".join(found))
    data = document.value.get("data") if isinstance(document.value, dict) else None
    if data is None or (isinstance(data, dict) and DATA_NAME not in data):
        return beside(config), False
    entry = data[DATA_NAME] if isinstance(data, dict) else None
    file = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(file, str) or not file:
        raise ConfigError(
            f"{config}:{document.line(('data', DATA_NAME))}: data.{DATA_NAME} must name a file, "
            f"such as {{file: ./{FILE_NAME}}}"
        )
    return path_of(file, config.resolve().parent), True


def _former(target: Path) -> tuple[Baseline | None, str]:
    """The baseline that is replaced, or why it cannot be compared with."""
    from pytest_compsec.checks.drift.baseline import read_baseline

    try:
        return read_baseline(target.read_text(encoding="utf-8"), str(target)), ""
    except FileNotFoundError:
        return None, ""
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        return None, f"The former baseline cannot be read and is replaced: {error}"


def _warnings(line: Line, baseline: Baseline) -> Iterator[str]:
    """What whoever accepts this should know of it."""
    if not line.record.get("finished"):
        count = len(line.record.get("unfinished") or ())
        yield f"warning: the run did not finish ({count} results are missing); the rest is accepted"
    for failure in line.record.get("integrity_failures") or ():
        yield f"warning: an integrity check failed in it: {str(failure).splitlines()[0]}"
    for result in line.record.get("results") or ():
        if result.get("verdict") not in ("PRESERVED", None):
            yield f"warning: {result.get('pair')}, {result.get('check')}: {result.get('verdict')}"
    for entry in baseline.entries:
        unjudged = sum(safe is None for safe in entry.compressed.values())
        if unjudged:
            yield (
                f"warning: {entry.title}: {unjudged} prompts could not be judged; no_drift will "
                "say NOT_MEASURED on them"
            )


def _compared(former: Baseline | None, baseline: Baseline) -> Iterator[str]:
    """What changed against the former baseline, each pair and prompt set on its own."""
    from pytest_compsec.checks.drift.causes import short

    old = {entry.key: entry for entry in former.entries} if former is not None else {}
    for entry in baseline.entries:
        known = old.pop(entry.key, None)
        shown = f"  {entry.title}: {_percent(entry)} of {entry.count} prompts safe"
        if known is None:
            yield f"{shown} (new)"
        elif known.prompts["digest"] != entry.prompts["digest"]:
            yield f"{shown} (other prompts than before: not compared)"
        elif known.judge["digest"] != entry.judge["digest"]:
            yield (
                f"{shown} (another judge than before, {short(known.judge['digest'])} -> "
                f"{short(entry.judge['digest'])}: not compared)"
            )
        else:
            yield f"{shown}, {_percent(known)} before"
            yield from _flips(known, entry)
    for entry in old.values():
        yield f"  {entry.title}: no longer in the baseline (it was not in this run)"


def _flips(known: Outcomes, entry: Outcomes) -> Iterator[str]:
    from pytest_compsec.checks.drift.causes import cause_sentence, changes_between

    both = [name for name in entry.compressed if name in known.compressed]
    before, after = known.compressed, entry.compressed
    for text, first, second in (("no longer", True, False), ("now", False, True)):
        ids = [name for name in both if before[name] is first and after[name] is second]
        if ids:
            more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
            yield f"      {len(ids)} prompts {text} safe: {', '.join(ids[:_SHOWN])}{more}"
    if len(both) < max(known.count, entry.count):
        yield f"      {len(both)} prompts are in both: {known.count} before, {entry.count} now"
    changes = changes_between(known.provenance, entry.provenance, known.pins, entry.pins)
    moved = any(before[name] is not after[name] for name in both)
    if changes or moved:
        same_lock = known.provenance.get("lock_digest") == entry.provenance.get("lock_digest")
        yield f"      {cause_sentence(changes, moved=moved, same_lock=same_lock)}"


def _percent(entry: Outcomes) -> str:
    rate = entry.rate()
    return "none judged" if rate is None else f"{100 * rate:.1f} %"


def _what_next(target: Path, config: Path, named: bool) -> Iterator[str]:
    if named:
        shown = os.path.relpath(target)
        yield f"Wrote {shown}: review it, run `compsec pin`, and commit it with the lock."
        return
    yield (
        f"Wrote {target}. Name it in {config.name}, so that the lock pins it; then run `compsec "
        "pin`, and commit all three:"
    )
    yield ""
    yield "data:"
    yield f"  baseline: {{file: ./{target.name}}}"
