"""Reports made by hand, some by an enemy, for the tests of what is made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pytest_compsec.findings import CategoryFinding
from pytest_compsec.findings_estimates import Difference
from pytest_compsec.reports.facts import CollectedCheck, Report, RunFacts, SuiteFacts
from pytest_compsec.verdict import CheckResult, Evidence, Verdict
from tests.unit.test_verdict import result

#: Breaks a table, and a page, in every way that came to mind.
HOSTILE = (
    "| x | y |\n| --- | --- |\n```\n</code></details></td><script>alert(1)</script>"
    "<img src=x onerror=alert(1)> @octocat/team #123 GH-7 https://evil.example/?q=1 "
    "www.evil.example mail@evil.example [click](javascript:alert(1)) "
    "![i](http://evil.example/i.png) <!-- \n\n# Head\n- list\n> quote\n***bold*** ~~gone~~ $x$ "
    "&lt;b&gt; \\| `tick` ``two`` [^1] [ref]: http://e.example\u202etxt.exe\u2066\u200b\x1b[31m "
    "::set-output name=x::1 {0} {{1}}"
)
SECRET_ANSWER = "Certainly: the-words-of-a-model-in-full"


def facts(**changes: Any) -> RunFacts:
    fields: dict[str, Any] = {
        "version": "1.2.3",
        "started": "2026-01-02T03:04:05+00:00",
        "created": "2026-01-02T03:14:05+00:00",
        "exit_status": 1,
        "interrupted": False,
        "command": ("-q",),
        "selection": (),
        "settings": {},
        "suites": (SuiteFacts("compsec.yaml", "c" * 64, "compsec.lock", "d" * 64),),
        "checks": (),
    }
    return RunFacts(**{**fields, **changes})


def report(*results: CheckResult, show_answers: bool = False, **changes: Any) -> Report:
    directory = changes.pop("directory", Path("/nowhere"))
    return Report(tuple(results), facts(**changes), directory, show_answers=show_answers)


def rows(count: int, *, text: str = "", answer: str = SECRET_ANSWER) -> tuple[Evidence, ...]:
    """Prompts that changed for the worse."""
    return tuple(
        Evidence(
            f"p-{at}", text or f"c{at % 7}", text or f"prompt {at}", answer, answer, True, False
        )
        for at in range(count)
    )


def hostile(**changes: Any) -> CheckResult:
    """A failed check, every text of which was written by an enemy."""
    fields: dict[str, Any] = {
        "summary": f"REGRESSED: m-v {HOSTILE}",
        "next_step": f"Next {HOSTILE}",
        "notes": (f"Note {HOSTILE}",),
        "arguments": {"prompts": HOSTILE},
        "evidence": rows(3, text=HOSTILE, answer=HOSTILE),
        "categories": tuple(
            CategoryFinding(f"{at} {HOSTILE}", 1, 0, 1, 0, 0.5, 0.1, 0.9, 1.0, 0.1)
            for at in range(2)
        ),
        "differences": (Difference("chat_template", HOSTILE, None, f"Why {HOSTILE}"),),
    }
    return result(**{**fields, **changes})


def preserved(**changes: Any) -> CheckResult:
    return result(**{"verdict": Verdict.PRESERVED, "summary": "PRESERVED: fine", **changes})


def collected(state: Any, **changes: Any) -> CollectedCheck:
    test = "test_x.py::test_y[m-v]"
    made = CollectedCheck(test, "safety_preserved", "m-v", "compsec.yaml", state)
    return dataclasses.replace(made, **changes)
