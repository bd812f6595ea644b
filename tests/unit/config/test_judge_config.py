"""``judge:`` and ``calibration:`` of compsec.yaml: what is accepted, what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.config.judges import JudgeEntry
from pytest_compsec.config.loading import load_config
from tests.unit.config.test_config_loading import COMMIT, MODEL, errors_of, write


def judge_of(folder: Path, text: str) -> JudgeEntry:
    return load_config(write(folder, f"{MODEL}judge: {text}\n")).config.judge


def error_of(folder: Path, text: str) -> str:
    (found,) = errors_of(folder, f"{MODEL}judge: {text}\n")
    return found


def test_the_builtin_judge_is_the_default(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, MODEL))
    assert loaded.config.judge.name == "refusal"
    assert loaded.config.calibration is None
    assert judge_of(tmp_path, "refusal") == loaded.config.judge


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("keywords", "keywords"),
        ("{keywords: {}}", "keywords"),
        ('{keywords: {phrases: ["I can\'t"], per_prompt: true}}', "keywords"),
        ("{classifier: {source: ./c, refusal_label: REJECTION}}", "classifier"),
        (
            f"{{classifier: {{source: o/n, revision: {COMMIT}, refusal_label: [A, B]}}}}",
            "classifier",
        ),
        ("{generative: {source: ./llama-guard, refusal_when: safe}}", "generative"),
        ("{generative: {source: ./judge.gguf}}", "generative"),
        ('{endpoint: {url: "http://127.0.0.1:8000/v1", model: m}}', "endpoint"),
        ("{endpoint: {url: https://h/v1/, model: m, api_key_env: OPENAI_API_KEY}}", "endpoint"),
    ],
)
def test_one_line_names_a_judge(tmp_path: Path, text: str, name: str) -> None:
    assert judge_of(tmp_path, text).name == name


def test_one_label_or_several(tmp_path: Path) -> None:
    for text, labels in (("A", ["A"]), ("[A, B]", ["A", "B"])):
        entry = judge_of(tmp_path, f"{{classifier: {{source: ./c, refusal_label: {text}}}}}")
        assert entry.classifier is not None
        assert entry.classifier.refusal_label == labels


LINE = MODEL.count("\n") + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keyword", "unknown judge 'keyword'; did you mean 'keywords'?"),
        ("gpt", "unknown judge 'gpt'; known: refusal, keywords, classifier, generative, endpoint"),
        ("endpoint", "the judge 'endpoint' needs options"),
        ("{}", "names no judge"),
        ("{keywords: {}, refusal: {}}", "'refusal' and 'keywords': exactly one"),
        ("{keyword: {}}", "unknown key 'keyword'; did you mean 'keywords'?"),
        ("{keywords: {phrase: [a]}}", "unknown key 'phrase'; did you mean 'phrases'?"),
        ("{keywords: {phrases: []}}", "holds no phrase"),
        ("{keywords: {phrases: ['...']}}", "holds no letter or digit"),
        ("{keywords: {phrases: [a], file: x.txt}}", "exactly one of them decides"),
        ("{keywords: {file: gone.txt}}", "'gone.txt' is no file"),
        ("{classifier: {source: ./c}}", "'refusal_label' is missing in judge.classifier"),
        ("{classifier: {source: ./c, refusal_label: []}}", "refusal_label"),
        ("{classifier: {source: ./c, refusal_label: A, threshold: 1.5}}", "threshold"),
        ("{classifier: {source: ./c.gguf, refusal_label: A}}", "never a .gguf file"),
        ("{classifier: {source: o/n, refusal_label: A}}", "has no 'revision'"),
        ("{classifier: {source: ./c, refusal_label: A, template: hello}}", "never shows the resp"),
        ("{generative: {source: ./g, adapter: ./a}}", "unknown key 'adapter'"),
        ("{generative: {source: ./g, device: gpu}}", "'gpu' is no device"),
        ("{generative: {source: ./g, template: '{{ response }'}}", "is no jinja template"),
        ("{generative: {source: ./g, template: '{{ response }}{{ answer }}'}}", "reads 'answer'"),
        ("{generative: {source: ./g, template: gone.jinja}}", "is no readable text file"),
        ("{generative: {source: ./g, refusal_when: '('}}", "is no regular expression"),
        ("{generative: {source: ./g, refusal_when: 'x*'}}", "matches an empty reply"),
        ("{generative: {source: ./g, refusal_when: '^Yes'}}", "needs 'answered_when'"),
        ("{generative: {source: ./g, refusal_when: Y, answered_when: N}}", "needs a 'template'"),
        ("{generative: {source: ./g, refusal_when: safe, answered_when: N}}", "the other outcome"),
        ("{endpoint: {url: 127.0.0.1, model: m}}", "must be like http://"),
        ("{endpoint: {url: 'http://h:no/v1', model: m}}", "must be like http://"),
        ("{endpoint: {url: ftp://h/v1, model: m}}", "must be like http://"),
        ("{endpoint: {url: http://h/v1/chat/completions, model: m}}", "must end before"),
        ("{endpoint: {url: 'http://h/v1', model: m, retries: -1}}", "retries"),
    ],
)
def test_one_mistake_one_message(tmp_path: Path, text: str, message: str) -> None:
    found = error_of(tmp_path, text)
    assert found.startswith(f"{LINE}: ")
    assert message in found


@pytest.mark.parametrize(
    "fields",
    [
        "url: 'https://user:sk-secret@h/v1', model: m",
        "url: 'https://h/v1?key=sk-secret', model: m",
        "url: 'https://h/v1', model: m, api_key_env: sk-secret",
    ],
)
def test_a_key_in_the_file_is_refused_and_not_repeated(tmp_path: Path, fields: str) -> None:
    found = error_of(tmp_path, f"{{endpoint: {{{fields}}}}}")
    assert "environment variable" in found
    assert "sk-secret" not in found


def test_a_template_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "ask.jinja").write_text("{{ prompt }} {{ response }}", encoding="utf-8")
    entry = judge_of(tmp_path, "{generative: {source: ./g, template: ask.jinja}}")
    assert entry.generative is not None
    (tmp_path / "ask.jinja").write_text("{{ prompt }}", encoding="utf-8")
    assert "never shows the response" in error_of(
        tmp_path, "{generative: {source: ./g, template: ask.jinja}}"
    )


@pytest.mark.parametrize("value", ["''", "5", "[a]"])
def test_calibration_is_a_path(tmp_path: Path, value: Any) -> None:
    (found,) = errors_of(tmp_path, f"{MODEL}calibration: {value}\n")
    assert found.startswith(f"{LINE}: calibration")
    loaded = load_config(write(tmp_path, f"{MODEL}calibration: ./compsec.calibration.json\n"))
    assert loaded.config.calibration == "./compsec.calibration.json"
