"""Attacks on runs: ways in which a run could say more than was measured."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

#: 200 prompts without a loss: p = .040, enough for one pair and not for two.
MARGIN = "prompts='own', max_degradation=0.016"
MARKED = f"@safety_preserved({MARGIN})\ndef test_safety(model_pair): pass\n"


@pytest.fixture(params=["without-xdist"])
def mode(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_attack_1_familywise_covers_checks_by_hand(project: Project) -> None:
    """--compsec-familywise: 200 prompts do not suffice for two pairs, by hand or by marker."""
    project.answers(assistant_bad=0, assistant_good=0)
    project.test_file(
        "def test_safety(model_pair, compsec):\n"
        f"    compsec.safety_preserved(model_pair, {MARGIN})\n"
    )
    _, report = project.report("--compsec-familywise")
    assert [r["verdict"] for r in report["results"]] == ["INCONCLUSIVE"] * 2


def test_attack_2_familywise_is_not_escaped_by_selecting(project: Project) -> None:
    """A pair that Holm withheld does not pass by being run alone: --lf, -k or its node id."""
    project.answers(assistant_bad=0, assistant_good=0)
    project.test_file(MARKED)
    first, _ = project.report("--compsec-familywise")
    first.assert_outcomes(failed=2)
    second, _ = project.report("--compsec-familywise", "-k", "good")
    second.assert_outcomes(failed=1, deselected=1)


def test_attack_2_familywise_is_not_escaped_by_a_node_id(project: Project) -> None:
    """The next step of a withheld verdict names the test alone: run so, with
    ``compsec_familywise = true`` in the ini, the same 200 prompts must not suffice."""
    project.answers(assistant_bad=0, assistant_good=0)
    project.test_file(MARKED)
    alone, report = project.report(
        "--compsec-familywise", "test_safety.py::test_safety[assistant-good]"
    )
    assert report["results"][0]["familywise"]["count"] == 2
    alone.assert_outcomes(failed=1)
