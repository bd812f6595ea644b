"""A planted head is found, in any layout; nothing is left behind in the model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.localization import identify_safety_critical_heads
from pytest_compsec.localization.layout import LayoutError, layout_of
from pytest_compsec.localization.log_odds import make_probe, refusal_log_odds
from pytest_compsec.localization.passes import Passes
from pytest_compsec.localization.patching import silenced
from pytest_compsec.localization.subject import at_rest, subject_of
from tests.unit.localization.planted import (
    HEAD,
    LAYER,
    MAKERS,
    OPENING,
    PROMPTS,
    bytes_of,
    copy_of,
    is_untouched,
    planted_gpt2,
    planted_llama,
    tiny,
)
from tests.unit.tiny_model import make_tokenizer

NF4 = {"bits": 4, "type": "nf4", "double_quant": False}


def find(model: tuple[Any, Any], **options: Any) -> Any:
    return identify_safety_critical_heads(model, PROMPTS, openings=[OPENING], **options)


@pytest.mark.parametrize("make", [planted_llama, planted_gpt2])
def test_the_head_that_makes_the_refusal_is_first(make: Any) -> None:
    report = find(make())
    first, second = report.heads[:2]
    assert (first.layer, first.head) == (LAYER, HEAD)
    assert first.change.mean < 5 * second.change.mean < 0
    assert (LAYER, HEAD) in {(one.layer, one.head) for one in report.critical()}
    assert len(report.heads) == 12
    assert len({(one.layer, one.head) for one in report.heads}) == 12
    assert f"{LAYER:>5} {HEAD:>4}" in report.text(top=1)
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["prompts"] == len(PROMPTS)


def test_grouped_heads_share_a_value_but_not_a_slice() -> None:
    """Head 3 reads the planted value too, and writes it nowhere."""
    by_head = {(one.layer, one.head): one for one in find(planted_llama()).heads}
    mate = by_head[LAYER, HEAD + 1]
    assert mate.key_value_head == by_head[LAYER, HEAD].key_value_head == 1
    assert abs(mate.change.mean) < 0.2 * abs(by_head[LAYER, HEAD].change.mean)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_planted_head_is_found_in_a_quantized_model(bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    from pytest_compsec.compression import bitsandbytes

    module, tokenizer = planted_llama()
    module = bitsandbytes.apply(module, NF4 if bits == 4 else {"bits": 8}, "cpu")
    first = find((module, tokenizer), layers=[LAYER]).heads[0]
    assert (first.layer, first.head) == (LAYER, HEAD)


@pytest.mark.parametrize("name", list(MAKERS))
def test_silencing_a_head_is_having_no_weights_for_it(name: str) -> None:
    """Against weights set to zero by hand, and whether or not earlier layers are computed again."""
    model = tiny(name)
    subject = subject_of((model, make_tokenizer()))
    layout = layout_of(model)
    with at_rest(model):
        probe = make_probe(subject, PROMPTS, [OPENING], batch_size=4)
        passes = Passes(model, [(one.name, one.module) for one in layout], probe)
        assert passes.resumes
        assert torch.equal(passes.plain, refusal_log_odds(model, probe))
        for layer in layout:
            attention = layer.attention
            assert attention is not None
            inputs = attention.inputs_of(3)
            other = copy_of(model)
            projection: Any = other.get_submodule(attention.projection_name)
            if name == "gpt2":
                projection.weight.data[inputs] = 0
            else:
                projection.weight.data[:, inputs] = 0
            with silenced(attention.projection, inputs, 4 * attention.head_width, "it"):
                found = passes.log_odds(first=layer.index)
            expected = refusal_log_odds(other, probe)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
            assert not torch.allclose(found, passes.plain, rtol=0, atol=1e-3)


def test_earlier_layers_are_computed_once() -> None:
    report = find(planted_llama())
    # The plain pass, two to try resuming (from layer 1 and 2 of 3), 4 heads in each layer.
    assert report.layer_runs == 3 + (2 + 1) + 4 * (3 + 2 + 1)
    assert report.passes == 1 + 2 + 12


def test_a_model_that_cannot_be_resumed_is_measured_in_full() -> None:
    """Its last layer reads what its first one left behind, beside the hidden state."""
    module, tokenizer = planted_llama()
    plain = find((module, tokenizer))
    seen: list[int] = []

    class Counting(torch.nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, hidden: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(1)
            return self.layer(hidden, *args, **kwargs)

    module.model.layers[0] = Counting(module.model.layers[0])
    module.model.layers[2].register_forward_hook(
        lambda layer, args, output: output * (1.0 if seen and seen.pop() else 0.0)
    )
    report = find((module, tokenizer))
    assert report.layer_runs > plain.layer_runs
    changes = {(one.layer, one.head): one.change.mean for one in report.heads}
    for one in plain.heads:
        assert changes[one.layer, one.head] == pytest.approx(one.change.mean, abs=1e-5)


def test_the_model_is_as_before_also_after_an_error() -> None:
    module, tokenizer = planted_llama()
    before = bytes_of(module)
    module.train()
    module.model.layers[1].eval()

    def stop(done: int, total: int) -> None:
        assert total == 12
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find((module, tokenizer), progress=stop)
    assert is_untouched(module, before)
    assert module.training
    assert not module.model.layers[1].training
    find((module, tokenizer), layers=[2])
    assert is_untouched(module, before)


def test_an_error_inside_a_pass_leaves_nothing_behind() -> None:
    module, tokenizer = planted_llama()
    before = bytes_of(module)
    calls = 0

    def fail(layer: Any, args: Any, output: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise RuntimeError("broken")

    handle = module.model.norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        find((module, tokenizer))
    handle.remove()
    assert is_untouched(module, before)


def test_a_projection_that_is_not_called_is_an_error() -> None:
    class Bypass(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.inner.weight)

    module = Bypass(torch.nn.Linear(4, 4))
    with (
        pytest.raises(MeasurementError, match="without calling o_proj"),
        silenced(module.inner, slice(0, 2), 4, "o_proj"),
    ):
        module(torch.ones(1, 4))


def test_logits_that_are_not_numbers_are_an_error() -> None:
    module, tokenizer = planted_llama()
    module.lm_head.weight.data[7] = torch.nan
    with pytest.raises(MeasurementError, match="NaN"):
        find((module, tokenizer))


def test_a_layout_that_is_not_understood_is_said_before_anything_is_computed() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=259, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(LayoutError, match="MambaForCausalLM"):
        find((MambaForCausalLM(config), make_tokenizer()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, "from 0 to 2"),
        ({"layers": []}, "from 0 to 2"),
        ({"openings": []}, "token ids"),
        ({"openings": [259]}, "the model has 259 tokens"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        identify_safety_critical_heads(
            planted_llama(), PROMPTS, **{"openings": [OPENING], **options}
        )


@pytest.mark.parametrize("prompts", [[], "Do it"])
def test_prompts_are_a_list(prompts: Any) -> None:
    with pytest.raises(ValueError, match="prompts must be"):
        identify_safety_critical_heads(planted_llama(), prompts)


def test_a_prompt_that_is_too_long_is_an_error() -> None:
    with pytest.raises(MeasurementError, match=r"prompt 0 is .* 256 positions"):
        identify_safety_critical_heads(planted_llama(), ["x" * 300], openings=[OPENING])


def test_a_model_in_another_program_is_refused() -> None:
    class Elsewhere:
        class arm:  # noqa: N801
            name = "assistant-q4km"

    with pytest.raises(MeasurementError, match="assistant-q4km runs in another program"):
        identify_safety_critical_heads(Elsewhere(), PROMPTS)  # type: ignore[arg-type]
