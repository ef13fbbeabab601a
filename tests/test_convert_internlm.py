"""InternLM, InternLM2, InternLM3 and Skywork through the front door, against the published equations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from original import (
    SENTENCE,
    causal,
    checkpoint,
    logits,
    rms_norm,
    sentencepiece_file,
    trains_and_generates,
    turned_halves,
)
from torch.nn.functional import linear, silu
from transformers import AutoModelForCausalLM

from swift.model.load import load_model, load_tokenizer, targets

CONFIG: dict[str, Any] = {
    "auto_map": {"AutoModelForCausalLM": "modeling_internlm.InternLMForCausalLM"},
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "vocab_size": 64,
}
FIRST = {**CONFIG, "architectures": ["InternLMForCausalLM"], "model_type": "internlm", "bias": True}
SECOND = {
    **CONFIG,
    **{"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False},
    **{"num_key_value_heads": 2, "rope_theta": 1000000, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
}
THIRD = {
    **CONFIG,
    **{"architectures": ["InternLM3ForCausalLM"], "model_type": "internlm3", "bias": False, "qkv_bias": False},
    **{"num_key_value_heads": 2, "head_dim": 8, "rope_theta": 50000000},
}
SKYWORK = {**CONFIG, "architectures": ["SkyworkForCausalLM"], "model_type": "skywork", "rope_theta": 10000}


def llama_named(folder: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The layout of the first InternLM, of InternLM3 and of Skywork: Llama's names, a bias where `bias` says so."""
    few = 8 * config.get("num_key_value_heads", 4)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (64, 32),
        "model.norm.weight": (32,),
        "lm_head.weight": (64, 32),
    }
    for layer in range(2):
        own: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (32,),
            "post_attention_layernorm.weight": (32,),
            "self_attn.rotary_emb.inv_freq": (4,),
            "mlp.gate_proj.weight": (48, 32),
            "mlp.up_proj.weight": (48, 32),
            "mlp.down_proj.weight": (32, 48),
        }
        for name, wide in (("q_proj", 32), ("k_proj", few), ("v_proj", few), ("o_proj", 32)):
            own[f"self_attn.{name}.weight"] = (wide, 32)
            if config.get("bias"):
                own[f"self_attn.{name}.bias"] = (wide,)
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in own.items()}
    return checkpoint(folder, config, shapes)


def expected_llama(weights: dict[str, torch.Tensor], config: dict[str, Any]) -> torch.Tensor:
    frequencies = config.get("rope_theta", 10000) ** (-torch.arange(0, 8, 2) / 8)
    x = weights["model.embed_tokens.weight"][SENTENCE]
    for layer in range(2):
        own = {name.partition(f".layers.{layer}.")[2]: tensor for name, tensor in weights.items()}
        h = rms_norm(x, own["input_layernorm.weight"], 1e-6)
        q, k, v = (
            linear(h, own[f"self_attn.{name}_proj.weight"], own.get(f"self_attn.{name}_proj.bias")).unflatten(
                -1, (-1, 8)
            )
            for name in "qkv"
        )
        heads = causal(turned_halves(q, frequencies), turned_halves(k, frequencies), v)
        x = x + linear(heads, own["self_attn.o_proj.weight"], own.get("self_attn.o_proj.bias"))
        h = rms_norm(x, own["post_attention_layernorm.weight"], 1e-6)
        gated = silu(linear(h, own["mlp.gate_proj.weight"])) * linear(h, own["mlp.up_proj.weight"])
        x = x + linear(gated, own["mlp.down_proj.weight"])
    return linear(rms_norm(x, weights["model.norm.weight"], 1e-6), weights["lm_head.weight"])


def second(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.tok_embeddings.weight": (64, 32),
        "model.norm.weight": (32,),
        "output.weight": (64, 32),
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}attention_norm.weight": (32,),
            f"{prefix}attention.wqkv.weight": (64, 32),
            f"{prefix}attention.wo.weight": (32, 32),
            f"{prefix}ffn_norm.weight": (32,),
            f"{prefix}feed_forward.w1.weight": (48, 32),
            f"{prefix}feed_forward.w3.weight": (48, 32),
            f"{prefix}feed_forward.w2.weight": (32, 48),
        }
    return checkpoint(folder, {**SECOND, **changes}, shapes)


