"""A text-classification model as the judge, from the line in compsec.yaml to the outcomes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_compsec.errors import ConfigError, IntegrityError, LoadError, MeasurementError
from pytest_compsec.judges.classifier import refusal_indices
from pytest_compsec.models.pinning import pin
from pytest_compsec.suite import open_suite
from tests.unit.judges.tiny_judges import ANSWERS, REFUSALS, cases, judge_suite, train_classifier

LINE = "{classifier: {source: ./judge, refusal_label: REJECTION, device: cpu}}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_classifier(tmp_path_factory.mktemp("classifier"))


def project(root: Path, trained: Path, line: str = LINE) -> Path:
    shutil.copytree(trained, root / "judge")
    return judge_suite(root, line)


def test_a_pinned_classifier_judges(tmp_path: Path, trained: Path) -> None:
    path = project(tmp_path, trained)
    pin(path)
    lock = path.with_name("compsec.lock").read_text(encoding="utf-8")
    assert "[judges.classifier.files]" in lock
    assert "[judges.refusal]" not in lock
    prompts, responses, refused = cases()
    with open_suite(path) as suite:
        judge = suite.judge()
        assert judge.name == "classifier"
        assert list(judge.refusals(prompts, responses)) == refused


def test_a_response_without_words_is_no_refusal(tmp_path: Path, trained: Path) -> None:
    path = project(tmp_path, trained)
    pin(path)
    with open_suite(path) as suite:
        outcomes = suite.judge().refusals(["p"] * 3, ["", " \n…", REFUSALS[0]])
    assert list(outcomes) == [False, False, True]


def test_the_outcome_does_not_depend_on_the_company(tmp_path: Path, trained: Path) -> None:
    """Padding must not reach a shorter text."""
    path = project(tmp_path, trained)
    pin(path)
    texts = [*REFUSALS, *ANSWERS, "x" * 50, "y"]
    with open_suite(path) as suite:
        judge = suite.judge()
        together = judge.probabilities(texts, texts)  # type: ignore[attr-defined]
        alone = [judge.probabilities([t], [t])[0] for t in texts]  # type: ignore[attr-defined]
    assert together == pytest.approx(alone, abs=1e-5)
    assert max(together) - min(together) > 0.5


def test_one_byte_of_the_weights_changed_is_an_integrity_error(
    tmp_path: Path, trained: Path
) -> None:
    path = project(tmp_path, trained)
    pin(path)
    weights = tmp_path / "judge" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with (
        open_suite(path) as suite,
        pytest.raises(IntegrityError, match=r"judge/model\.safetensors"),
    ):
        suite.judge()


@pytest.mark.parametrize("loaded_before", [False, True])
def test_weights_exchanged_after_verification_are_noticed(
    tmp_path: Path, trained: Path, loaded_before: bool
) -> None:
    path = project(tmp_path, trained)
    pin(path)
    weights = tmp_path / "judge" / "model.safetensors"
    with open_suite(path) as suite:
        judge = suite.judge()
        if loaded_before:
            judge.refusals(["p"], [REFUSALS[0]])
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(bytes(data))
        with pytest.raises(IntegrityError, match=r"model\.safetensors"):
            judge.refusals(["p"], [REFUSALS[0]])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("REJECTION", "NORMAL"),
        ("device: cpu", "threshold: 0.9"),
        ("device: cpu", "dtype: bfloat16"),
        ("device: cpu", 'template: "{{ prompt }} {{ response }}"'),
    ],
)
def test_every_setting_is_pinned(tmp_path: Path, trained: Path, old: str, new: str) -> None:
    path = project(tmp_path, trained)
    pin(path)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with (
        open_suite(path) as suite,
        pytest.raises(IntegrityError, match="judge 'classifier' is not"),
    ):
        suite.judge()


def test_another_version_of_a_library_is_named(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project(tmp_path, trained)
    pin(path)
    monkeypatch.setattr("pytest_compsec.judges.registry.tool_version", lambda tool: "0.1")
    with open_suite(path) as suite, pytest.raises(IntegrityError, match=r"torch is 0\.1, the lock"):
        suite.judge()


def test_another_source_is_refused_before_it_is_opened(tmp_path: Path, trained: Path) -> None:
    path = project(tmp_path, trained)
    pin(path)
    text = path.read_text(encoding="utf-8").replace("./judge", "./elsewhere")
    path.write_text(text, encoding="utf-8")
    with (
        open_suite(path) as suite,
        pytest.raises(IntegrityError, match=r"compsec\.yaml:\d+: the source of 'judge classifier'"),
    ):
        suite.judge()


def test_a_label_that_the_classifier_lacks_is_told_when_pinning(
    tmp_path: Path, trained: Path
) -> None:
    path = project(tmp_path, trained, LINE.replace("REJECTION", "REFUSAL"))
    with pytest.raises(ConfigError, match=r"yaml:\d+: .*no label 'REFUSAL'.*'NORMAL', 'REJECTION'"):
        pin(path)


def test_all_labels_as_refusal_is_refused() -> None:
    config = {"id2label": {"0": "a", "1": "b"}}
    assert refusal_indices(config, ["b"], "x") == [1]
    with pytest.raises(ConfigError, match="every label"):
        refusal_indices(config, ["a", "b"], "x")


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path, trained: Path) -> None:
    """transformers would put random numbers in its place."""
    from safetensors.torch import load_file, save_file

    path = project(tmp_path, trained)
    weights = tmp_path / "judge" / "model.safetensors"
    kept = {k: v for k, v in load_file(weights).items() if not k.startswith("classifier")}
    save_file(kept, weights, metadata={"format": "pt"})
    pin(path)
    with open_suite(path) as suite, pytest.raises(LoadError, match=r"classifier\.bias.*random"):
        suite.judge().refusals(["p"], ["r"])


def test_a_directory_with_an_adapter_is_not_followed_elsewhere(
    tmp_path: Path, trained: Path
) -> None:
    path = project(tmp_path, trained)
    (tmp_path / "judge" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "evil/model"}), encoding="utf-8"
    )
    pin(path)
    with open_suite(path) as suite, pytest.raises(LoadError, match="adapter"):
        suite.judge().refusals(["p"], ["r"])


def test_with_a_template_nothing_is_cut_in_silence(tmp_path: Path, trained: Path) -> None:
    line = LINE.replace("}}", ', template: "{{ prompt }} {{ response }}"}}')
    path = project(tmp_path, trained, line)
    pin(path)
    with open_suite(path) as suite:
        judge = suite.judge()
        assert len(judge.refusals(["p"], [REFUSALS[0]])) == 1
        with pytest.raises(MeasurementError, match=r"reads 64 tokens.*is 1\d\d"):
            judge.refusals(["p" * 100], [REFUSALS[0]])


def test_without_a_template_the_beginning_of_a_long_response_is_read(
    tmp_path: Path, trained: Path
) -> None:
    path = project(tmp_path, trained)
    pin(path)
    with open_suite(path) as suite:
        judge = suite.judge()
        long = judge.probabilities(["p"], ["z" * 64])  # type: ignore[attr-defined]
        longer = judge.probabilities(["p"], ["z" * 900])  # type: ignore[attr-defined]
    assert longer == pytest.approx(long, abs=1e-6)
