"""The table of decoder families: a row of it is all that the fast paths need to compute one more family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_fused import SIZES, lora
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from swift.engine import decoder
from swift.engine.cpu.torch_runner import TorchRunner
from swift.engine.runner import Chunk
from swift.model import grouped_attention
from swift.model.decoder_layers import FAMILIES, Family, causal_lm_class, decoder_layer, window
from swift.tuner.cpu import fused

ONE_MORE = "seed_oss"
"""A model type of Llama's layout that the table does not have."""
TOKENS = [5, 17, 3, 40, 8, 21, 33]


def model_of(model_type: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    dropouts = {"attention_dropout": 0.0, "residual_dropout": 0.0}
    config = CONFIG_MAPPING[model_type](**{**SIZES, **(dropouts if model_type == ONE_MORE else {}), **changes})
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@pytest.fixture
def one_more_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ONE_MORE not in FAMILIES
    monkeypatch.setitem(FAMILIES, ONE_MORE, Family())


def test_without_its_row_no_fast_path_takes_a_family() -> None:
    model = model_of(ONE_MORE)
    assert "SeedOssForCausalLM is not one of" in decoder.why_not(model)
    assert ONE_MORE in fused.why_not(lora(model))


def test_with_its_row_a_family_is_served_as_transformers_computes_it(one_more_row: None) -> None:
    model = model_of(ONE_MORE)
    assert decoder.why_not(model) == ""
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0, -1]
    runner = TorchRunner(model)
    torch.testing.assert_close(runner.step([Chunk(runner.open(), TOKENS)])[0], expected, rtol=2e-4, atol=2e-4)


def test_with_its_row_a_family_is_trained_as_transformers_computes_it(one_more_row: None) -> None:
    tuned = lora(model_of(ONE_MORE))
    assert fused.why_not(tuned) == ""
    tokens = torch.tensor([TOKENS])
    backbone = tuned.get_base_model().get_decoder()
    expected = backbone(tokens).last_hidden_state
    fused.fuse(tuned)
    packed = {"rows": torch.tensor([len(TOKENS)]), "wanted": torch.arange(len(TOKENS))}
    no_mask = torch.empty(1, 1, 0, 0)
    found = backbone(tokens, **packed, attention_mask=no_mask, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_layer_is_read_as_the_family_lays_it_out(model_type: str) -> None:
    model = model_of(model_type)
    layer = decoder_layer(model.model.layers[0], model.config, 0)
    outputs = [sum(linear.out_features for linear in linears) for linears in (layer.qkv, layer.gate_up)]
    assert outputs == [(layer.heads.H + 2 * layer.heads.K) * layer.heads.D, 2 * model.config.intermediate_size]
    assert type(model).__name__ == causal_lm_class(model_type)
    assert model_type in grouped_attention.MODEL_TYPES


def test_windows_are_those_of_the_attention_modules() -> None:
    sizes = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "num_hidden_layers": 3}
    model = model_of("qwen2", **sizes)
    assert [window(model.config, index) for index in range(3)] == [None, 5, 5]
    assert [layer.self_attn.sliding_window for layer in model.model.layers] == [None, 5, 5]
    assert window(model_of("mistral", sliding_window=7).config, 0) == 7
    assert window(model_of("llama").config, 0) is None
