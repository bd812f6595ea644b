"""Reports to look at: everyday ones, broken ones, and one whose every text is an attack."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

from pytest_compsec.findings import CategoryFinding, LayerErrors
from pytest_compsec.findings_backdoors import ArmBackdoor, BackdoorFinding
from pytest_compsec.findings_estimates import Difference, Estimate
from pytest_compsec.reports.facts import CollectedCheck, Report, RunFacts, SuiteFacts
from pytest_compsec.verdict import CheckResult, Evidence, Measurement, Verdict

#: Each would do something if it were taken for anything but text.
HOSTILE = (
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 2'>",
    '"><svg onload="window.ran = 3">',
    "javascript:window.ran=4",
    "{{ 7 * 7 }}{% raw %}",
    "<!--<script>",
    "</style><style>body { display: none }</style>",
    "txt\u202eexe.\u2066right\u2069 to left",
    "nul \x00 bell \x07 \x1b[31mred\x1b[0m",
    "lone \ud800 surrogate \udfff",
    "a\u2028b\u2029c",
    "$\\frac{1}{0}$ $x",
    "&lt;b&gt; &amp; \\u003cscript\\u003e",
    "\U000e0041\U000e0042 hidden tags",
    "z" * 3_000,
)


def measurement(regressed: int = 20, improved: int = 2, n: int = 200) -> Measurement:
    share = (regressed - improved) / n
    return Measurement(
        n=n,
        both=n - regressed - improved - 10,
        improved=improved,
        regressed=regressed,
        neither=10,
        original_rate=0.94,
        compressed_rate=0.94 - share,
        degradation=share,
        interval=(share - 0.03, share + 0.03),
        preserved_pvalue=0.9,
        regressed_pvalue=0.001,
    )


def rows(count: int = 60) -> tuple[Evidence, ...]:
    """By turns regressed, improved, not judged, safe in both, safe in neither."""
    outcomes: tuple[tuple[bool | None, bool | None], ...] = (
        (True, False),
        (False, True),
        (True, None),
        (True, True),
        (False, False),
    )
    return tuple(
        Evidence(
            f"prompt-{place:05d}",
            ("cyber", "fraud", "privacy")[place % 3],
            f"Question number {place}?",
            "I am sorry, but I cannot help with that.",
            f"I am glad to help: answer {place}.",
            *outcomes[place % len(outcomes)],
        )
        for place in range(count)
    )


def categories(shift: float = 0.0) -> tuple[CategoryFinding, ...]:
    return tuple(
        CategoryFinding(
            name, 50, 1, 5, 4, loss + shift, loss + shift - 0.1, loss + shift + 0.1, 1, 1
        )
        for name, loss in (("cyber", 0.4), ("fraud", 0.07), ("privacy", -0.03))
    )


def provenance(variant: str, bits: int | None = 4) -> dict[str, Any]:
    return {
        "lock_digest": "c4" * 32,
        "original": {"name": "assistant", "weights_digest": "0a" * 32, "device": "cpu"},
        "compressed": {
            "name": f"assistant-{variant}",
            "weights_digest": "1b" * 32,
            "device": "cpu",
            "recipe": None if bits is None else {"options": {"bits": bits}},
        },
        "prompts": {"name": "harmful", "digest": "2c" * 32, "count": 200},
        "libraries": {"torch": "2.13.0", "bitsandbytes": None},
    }


def check(
    verdict: Verdict = Verdict.REGRESSED, variant: str = "nf4", bits: int | None = 4, **changes: Any
) -> CheckResult:
    values: dict[str, Any] = {
        "check": "safety_preserved",
        "pair": f"assistant-{variant}",
        "test": f"test_safety.py::test_refuses[assistant-{variant}]",
        "verdict": verdict,
        "summary": f"{verdict}: assistant-{variant} refuses less",
        "next_step": "Do not ship this variant.",
        "limit": 0.02,
        "confidence": 0.95,
        "arguments": {"max_degradation": 0.02, "prompts": "harmful"},
        "measurement": measurement(),
        "evidence": rows(),
        "answers": 400,
        "answers_cached": 12,
        "notes": ("Of the 188 prompts that the original refused, 20 were lost.",),
        "provenance": provenance(variant, bits),
        "categories": categories(),
    }
    return CheckResult(**{**values, **changes})


def preserved(variant: str = "int8", **changes: Any) -> CheckResult:
    found = measurement(regressed=1, improved=1)
    return check(Verdict.PRESERVED, variant, 8, **{"measurement": found, **changes})


def not_measured(variant: str = "gptq") -> CheckResult:
    return check(
        Verdict.NOT_MEASURED,
        variant,
        measurement=None,
        evidence=(),
        categories=(),
        provenance={},
        answers=0,
        answers_cached=0,
        notes=(),
    )


def collected(result: CheckResult, **changes: Any) -> CollectedCheck:
    outcome = "passed" if result.verdict is Verdict.PRESERVED else "failed"
    found = CollectedCheck(
        result.test, result.check, result.pair, "compsec.yaml", "finished", outcome
    )
    return dataclasses.replace(found, **changes)


def report(*results: CheckResult, **facts: Any) -> Report:
    failed = any(result.verdict is not Verdict.PRESERVED for result in results)
    values: dict[str, Any] = {
        "version": "0.1.0",
        "started": "2026-01-02T03:04:05+00:00",
        "created": "2026-01-02T03:14:05+00:00",
        "exit_status": int(failed),
        "interrupted": False,
        "command": ("--compsec-report=out.html",),
        "selection": (),
        "settings": {"full": True, "inconclusive": "fail"},
        "suites": (SuiteFacts("compsec.yaml", "5f" * 32, "compsec.lock", "c4" * 32),),
        "checks": tuple(collected(result) for result in results),
    }
    return Report(results, RunFacts(**{**values, **facts}), Path())


def layers(names: tuple[str, ...] = ("model.layers.0.mlp", "model.layers.7.self_attn")) -> Any:
    errors = tuple(0.3 / (1 + place) for place in range(len(names)))
    return LayerErrors(40, 2, 1, names, errors, tuple(None for _ in names))


def estimate(name: str = "perplexity", **changes: Any) -> Estimate:
    values: dict[str, Any] = {
        "name": name,
        "estimand": "relative change of perplexity",
        "unit": "relative",
        "sample": "document",
        "samples": 120,
        "method": "bootstrap",
        "original": 11.2,
        "compressed": 12.0,
        "change": 0.071,
        "lower": 0.05,
        "upper": 0.094,
        "limit": 0.1,
        "verdict": "PRESERVED",
    }
    return Estimate(**{**values, **changes})


def everyday() -> Report:
    """One result of every kind and verdict."""
    return report(
        check(),
        check(Verdict.INCONCLUSIVE, "fp4", measurement=measurement(7, 2)),
        preserved(),
        preserved(check="over_refusal_preserved", test="test_answers", arguments={}),
        not_measured(),
        check(
            Verdict.REGRESSED,
            check="layers_within",
            arguments={"max_error": 0.1},
            measurement=None,
            evidence=(),
            categories=(),
            layers=layers(),
            limit=0.1,
            expected=True,
        ),
        check(
            Verdict.PRESERVED,
            check="capability_preserved",
            arguments={"text": "prose"},
            measurement=None,
            evidence=(),
            categories=(),
            estimates=(
                estimate(),
                estimate("accuracy", unit="points", original=0.6, compressed=0.58, change=0.02),
            ),
        ),
        check(
            Verdict.REGRESSED,
            check="template_unchanged",
            arguments={},
            measurement=None,
            evidence=(),
            categories=(),
            differences=(Difference("chat_template", "{{ a }}", None, "it says who speaks"),),
        ),
    )


def classifiers() -> Report:
    """No prompts anywhere: images under a trigger."""
    arm = ArmBackdoor(300, 0.9, 0.02, 0.88, 0.84, 0.91, 1.0, 1e-6, 0.93, 0.1)
    finding = BackdoorFinding("square", "3d" * 32, "class 7", 1, 300, 4, arm, arm)
    return report(
        check(
            check="backdoor_removed",
            variant="pruned",
            bits=None,
            measurement=None,
            evidence=(),
            categories=(),
            backdoor=finding,
        )
    )


def hostile() -> Report:
    """Every text of the report is one of :data:`HOSTILE`, and one answer is 100 kB long."""
    texts = [*HOSTILE, "long " * 20_000]
    results = []
    for place, text in enumerate(HOSTILE):
        evidence = tuple(
            Evidence(one, one, one, other, one, True, False, other)
            for one, other in zip(texts, [*texts[1:], texts[0]], strict=True)
        )
        results.append(
            check(
                check=f"check {text}" if place % 2 else "safety_preserved",
                pair=text,
                test=f"test.py::test[{text}]",
                summary=text,
                next_step=text,
                notes=(text,),
                withheld=(text,),
                arguments={text: text, "prompts": text},
                provenance={text: {text: text}, "original": {"name": text, text: text}},
                evidence=evidence if place < 2 else (),
                categories=tuple(
                    dataclasses.replace(one, category=f"{text}{one.category}")
                    for one in categories()
                ),
                layers=layers((text, f"{text} other")) if place < 3 else None,
                estimates=(estimate(text, estimand=text, unit=text, sample=text, method=text),),
                differences=(Difference(text, text, text, text),),
            )
        )
    return report(
        *results,
        version=HOSTILE[1],
        created=HOSTILE[2],
        command=HOSTILE,
        selection=HOSTILE,
        settings=dict.fromkeys(HOSTILE, HOSTILE[0]),
        suites=tuple(SuiteFacts(text, text, text, text) for text in HOSTILE),
        checks=tuple(
            CollectedCheck(text, text, text, text, "deselected", "skipped") for text in HOSTILE
        ),
        integrity=HOSTILE,
        interrupted=True,
    )


def large(count: int = 10_000) -> Report:
    """As many prompts as a large suite asks, each with answers of its own."""
    chance = random.Random(1)
    words = ("I", "cannot", "help", "with", "that", "request", "because", "it", "could", "hurt")
    evidence = tuple(
        dataclasses.replace(
            row,
            original=" ".join(chance.choices(words, k=40)),
            compressed=" ".join(chance.choices(words, k=40)),
        )
        for row in rows(count)
    )
    return report(check(evidence=evidence), preserved(evidence=()))
