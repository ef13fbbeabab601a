"""MiniCPM's original layout through the front door, against the published equations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from original import (
    SENTENCE,
    causal,
    checkpoint,
    frequencies,
    logits,
    rms_norm,
    sentencepiece_file,
    trains_and_generates,
    turned_halves,
)
from tiny import tiny_tokenizer
from torch.nn.functional import linear, silu

from swift.model.load import load_model, load_tokenizer

LAYERS = 3
CONFIG: dict[str, Any] = {
    "_name_or_path": "openbmb/MiniCPM-2B-sft-fp32",
    "architectures": ["MiniCPMForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM"},
    "model_type": "minicpm",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "vocab_size": 64,
    "scale_emb": 12,
    "dim_model_base": 8,
    "scale_depth": 1.4,
}


def minicpm(folder: Path, head: bool = False, **changes: Any) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, 32), "model.norm.weight": (32,)}
    shapes |= {"lm_head.weight": (64, 32)} if head else {}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}{name}_layernorm.weight": (32,) for name in ("input", "post_attention")}
        shapes |= {f"{prefix}self_attn.{letter}_proj.weight": (32, 32) for letter in "qo"}
        shapes |= {f"{prefix}self_attn.{letter}_proj.weight": (16, 32) for letter in "kv"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (48, 32) for name in ("gate", "up")}
        shapes |= {f"{prefix}mlp.down_proj.weight": (32, 48)}
    return checkpoint(folder, {**CONFIG, **changes}, shapes)


def expected(weights: dict[str, torch.Tensor], head: str = "model.embed_tokens.weight") -> torch.Tensor:
    x = weights["model.embed_tokens.weight"][SENTENCE] * 12
    for layer in range(LAYERS):
        own = {name.partition(f".layers.{layer}.")[2].removesuffix(".weight"): w for name, w in weights.items()}
        h = rms_norm(x, own["input_layernorm"], 1e-5)
        q, k, v = (linear(h, own[f"self_attn.{letter}_proj"]).unflatten(-1, (-1, 8)) for letter in "qkv")
        q, k = turned_halves(q, frequencies(8)), turned_halves(k, frequencies(8))
        x = x + linear(causal(q, k, v), own["self_attn.o_proj"]) * (1.4 / math.sqrt(LAYERS))
        h = rms_norm(x, own["post_attention_layernorm"], 1e-5)
        h = linear(silu(linear(h, own["mlp.gate_proj"])) * linear(h, own["mlp.up_proj"]), own["mlp.down_proj"])
        x = x + h * (1.4 / math.sqrt(LAYERS))
    return linear(rms_norm(x, weights["model.norm.weight"], 1e-5) / (32 / 8), weights[head])


def test_the_logits_are_those_of_the_published_equations(tmp_path: Path) -> None:
    weights = minicpm(tmp_path)
    torch.testing.assert_close(logits(load_model(tmp_path, device="cpu")), expected(weights), rtol=1e-4, atol=1e-4)


def test_a_saved_copy_of_tied_embeddings_is_no_weight_of_its_own(tmp_path: Path) -> None:
    weights = minicpm(tmp_path, head=True)
    model = load_model(tmp_path, device="cpu")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    torch.testing.assert_close(logits(model), expected(weights), rtol=1e-4, atol=1e-4)


def test_an_output_matrix_of_its_own_is_kept(tmp_path: Path) -> None:
    weights = minicpm(tmp_path, head=True, tie_word_embeddings=False)
    made = logits(load_model(tmp_path, device="cpu"))
    torch.testing.assert_close(made, expected(weights, "lm_head.weight"), rtol=1e-4, atol=1e-4)


def test_it_trains_and_generates(tmp_path: Path) -> None:
    minicpm(tmp_path)
    trains_and_generates(tmp_path, ["q_proj", "v_proj"])


def test_what_is_saved_loads_without_conversion_to_the_same_logits(tmp_path: Path) -> None:
    weights = minicpm(tmp_path / "a")
    model = load_model(tmp_path / "a", device="cpu")
    model.save_pretrained(tmp_path / "b")
    again = load_model(tmp_path / "b", device="cpu")
    assert type(again).__name__ == "GraniteForCausalLM"
    torch.testing.assert_close(logits(again), expected(weights), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [{"num_experts": 8}, {"sparse_config": {"topk": 64}}])
def test_a_setting_that_granite_cannot_express_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    minicpm(tmp_path, **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        load_model(tmp_path, device="cpu")


def test_its_sentencepiece_model_is_read(tmp_path: Path) -> None:
    minicpm(tmp_path)
    pieces = sentencepiece_file(tmp_path / "tokenizer.model", ["▁hello"])
    assert load_tokenizer(tmp_path)("hello").input_ids == [1, pieces.index("▁hello")]


def test_its_tokenizer_json_goes_before_the_class_that_the_settings_name(tmp_path: Path) -> None:
    minicpm(tmp_path)
    tiny = tiny_tokenizer()
    tiny.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(
        json.dumps({**settings, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True}), encoding="utf-8"
    )
    made = load_tokenizer(tmp_path)
    assert made("two words").input_ids == [1, *tiny("two words").input_ids]
    assert made.decode(made("two words").input_ids, skip_special_tokens=True) == "two words"
