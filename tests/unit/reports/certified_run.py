"""A run in which everything passed, as the reports see it; tests plant the faults."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pytest_compsec.reports.certificate_objections import Artefact
from pytest_compsec.reports.facts import CollectedCheck, Report, RunFacts, SuiteFacts
from pytest_compsec.verdict import CheckResult, Measurement, Verdict

PAIR, CONFIG = "tiny-files", "suite/compsec.yaml"
ARTEFACT = Artefact(PAIR, CONFIG)
LOCK, DIGEST = "1" * 64, "2" * 64
WEIGHTS = {"path": "model.safetensors", "sha256": "a" * 64, "size": 9, "role": "weights"}
ORIGINAL_WEIGHTS = {"path": "o.safetensors", "sha256": "6" * 64, "size": 9, "role": "weights"}
FILES = (
    {"path": "config.json", "sha256": "b" * 64, "size": 2, "role": "config"},
    WEIGHTS,
    {"path": "tokenizer.json", "sha256": "c" * 64, "size": 3, "role": "tokenizer"},
    {"path": "LICENSE", "sha256": "d" * 64, "size": 4, "role": "other"},
)


def provenance(**compressed: Any) -> dict[str, Any]:
    return {
        "lock_digest": LOCK,
        "original": {
            "name": "tiny",
            "source": "./original",
            "weights_digest": "0" * 64,
            "files": [dict(ORIGINAL_WEIGHTS)],
            "served": None,
            "dtype": "float32",
            "device": "cpu",
        },
        "compressed": {
            "name": PAIR,
            "source": "./files",
            "weights_digest": DIGEST,
            "derived": False,
            "served": None,
            "files": [dict(file) for file in FILES],
            "asked_with": "3" * 64,
            "code": None,
            "dtype": "float32",
            "device": "cpu",
            **compressed,
        },
        "prompts": {"name": "own", "version": "file", "digest": "e" * 64, "count": 200},
        "judge": {"name": "refusal", "version": "1", "digest": "f" * 64, "cached": 0},
        "generation": {"max_new_tokens": 16, "decoding": "greedy", "drafts": "auto"},
        "libraries": {"torch": "2.9.0", "bitsandbytes": "0.50.2", "hqq": None},
        "machine": {
            "processor": "x86_64",
            "processor_model": "A CPU",
            "gpus": [],
            "python": "3.11.7",
        },
    }


def passed(test: str = "suite/test_a.py::test_refuses[tiny-files]", **fields: Any) -> CheckResult:
    made = CheckResult(
        check="safety_preserved",
        pair=PAIR,
        test=test,
        verdict=Verdict.PRESERVED,
        summary="PRESERVED: tiny-files refuses as before",
        next_step="",
        limit=0.02,
        confidence=0.95,
        arguments={"max_flips": None},
        measurement=Measurement(
            n=200, both=200, improved=0, regressed=0, neither=0, original_rate=1.0,
            compressed_rate=1.0, degradation=0.0, interval=(-0.01, 0.01), preserved_pvalue=0.01,
            regressed_pvalue=1.0,
        ),
        answers=400,
        provenance=provenance(),
    )  # fmt: skip
    return dataclasses.replace(made, **fields)


def collected(result: CheckResult, **fields: Any) -> CollectedCheck:
    made = CollectedCheck(result.test, result.check, result.pair, CONFIG, "finished", "passed")
    return dataclasses.replace(made, **fields)


def facts(*checks: CollectedCheck, **fields: Any) -> RunFacts:
    made = RunFacts(
        version="0.1.0",
        started="2026-01-01T00:00:00+00:00",
        created="2026-01-01T00:01:00+00:00",
        exit_status=0,
        interrupted=False,
        command=("--compsec-report=out.intoto.json",),
        selection=(),
        settings={"use_cache": True, "inconclusive": "fail"},
        suites=(SuiteFacts(CONFIG, "4" * 64, "suite/compsec.lock", LOCK),),
        checks=checks,
    )
    return dataclasses.replace(made, **fields)


SECOND = "suite/test_a.py::test_answers[tiny-files]"


def report(
    results: tuple[CheckResult, ...] | None = None,
    checks: tuple[CollectedCheck, ...] | None = None,
    **fields: Any,
) -> Report:
    """Two checks of one artefact passed; ``fields`` are those of the facts."""
    results = results or (passed(), passed(SECOND, check="over_refusal_preserved"))
    checks = checks if checks is not None else tuple(collected(result) for result in results)
    return Report(results, facts(*checks, **fields), Path())
