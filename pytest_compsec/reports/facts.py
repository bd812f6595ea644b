"""What a run was, beside its results: what every report and certificate says of it.

Plain data, JSON-safe, gathered by :mod:`pytest_compsec.run_facts` in the one process that knows all
results (a serial run, or the controller of pytest-xdist; never a worker).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pytest_compsec.reports.memory import ProcessMemory
from pytest_compsec.verdict import CheckResult

#: ``finished``: it has a result; ``unfinished``: it was to run and its result never came;
#: ``deselected``: collected, and left out by -k, -m, --deselect or another plugin. What --lf, a
#: node id on the command line or --ignore leaves out is never collected: ``selection`` tells it.
State = Literal["finished", "unfinished", "deselected"]


@dataclasses.dataclass(frozen=True)
class CollectedCheck:
    """One check of one test, as it was collected, and what became of it. ``outcome`` is pytest's
    of the whole test: passed, failed, skipped, xfailed, xpassed, error; None where it never ran.
    ``config`` is the path of the compsec.yaml, from the root of the run, ``arguments`` are those
    of the marker with the defaults of the config. Checks that a test makes by hand, in its body,
    are not known before they are made: they are among the results alone."""

    test: str
    check: str
    pair: str
    config: str
    state: State
    outcome: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SuiteFacts:
    """One compsec.yaml in use and its lock; paths from the root of the run, digests sha256 (hex)
    of the files as they were when the run opened them (before any model)."""

    config: str
    config_digest: str
    lock: str
    lock_digest: str


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """``started`` and ``created`` are ISO 8601 in UTC. ``command`` are pytest's arguments;
    ``selection`` the options and arguments among them that may leave tests out, in words;
    ``settings`` what was asked of the run beside them (option or ini), ``version`` ours.
    ``exit_status`` is pytest's, as it was when the reports were written. ``interrupted``: the run
    was stopped before its end, by Ctrl-C, ``pytest.exit``, -x, --maxfail or an error at
    collection; what did not come to run is ``unfinished`` then."""

    version: str
    started: str
    created: str
    exit_status: int
    interrupted: bool
    command: tuple[str, ...]
    selection: tuple[str, ...]
    settings: Mapping[str, Any]
    suites: tuple[SuiteFacts, ...]
    checks: tuple[CollectedCheck, ...]
    integrity: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a report can be made of. ``directory`` is where the run was started."""

    results: tuple[CheckResult, ...]
    facts: RunFacts
    directory: Path
    memory: Mapping[str, ProcessMemory] | None = None
    #: Models' answers may appear in formats that are read by many (Markdown, JUnit).
    show_answers: bool = False
    #: The private key that signs certificates; None leaves them unsigned.
    sign_key: Path | None = None
    #: Or the identity that a CI system vouches for does, through Sigstore.
    sign_sigstore: bool = False