def expected_second(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """`wqkv` gives, for each of two groups, two queries, a key and a value of width 8."""
    frequencies = 1e6 ** (-torch.arange(0, 8, 2) / 8)
    x = weights["model.tok_embeddings.weight"][SENTENCE]
    for layer in range(2):
        own = {name.partition(f".layers.{layer}.")[2]: tensor for name, tensor in weights.items()}
        h = rms_norm(x, own["attention_norm.weight"], 1e-6)
        q1, q2, k1, v1, q3, q4, k2, v2 = linear(h, own["attention.wqkv.weight"]).split(8, dim=-1)
        q, k, v = (torch.stack(parts, dim=2) for parts in ([q1, q2, q3, q4], [k1, k2], [v1, v2]))
        heads = causal(turned_halves(q, frequencies), turned_halves(k, frequencies), v)
        x = x + linear(heads, own["attention.wo.weight"])
        h = rms_norm(x, own["ffn_norm.weight"], 1e-6)
        gated = silu(linear(h, own["feed_forward.w1.weight"])) * linear(h, own["feed_forward.w3.weight"])
        x = x + linear(gated, own["feed_forward.w2.weight"])
    return linear(rms_norm(x, weights["model.norm.weight"], 1e-6), weights["output.weight"])


@pytest.mark.parametrize("config", [FIRST, {**FIRST, "bias": False}, THIRD, SKYWORK], ids=["1", "20b", "3", "skywork"])
def test_the_logits_are_those_of_the_published_equations(tmp_path: Path, config: dict[str, Any]) -> None:
    weights = llama_named(tmp_path, config)
    made = logits(load_model(tmp_path, device="cpu"))
    torch.testing.assert_close(made, expected_llama(weights, config), rtol=1e-4, atol=1e-4)


def test_the_logits_of_internlm2_are_those_of_the_published_equations(tmp_path: Path) -> None:
    weights = second(tmp_path)
    made = logits(load_model(tmp_path, device="cpu"))
    torch.testing.assert_close(made, expected_second(weights), rtol=1e-4, atol=1e-4)


def test_dynamic_rope_widens_the_base_beyond_the_trained_length(tmp_path: Path) -> None:
    weights = second(tmp_path, max_position_embeddings=4, rope_theta=1e6 / (2 * 8 / 4 - 1) ** (8 / 6))
    made = logits(load_model(tmp_path, device="cpu"))
    torch.testing.assert_close(made, expected_second(weights), rtol=1e-4, atol=1e-4)


def test_the_first_internlm_s_later_revisions_say_their_rope_in_rotary(tmp_path: Path) -> None:
    config = {**FIRST, "rotary": {"base": 50000, "type": "dynamic"}}
    weights = llama_named(tmp_path, config)
    made = logits(load_model(tmp_path, device="cpu"))
    torch.testing.assert_close(made, expected_llama(weights, {"rope_theta": 50000}), rtol=1e-4, atol=1e-4)


def test_internlm_trains_and_generates(tmp_path: Path) -> None:
    llama_named(tmp_path, FIRST)
    trains_and_generates(tmp_path, ["q_proj", "k_proj", "v_proj"])


def test_internlm2_trains_and_generates_with_the_modules_that_wqkv_became(tmp_path: Path) -> None:
    second(tmp_path)
    renamed = list(targets(tmp_path, ("wqkv", "wo", "w2")))
    assert renamed == ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
    trains_and_generates(tmp_path, renamed)


@pytest.mark.parametrize("family", ["1", "2"])
def test_what_is_saved_is_a_llama_that_transformers_reads(tmp_path: Path, family: str) -> None:
    if family == "1":
        wanted = expected_llama(llama_named(tmp_path / "a", FIRST), FIRST)
    else:
        wanted = expected_second(second(tmp_path / "a"))
    load_model(tmp_path / "a", device="cpu").save_pretrained(tmp_path / "b")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert type(again).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(again), wanted, rtol=1e-4, atol=1e-4)


def test_a_bias_that_llama_cannot_express_is_named(tmp_path: Path) -> None:
    llama_named(tmp_path, {**THIRD, "qkv_bias": True})
    with pytest.raises(ValueError, match="qkv_bias"):
        load_model(tmp_path, device="cpu")


def test_a_weight_of_another_shape_is_named(tmp_path: Path) -> None:
    llama_named(tmp_path, {**FIRST, "intermediate_size": 48})
    config = {**FIRST, "intermediate_size": 40}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="down_proj"):
        load_model(tmp_path, device="cpu")


# The tokenizer ----------------------------------------------------------------------------------------------------


def test_chat_marks_take_the_place_of_pieces_kept_free_for_them(tmp_path: Path) -> None:
    second(tmp_path)
    pieces = sentencepiece_file(tmp_path / "tokenizer.model", ["▁hello", "▁there", "[UNUSED]"], prefix=False)
    free = pieces.index("[UNUSED]")
    marks = {str(free): {"content": "<|im_start|>"}, str(len(pieces)): {"content": "<|plugin|>"}}
    settings = {"added_tokens_decoder": marks, "add_bos_token": True, "eos_token": "</s>", "chat_template": "{{ 1 }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(tmp_path)
    hello = pieces.index("▁hello")
    assert tokenizer("<|im_start|> hello<|plugin|>").input_ids == [1, free, hello, len(pieces)]
    assert tokenizer("[UNUSED]").input_ids != [1, free]
    assert tokenizer.chat_template == "{{ 1 }}" and tokenizer.pad_token == "</s>"


def test_text_that_is_in_no_piece_is_written_as_bytes(tmp_path: Path) -> None:
    llama_named(tmp_path, FIRST)
    sentencepiece_file(tmp_path / "tokenizer.model", ["▁hello"])
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer("hello 你\n", add_special_tokens=False).input_ids
    assert ids[-4:] == [3 + byte for byte in "你\n".encode()]
    assert tokenizer.decode(ids) == "hello 你\n"


@pytest.mark.parametrize(
    ("content", "problem"), [(b"\x0a\x05abc", "damaged"), (b"", "not a Sentence"), (None, "missing")]
)
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    llama_named(tmp_path, FIRST)
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        load_tokenizer(tmp_path)
