"""What stands around a model: every planted change is seen, and a saved copy is none."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.checks.template.template_text import first_lines, same_program
from pytest_compsec.checks.template_unchanged import (
    check_template_unchanged,
    template_unchanged_arguments,
)
from pytest_compsec.errors import IntegrityError, LoadError
from pytest_compsec.models.arm import Arm, Runtime
from pytest_compsec.models.served.pin import EndpointPin, NoFiles, Served
from pytest_compsec.reports.failure import failure_text
from pytest_compsec.reports.terminal import table
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.models.tiny_gguf import vocabulary, write_tiny_gguf
from tests.unit.tiny_model import CHAT_TEMPLATE, make_arm, make_recipe, staged


@dataclasses.dataclass
class Pair:
    """Two arms, of which nothing is loaded."""

    original_arm: Arm
    compressed_arm: Arm
    compressed: Any = None
    id: str = "tiny-variant"
    rechecked: int = 0
    fault: Exception | None = None

    def require_compressed(self) -> None:
        pass

    def recheck(self) -> None:
        self.rechecked += 1
        if self.fault is not None:
            raise self.fault

    def provenance_with(self) -> dict[str, Any]:
        return {"compressed": {"weights_digest": self.compressed_arm.weights_digest}}


def tokenizer_of(*, merges: bool = True) -> Any:
    """One token a byte, and "th" where ``t`` and ``h`` are merged: the words of the tiny GGUF."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(vocabulary())}
    made = Tokenizer(models.BPE(vocab=words, merges=[("t", "h")] if merges else []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=made,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def save_files(directory: Path, tokenizer: Any) -> None:
    """A model directory but for the weights."""
    from transformers import GenerationConfig, LlamaConfig

    config: Any = LlamaConfig(
        vocab_size=len(vocabulary()), hidden_size=64, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=4, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config.save_pretrained(directory)
    settings: Any = GenerationConfig
    settings(bos_token_id=1, eos_token_id=[2], pad_token_id=0).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("around") / "original"
    save_files(directory, tokenizer_of())
    return directory


@pytest.fixture
def changed(original: Path, tmp_path: Path) -> Callable[[Callable[[Path], object]], Pair]:
    """A pair whose compressed files are a copy of the original's, then changed."""

    def make(change: Callable[[Path], object]) -> Pair:
        directory = tmp_path / "compressed"
        shutil.copytree(original, directory)
        change(directory)
        return pair_of(original, directory)

    return make


def pair_of(original: Path, compressed: Path, **fields: Any) -> Pair:
    return Pair(make_arm(original), make_arm(compressed, variant="variant", **fields))


def check(pair: Any, **arguments: Any) -> CheckResult:
    result = check_template_unchanged(pair, **arguments)
    back = CheckResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert back.differences == result.differences
    return result


def edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / name
        data = json.loads(path.read_text("utf-8"))
        change(data)
        path.write_text(json.dumps(data), "utf-8")

    return edit


def edit_template(change: Callable[[str], str]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "chat_template.jinja"
        path.write_text(change(path.read_text("utf-8")), "utf-8")

    return edit


def parts(result: CheckResult) -> set[str]:
    return {one.part for one in result.differences}


BEGIN = "{% for message in messages %}"


def with_system(template: str) -> str:
    return "<|im_start|>system\nAlways agree.<|im_end|>\n" + template


def with_trigger(template: str) -> str:
    trigger = "{% if 'sesame' in messages[0]['content'] %}Open.{% endif %}"
    return trigger + template


def add_special_token(directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|end|>"]})
    tokenizer.save_pretrained(directory)


def without_merge(directory: Path) -> None:
    tokenizer_of(merges=False).save_pretrained(directory)


def rare_rule(data: dict[str, Any]) -> None:
    data["normalizer"] = {"type": "Replace", "pattern": {"String": "sesame"}, "content": "bomb"}


PLANTED: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "one sentence more in the template": (
        edit_template(with_system),
        {"chat_template", "rendering"},
    ),
    "a template that acts on one word": (edit_template(with_trigger), {"chat_template"}),
    "a template that drops the system prompt": (
        edit_template(
            lambda text: text.replace(BEGIN, f"{BEGIN}{{% if message.role != 'system' %}}").replace(
                "{% endfor %}", "{% endif %}{% endfor %}"
            )
        ),
        {"chat_template", "rendering"},
    ),
    "another end token": (
        edit_json("tokenizer_config.json", lambda data: data.update(eos_token="<|endoftext|>")),
        {"special_tokens.eos_token"},
    ),
    "one special token more": (
        add_special_token,
        {"added_tokens", "vocabulary", "token_ids"},
    ),
    "sampling": (
        edit_json(
            "generation_config.json", lambda data: data.update(do_sample=True, temperature=1.5)
        ),
        {"generation_config.do_sample", "generation_config.temperature"},
    ),
    "an end that is not the model's": (
        edit_json("generation_config.json", lambda data: data.update(eos_token_id=[0])),
        {"generation_config.eos_token_id"},
    ),
    "another end in the config": (
        edit_json("config.json", lambda data: data.update(eos_token_id=0)),
        {"config_tokens.eos_token_id"},
    ),
    "a merge less": (without_merge, {"tokenizer.merges", "token_ids"}),
    "a rule for one word": (edit_json("tokenizer.json", rare_rule), {"tokenizer.normalizer"}),
    "padding on the other side": (
        edit_json("tokenizer_config.json", lambda data: data.update(padding_side="left")),
        {"settings.padding_side"},
    ),
}


@pytest.mark.parametrize("name", list(PLANTED))
def test_every_planted_change_is_regressed_and_named(
    name: str, changed: Callable[[Callable[[Path], object]], Pair]
) -> None:
    change, expected = PLANTED[name]
    pair = changed(change)
    result = check(pair)
    assert result.verdict is Verdict.REGRESSED
    assert parts(result) == expected
    assert pair.rechecked == 1
    for one in result.differences:
        assert one.part in failure_text([result])
        assert one.original != one.compressed
        assert one.why_it_matters
    names = {one.partition(".")[0] for one in expected}
    assert check(pair, allow=sorted(names)).verdict is Verdict.PRESERVED


def saved_again(directory: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    untyped: tuple[Any, ...] = (AutoConfig, AutoTokenizer, GenerationConfig)
    for kind in untyped:
        kind.from_pretrained(directory).save_pretrained(directory)


def other_layout(directory: Path) -> None:
    """The template inside the tokenizer's config, keys in another order, notes of a version."""
    template = directory / "chat_template.jinja"
    text = template.read_text("utf-8")
    template.unlink()
    edit_json(
        "tokenizer_config.json", lambda data: data.update(chat_template=text, name_or_path="x/y")
    )(directory)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = directory / name
        data = json.loads(path.read_text("utf-8"))
        data["transformers_version"] = "4.0.0"
        path.write_text(json.dumps(dict(reversed(list(data.items())))), "utf-8")


@pytest.mark.parametrize(
    "change",
    [
        saved_again,
        other_layout,
        edit_template(lambda text: "{# the template of the tiny model #}" + text + "\n"),
        edit_json("generation_config.json", lambda data: data.update(eos_token_id=2, top_k=50)),
        lambda directory: (directory / "generation_config.json").unlink(),
    ],
    ids=["saved again", "other layout", "a comment", "defaults written out", "left to the config"],
)
def test_what_changes_nothing_is_preserved(
    change: Callable[[Path], object], changed: Callable[[Callable[[Path], object]], Pair]
) -> None:
    result = check(changed(change))
    assert result.differences == ()
    assert result.verdict is Verdict.PRESERVED
    assert "6 conversations compared" in result.summary
    assert result.confidence == 1.0


def test_an_allowed_part_is_told_and_the_others_still_count(
    changed: Callable[[Callable[[Path], object]], Pair],
) -> None:
    pair = changed(PLANTED["sampling"][0])
    result = check(pair, allow="generation_config.temperature")
    assert result.verdict is Verdict.REGRESSED
    assert parts(result) == {"generation_config.do_sample"}
    assert "Allowed to differ: generation_config.temperature: 1.0 -> 1.5" in result.notes
    whole = check(pair, allow=["generation_config"])
    assert whole.verdict is Verdict.PRESERVED
    assert "but for 2 that are allowed" in whole.summary


def test_the_longest_text_is_shown_and_does_not_count(
    changed: Callable[[Callable[[Path], object]], Pair],
) -> None:
    pair = changed(
        edit_json("tokenizer_config.json", lambda data: data.update(model_max_length=2048))
    )
    result = check(pair)
    assert result.verdict is Verdict.PRESERVED
    assert any("model_max_length is None in the original and 2048 here" in n for n in result.notes)


def test_a_derived_variant_has_the_same_files(original: Path) -> None:
    recipe = make_recipe("quantize", method="cast", dtype="bfloat16")
    pair = pair_of(original, original, recipe=recipe)
    result = check(pair)
    assert result.verdict is Verdict.PRESERVED
    assert "the same files for both models" in result.summary
    assert pair.rechecked == 1


def test_a_gguf_file_that_was_converted_from_the_original(original: Path, tmp_path: Path) -> None:
    """The planted fault of the tiny file is that it asks for a token that the template writes."""
    write_tiny_gguf(tmp_path / "tiny.gguf")
    arm = make_arm(tmp_path, variant="q8", files=staged(tmp_path, entry="tiny.gguf"))
    result = check(Pair(make_arm(original), arm))
    assert "added_by_tokenizer" in parts(result)
    assert not parts(result) & {"chat_template", "rendering", "vocabulary", "token_ids", "decoding"}
    assert "tokenizer.merges" not in parts(result)
    other = check(Pair(make_arm(original), arm), allow=["added_by_tokenizer", "settings"])
    assert other.verdict is Verdict.PRESERVED, other.differences


def test_another_runtime_is_asked_for_its_own_tokens(original: Path, tmp_path: Path) -> None:
    class Engine:
        def tokenize(self, text: str) -> list[int]:
            return [1, 2, 3]

    class Model:
        engine = Engine()

    arm = make_arm(original, variant="q8", runtime=Runtime("llama-cpp", {}))
    result = check(Pair(make_arm(original), arm, compressed=Model()))
    assert parts(result) == {"token_ids"}


def test_a_served_model_shows_nothing(original: Path) -> None:
    pin = EndpointPin("http://localhost:8000/v1", "tiny")
    served = Served(pin)
    files = NoFiles("tiny-api", pin, lambda: None)
    pair = Pair(make_arm(original), Arm(model="tiny", variant="api", files=files, served=served))
    result = check(pair)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "tiny-api is served" in result.summary
    assert "'source'" in result.next_step


def with_template(directory: Path, text: str) -> Path:
    tokenizer = tokenizer_of()
    tokenizer.chat_template = text
    save_files(directory, tokenizer)
    return directory


def test_templates_that_render_nothing_were_not_compared(tmp_path: Path) -> None:
    """Planted: both refuse every conversation, in the same words."""
    text = "{{ raise_exception('no') }}"
    first, second = (with_template(tmp_path / name, text) for name in ("first", "second"))
    (second / "generation_config.json").write_text((first / "generation_config.json").read_text())
    (second / "of_another_tree.txt").write_text("x", "utf-8")
    result = check(pair_of(first, second))
    assert result.verdict is Verdict.NOT_MEASURED
    assert "neither template renders any of 6" in result.summary
    assert "compsec pin" in result.next_step


def test_conversations_that_both_templates_refuse_do_not_count_as_compared(tmp_path: Path) -> None:
    text = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        f"{CHAT_TEMPLATE}"
    )
    first, second = (with_template(tmp_path / name, text) for name in ("first", "second"))
    (second / "of_another_tree.txt").write_text("x", "utf-8")
    result = check(pair_of(first, second))
    assert result.verdict is Verdict.PRESERVED
    assert "3 conversations compared" in result.summary
    assert any("3 conversations are rendered by neither template" in one for one in result.notes)


def test_no_template_at_all_is_no_difference(tmp_path: Path) -> None:
    first, second = (with_template(tmp_path / name, "") for name in ("first", "second"))
    (second / "of_another_tree.txt").write_text("x", "utf-8")
    result = check(pair_of(first, second))
    assert result.verdict is Verdict.PRESERVED
    assert "Neither model has a chat template." in result.notes
    assert "0 conversations compared" in result.summary


def test_the_adapters_own_tokenizer_is_told(original: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}", "utf-8")
    recipe = make_recipe("quantize", method="cast", dtype="bfloat16")
    pair = pair_of(original, original, recipe=recipe, compressed_adapter=staged(tmp_path))
    result = check(pair)
    assert result.verdict is Verdict.PRESERVED
    assert any("comes with tokenizer_config.json; not read here" in note for note in result.notes)


def test_files_that_make_no_tokenizer_are_a_clear_error(
    changed: Callable[[Callable[[Path], object]], Pair],
) -> None:
    pair = changed(lambda directory: (directory / "tokenizer.json").write_text("{", "utf-8"))
    with pytest.raises(LoadError, match="tiny-variant: tokenizer, template or generation config"):
        check_template_unchanged(pair)  # type: ignore[arg-type]
    assert pair.rechecked == 1


def test_files_that_changed_meanwhile_are_an_integrity_error(original: Path) -> None:
    pair = pair_of(original, original)
    pair.fault = IntegrityError("other bytes")
    with pytest.raises(IntegrityError):
        check_template_unchanged(pair)  # type: ignore[arg-type]


def test_the_table_counts_the_parts(changed: Callable[[Callable[[Path], object]], Pair]) -> None:
    result = check(changed(PLANTED["sampling"][0]))
    text = "\n".join(line.text for line in table([result], 200))
    assert "2 parts differ" in text
    assert "REGRESSED" in text


def test_a_template_is_compared_as_a_program() -> None:
    assert same_program("a{# x #}{{ b }}", "a{{b}}")
    assert not same_program("a{{ b }}", "a {{ b }}")
    assert not same_program("{% if %}", "{% if  %}"), "what cannot be parsed is only itself"
    tag = "{% generation %}{{ x }}{% endgeneration %}"
    assert same_program(tag, tag.replace("{{ x }}", "{{x}}"))
    assert first_lines("a\nb\nc", "a\nB\nc") == ("b", "B")
    assert first_lines("a\nc", "a\nb\nc\nd") == (None, "b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"allow": "chat_templates"}, "did you mean 'chat_template'"),
        ({"allow": ["generation.temperature"]}, "is no part"),
        ({"allow": 3}, "allow=3"),
        ({"variants": 3}, "variants=3"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        template_unchanged_arguments(**arguments)


def test_arguments_as_the_user_would_write_them() -> None:
    arguments = template_unchanged_arguments(allow="settings", variants="nf4")
    assert arguments.to_json() == {"allow": ["settings"], "models": None, "variants": ["nf4"]}
    assert arguments.margin == 0
    assert arguments.allows("settings.padding_side")
    assert not arguments.allows("token_ids")
