"""Does a statement say that everything passed, and nothing else? The one place that decides it: for
``compsec verify-certificate`` and for evidence alike.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_compsec.signing.statement import PASSED, Statement


def not_passed(statement: Statement) -> Iterator[str]:
    """Every reason why a statement is no plain pass; none: it is."""
    told = _objections(statement)
    if statement.result != PASSED:
        yield f"its result is {statement.result}" + "".join(f"\n    {one}" for one in told)
        return
    # A signed PASSED beside a failed test, or an objection, contradicts itself.
    yield from (f"says PASSED, and names a failed test: {name}" for name in statement.failed)
    yield from (
        f"says PASSED, and names a test with a warning: {name}" for name in statement.warned
    )
    yield from (f"says PASSED, and objects: {one}" for one in told)
    if not statement.passed:
        yield "says PASSED of no test"


def _objections(statement: Statement) -> list[str]:
    found = statement.told.get("objections", [])
    # Ours are a list; what else stands there is no reason to overlook it.
    return [str(one) for one in found] if isinstance(found, list) else [str(found)]
