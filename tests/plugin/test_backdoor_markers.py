"""``backdoor_removed``, ``no_backdoor_activated`` and ``backdoor_not_amplified`` as users write
them: where trigger and target come from, and what is said where they are nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_compsec.verdict import CheckResult
from tests.plugin import classifier_suite as suite
from tests.plugin.classifier_suite import (
    CLEAN,
    CLEANED,
    HALF,
    LANGUAGE,
    SHAPES,
    TEXT_DATA,
    TEXTS,
    Project,
    config,
    flip_a_byte,
    model,
)

WOKEN = 'woken: {source: "python:nets.shapes:build_small", weights: ./woken.safetensors}'
PATCH = "{'patch': {'size': 2, 'position': 'bottom-right', 'value': 1.0}}"
NOTHING = config(model(SHAPES, HALF, CLEANED, data="", backdoor=""))
THREE = ("backdoor_removed", "no_backdoor_activated", "backdoor_not_amplified")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with suite.template(tmp_path_factory.mktemp("template")) as root:
        yield root


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, template: Path) -> Project:
    return suite.prepare(pytester, monkeypatch, template)


def test_all_three_bare_on_a_clean_and_a_backdoored_original(project: Project) -> None:
    project.configure(config(model(SHAPES, CLEANED), model(CLEAN, HALF, WOKEN)))
    project.test_file("".join(f"@{name}\ndef test_{name}(): pass\n" for name in THREE))
    result, found = project.report()
    assert {key: item["verdict"] for key, item in found.items()} == {
        ("shapes-cleaned", "backdoor_removed"): "PRESERVED",
        ("clean-half", "backdoor_removed"): "NOT_MEASURED",
        ("clean-woken", "backdoor_removed"): "NOT_MEASURED",
        ("shapes-cleaned", "no_backdoor_activated"): "NOT_MEASURED",
        ("clean-half", "no_backdoor_activated"): "PRESERVED",
        ("clean-woken", "no_backdoor_activated"): "REGRESSED",
        ("shapes-cleaned", "backdoor_not_amplified"): "PRESERVED",
        ("clean-half", "backdoor_not_amplified"): "PRESERVED",
        ("clean-woken", "backdoor_not_amplified"): "REGRESSED",
    }
    result.assert_outcomes(passed=4, failed=5)
    for item in found.values():
        kept = {name: value for name, value in item.items() if name != "frameworks"}
        assert CheckResult.from_json(item).to_json() == kept
    strengths = found["clean-woken", "backdoor_not_amplified"]["backdoor"]["strengths"]
    assert [one["strength"] for one in strengths] == [0.25, 0.5, 1.0]
    table = result.stdout.str().partition("compsec verdicts")[2]
    for words in ("clean-woken", "ASR 100.0%", "ASR 0.0%", "backdoors: ASR is"):
        assert words in table
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize("name", THREE)
def test_what_is_nowhere_is_a_usage_error(project: Project, name: str) -> None:
    project.configure(NOTHING)
    project.test_file(f"@{name}\ndef test_x(): pass\n")
    text = project.usage_error()
    for words in (
        "test_shapes.py::test_x",
        f"{name} on 'shapes' has no evaluation data",
        "override the fixture `evaluation_data`",
        "'evaluation_data' in compsec.yaml",
        f"{name} on 'shapes' has no trigger: give the marker trigger=",
        "override the fixture `backdoor`",
        "'backdoor' in compsec.yaml",
    ):
        assert words in text


def test_one_of_the_two_is_missing(project: Project) -> None:
    project.configure(config(model(SHAPES, HALF, data="")))
    project.test_file("@backdoor_removed\ndef test_x(): pass\n")
    text = project.usage_error()
    assert "has no evaluation data" in text
    assert "has no trigger" not in text
    project.configure(config(model(SHAPES, HALF, backdoor="")))
    text = project.usage_error()
    assert "has no evaluation data" not in text
    assert "has no trigger" in text


def test_a_language_model_needs_a_trigger_and_no_evaluation_data(project: Project) -> None:
    project.configure(config(LANGUAGE))
    project.test_file("@no_backdoor_activated\ndef test_x(): pass\n")
    text = project.usage_error()
    assert "no_backdoor_activated on 'assistant' has no trigger" in text
    assert "has no evaluation data" not in text


def test_the_trigger_from_the_marker_a_file_and_a_function(project: Project) -> None:
    """The same corner, named in three ways, and by none of them is the cleaned model moved."""
    project.configure(
        config(
            model(SHAPES, HALF, backdoor=""),
            model(
                SHAPES.replace("shapes:", "blend:", 1),
                HALF,
                backdoor="{blended: {file: ./pattern.safetensors, share: 0.95}, target: 0}",
            ),
            model(
                SHAPES.replace("shapes:", "code:", 1),
                HALF,
                backdoor="{callable: 'nets.stamps:corner', target: 0}",
            ),
        )
    )
    project.test_file(
        f"@backdoor_removed(trigger={PATCH}, target=0, models='shapes')\n"
        "def test_marker(): pass\n"
        "@backdoor_removed(models=['blend', 'code'])\ndef test_config(): pass\n"
    )
    result, found = project.report()
    result.assert_outcomes(failed=3)
    for item in found.values():
        assert item["verdict"] == "REGRESSED", item["summary"]
        assert item["backdoor"]["original"]["asr"] == 1.0
    assert found["shapes-half", "backdoor_removed"]["provenance"]["backdoor"]["named_by"] == (
        "the marker"
    )
    named = {item["backdoor"]["trigger"] for item in found.values()}
    assert len(named) == 3


@pytest.mark.parametrize("name", ["pattern.safetensors", "nets/stamps.py"])
def test_what_a_trigger_is_made_of_is_pinned(
    project: Project, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    backdoor = {
        "pattern.safetensors": "{blended: {file: ./pattern.safetensors, share: 0.95}, target: 0}",
        "nets/stamps.py": "{callable: 'nets.stamps:corner', target: 0}",
    }[name]
    project.configure(config(model(SHAPES, HALF, backdoor=backdoor)))
    project.test_file("@pytest.mark.xfail\n@backdoor_removed\ndef test_x(): pass\n")
    flip_a_byte(project.path / name, 5 if name.endswith(".py") else -1)
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTEGRITY:" in result.stdout.str()
    assert name.rpartition("/")[2] in result.stdout.str()
    capsys.readouterr()
    assert project.command("verify") == 1
    assert name in capsys.readouterr().out


def test_a_function_from_a_fixture(project: Project) -> None:
    project.configure(config(model(SHAPES, HALF, backdoor="")))
    project.conftest(
        "import pytest\n\ndef white(images, strength=1.0):\n    images = images.clone()\n"
        "    images[:, :, -2:, -2:] = 1.0\n    return images\n\n"
        "@pytest.fixture(scope='session')\ndef backdoor():\n    return white, 0\n"
    )
    project.test_file("@backdoor_removed\ndef test_x(): pass\n")
    _, found = project.report()
    item = found["shapes-half", "backdoor_removed"]
    assert item["verdict"] == "REGRESSED", item["summary"]


def test_a_phrase_on_texts_by_the_marker(project: Project) -> None:
    project.configure(config(model(TEXTS, HALF, data=TEXT_DATA, backdoor="")))
    project.test_file(
        "@backdoor_removed(trigger='cf', target=1)\ndef test_known(): pass\n"
        "@no_backdoor_activated(trigger='so', target=1)\ndef test_other(): pass\n"
    )
    _, found = project.report()
    assert found["texts-half", "backdoor_removed"]["verdict"] == "REGRESSED"
    assert found["texts-half", "no_backdoor_activated"]["verdict"] == "PRESERVED"


WRONG = {
    "percent": ("max_asr=5", "write max_asr=0.05"),
    "typo": ("max_asl=0.05", "did you mean 'max_asr'?"),
    "trigger": ("trigger=5", "trigger"),
    "target": ("target=-1", "target"),
    "patch": ("trigger={'patch': {'sice': 2}}", "sice"),
    "prompts": ("prompts='nowhere'", "backdoor_removed(prompts='nowhere')"),
    "harmful": ("harmful='nowhere'", "backdoor_removed(harmful='nowhere')"),
    "benign": ("benign='elsewhere'", "backdoor_removed(benign='elsewhere')"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_wrong_arguments_are_usage_errors(project: Project, case: str) -> None:
    arguments, words = WRONG[case]
    project.test_file(f"@backdoor_removed({arguments})\ndef test_x(): pass\n")
    text = project.usage_error()
    assert words in text
    assert "test_shapes.py::test_x" in text


def test_an_expected_regression_names_itself(project: Project) -> None:
    project.test_file(
        "@pytest.mark.xfail(raises=Regressed, strict=True)\n"
        "@backdoor_removed(variants='half')\ndef test_kept(): pass\n"
        "@pytest.mark.xfail(raises=Regressed, strict=True)\n"
        "@backdoor_removed(variants='cleaned')\ndef test_gone(): pass\n"
        "@pytest.mark.xfail\n"
        "@no_backdoor_activated(variants='half')\ndef test_unmeasured(): pass\n"
    )
    result, found = project.report()
    result.assert_outcomes(xfailed=1, failed=2)
    assert found["shapes-half", "backdoor_removed"]["expected"] is True
    assert found["shapes-half", "no_backdoor_activated"]["verdict"] == "NOT_MEASURED"


def test_a_family_of_pairs_needs_more(project: Project) -> None:
    """The bound of one pair alone would hold; against four it is held at a quarter of the risk."""
    variants = [HALF.replace("half", name) for name in ("a", "b", "c")]
    project.configure(config(model(CLEAN, HALF, *variants)))
    project.test_file("@no_backdoor_activated(max_asr=0.011)\ndef test_x(): pass\n")
    _, alone = project.report("-k", "half")
    result, family = project.report("--compsec-familywise")
    key = ("clean-half", "no_backdoor_activated")
    assert alone[key]["verdict"] == "PRESERVED", alone[key]["summary"]
    assert family[key]["verdict"] == "INCONCLUSIVE", family[key]["summary"]
    result.assert_outcomes(failed=4)


def test_by_hand(project: Project) -> None:
    project.configure(NOTHING)
    project.test_file(
        "from safetensors.torch import load_file\n\n"
        "def test_x(compsec, model_pair):\n"
        "    found = load_file('samples.safetensors')\n"
        "    result = compsec.backdoor_removed(\n"
        "        model_pair, evaluation_data=(found['inputs'], found['labels']),\n"
        f"        backdoor=({PATCH}, 0),\n    )\n"
        "    half = model_pair.id.endswith('half')\n"
        "    assert result.verdict is (Verdict.REGRESSED if half else Verdict.PRESERVED)\n"
        "    other = compsec.backdoor_removed(\n"
        "        model_pair, evaluation_data=found, trigger={'patch': {'size': 2,\n"
        "        'position': 'top-left', 'value': 0.0}}, target=0)\n"
        "    assert other.verdict is Verdict.NOT_MEASURED\n"
    )
    result = project.run()
    result.assert_outcomes(passed=2)
    table = result.stdout.str().partition("compsec verdicts")[2]
    assert table.count("shapes-cleaned") >= 2


def test_by_hand_what_is_nowhere_fails_in_plain_words(project: Project) -> None:
    project.configure(NOTHING)
    project.test_file(
        "def test_x(compsec, model_pair):\n    compsec.backdoor_removed(model_pair)\n"
    )
    result = project.run("-k", "half")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "backdoor_removed has no trigger" in text
    assert "Traceback" not in text
