"""XVERSE, Orion, BlueLM, DeepSeek-MoE, the first Yi and Phi-2 in their original layouts, against their equations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
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
from safetensors.torch import load_file
from tiny import tiny_tokenizer
from torch.nn.functional import gelu, layer_norm, linear, silu

from swift.model.load import load_model, load_tokenizer

Weights = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]
LAYERS = 2
CONFIG: dict[str, Any] = {
    "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "vocab_size": 64,
}


def llama_shapes(keys: int = 32, norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (64, 32), "model.norm.weight": (32,), "lm_head.weight": (64, 32)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}{name}.weight": (32,) for name in norms}
        shapes |= {f"{prefix}self_attn.{letter}_proj.weight": (32, 32) for letter in "qo"}
        shapes |= {f"{prefix}self_attn.{letter}_proj.weight": (keys, 32) for letter in "kv"}
        shapes |= {f"{prefix}self_attn.rotary_emb.inv_freq": (4,)}
        shapes |= gated_shapes(f"{prefix}mlp.", 48)
    return shapes


def gated_shapes(prefix: str, width: int) -> Shapes:
    ends = {f"{prefix}{name}_proj.weight": (width, 32) for name in ("gate", "up")}
    return {**ends, f"{prefix}down_proj.weight": (32, width)}


def gated(weights: Weights, prefix: str, x: torch.Tensor) -> torch.Tensor:
    gate, up, down = (weights[f"{prefix}{name}_proj.weight"] for name in ("gate", "up", "down"))
    return linear(silu(linear(x, gate)) * linear(x, up), down)


def attended(weights: Weights, prefix: str, x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    q, k, v = (linear(x, weights[f"{prefix}{letter}_proj.weight"]).unflatten(-1, (-1, 8)) for letter in "qkv")
    return linear(causal(turned_halves(q, turn), turned_halves(k, turn), v), weights[f"{prefix}o_proj.weight"])


def llama(
    weights: Weights,
    turn: torch.Tensor,
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm"),
    x: torch.Tensor | None = None,
) -> torch.Tensor:
    x = weights["model.embed_tokens.weight"][SENTENCE] if x is None else x
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        x = x + attended(weights, f"{prefix}self_attn.", rms_norm(x, weights[f"{prefix}{norms[0]}.weight"], 1e-6), turn)
        x = x + gated(weights, f"{prefix}mlp.", rms_norm(x, weights[f"{prefix}{norms[1]}.weight"], 1e-6))
    return linear(rms_norm(x, weights["model.norm.weight"], 1e-6), weights["lm_head.weight"])


def xverse(folder: Path, **changes: Any) -> Weights:
    own = {"architectures": ["XverseForCausalLM"], "model_type": "xverse"}
    return checkpoint(folder, {**CONFIG, **own, **changes}, llama_shapes())


def test_xverse_is_llama(tmp_path: Path) -> None:
    weights = xverse(tmp_path)
    agrees(tmp_path, llama(weights, frequencies(8)))
    trains_and_generates(tmp_path, ["q_proj", "v_proj"])


@pytest.mark.parametrize("change", [{"max_position_embeddings": 32768}, {"_name_or_path": "xverse/XVERSE-13B-256K"}])
def test_xverse_256k_has_the_base_that_only_its_code_tells(tmp_path: Path, change: dict[str, Any]) -> None:
    weights = xverse(tmp_path, **change)
    agrees(tmp_path, llama(weights, frequencies(8, 500000.0)))


def test_xverse_s_tokenizer_of_an_older_format_is_read(tmp_path: Path) -> None:
    xverse(tmp_path)
    vocabulary = {text: at for at, text in enumerate(["<pad>", "<|startoftext|>", "▁", "a", "b", "▁a"])}
    old = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": False}
    state = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    state |= {"pre_tokenizer": old, "post_processor": None, "decoder": old}
    state |= {"model": {"type": "BPE", "vocab": vocabulary, "merges": ["▁ a"]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("b a").input_ids == [4, 5]
    assert tokenizer.decode([4, 5]) == "b a"


def orion(folder: Path) -> Weights:
    shapes = llama_shapes()
    shapes |= {name.replace(".weight", ".bias"): shape for name, shape in shapes.items() if "norm" in name}
    own = {"architectures": ["OrionForCausalLM"], "model_type": "orion", "num_key_value_heads": 4, "rms_norm_eps": 1e-5}
    return checkpoint(folder, {**CONFIG, **own}, shapes)


def test_orion_norms_by_layernorm(tmp_path: Path) -> None:
    weights = orion(tmp_path)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (32,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    x = weights["model.embed_tokens.weight"][SENTENCE]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        x = x + attended(weights, f"{prefix}self_attn.", norm(f"{prefix}input_layernorm", x), frequencies(8))
        x = x + gated(weights, f"{prefix}mlp.", norm(f"{prefix}post_attention_layernorm", x))
    agrees(tmp_path, linear(norm("model.norm", x), weights["lm_head.weight"]))
    trains_and_generates(tmp_path, ["q_proj", "v_proj"])


@pytest.mark.parametrize("write", [xverse, orion])
def test_what_is_saved_has_the_original_s_names(tmp_path: Path, write: Callable[[Path], Weights]) -> None:
    weights = write(tmp_path)
    load_model(tmp_path, device="cpu").save_pretrained(tmp_path / "saved")
    names = load_file(tmp_path / "saved" / "model.safetensors").keys()
    assert set(names) == {name for name in weights if not name.endswith("inv_freq")}


def bluelm(folder: Path, **changes: Any) -> Weights:
    shapes = llama_shapes() | {"model.embed_layer_norm.weight": (32,), "model.embed_layer_norm.bias": (32,)}
    own = {"architectures": ["BlueLMForCausalLM"], "model_type": "BlueLM", "use_stable_embedding": True}
    return checkpoint(folder, {**CONFIG, **own, **changes}, shapes)


def bluelm_expected(weights: Weights, turn: torch.Tensor) -> torch.Tensor:
    scale, shift = weights["model.embed_layer_norm.weight"], weights["model.embed_layer_norm.bias"]
    x = layer_norm(weights["model.embed_tokens.weight"][SENTENCE], (32,), scale, shift, 1e-6)
    return llama(weights, turn, x=x)


def test_bluelm_norms_its_embeddings(tmp_path: Path) -> None:
    weights = bluelm(tmp_path)
    agrees(tmp_path, bluelm_expected(weights, frequencies(8)))
    trains_and_generates(tmp_path, ["q_proj", "v_proj"])


def test_bluelm_32k_mixes_its_frequencies(tmp_path: Path) -> None:
    weights = bluelm(tmp_path, rope_scaling={"type": "ntkmixed", "factor": 16.0, "power": 0.625})
    slope = math.log(16) / 4**0.625
    divisors = torch.tensor([math.exp(slope * m**0.625) for m in (1, 2, 3, 4)])
    assert divisors[-1] == pytest.approx(16)
    agrees(tmp_path, bluelm_expected(weights, frequencies(8) / divisors))
    assert load_model(tmp_path, device="cpu").config.max_position_embeddings == 128 * 16


def test_bluelm_without_its_norm_is_an_error(tmp_path: Path) -> None:
    own = {"architectures": ["BlueLMForCausalLM"], "use_stable_embedding": True}
    checkpoint(tmp_path, {**CONFIG, **own}, llama_shapes())
    with pytest.raises(ValueError, match="embed_layer_norm"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("architecture", ["OrionForCausalLM", "BlueLMForCausalLM", "YiForCausalLM"])
def test_a_sentencepiece_model_is_enough_for_the_tokenizer(tmp_path: Path, architecture: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "architectures": [architecture]}), encoding="utf-8")
    pieces = sentencepiece_file(tmp_path / "tokenizer.model", ["▁hello"])
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("hello").input_ids == [pieces.index("▁hello")]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def deepseek(folder: Path) -> Weights:
    shapes = llama_shapes()
    for name in [name for name in shapes if name.startswith("model.layers.1.mlp.")]:
        del shapes[name]
    prefix = "model.layers.1.mlp."
    shapes |= {f"{prefix}gate.weight": (6, 32), **gated_shapes(f"{prefix}shared_experts.", 2 * 16)}
    for expert in range(6):
        shapes |= gated_shapes(f"{prefix}experts.{expert}.", 16)
    own = {
        "architectures": ["DeepseekForCausalLM"],
        "model_type": "deepseek",
        "num_key_value_heads": 4,
        "attention_bias": False,
        "aux_loss_alpha": 0.001,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 16,
        "moe_layer_freq": 1,
        "n_routed_experts": 6,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_experts_per_tok": 3,
        "scoring_func": "softmax",
        "rope_theta": 10000,
    }
    return checkpoint(folder, {**CONFIG, **own}, shapes)


def test_deepseek_moe_adds_its_shared_experts_unscaled(tmp_path: Path) -> None:
    weights = deepseek(tmp_path)

    def experts(x: torch.Tensor) -> torch.Tensor:
        prefix = "model.layers.1.mlp."
        chances = linear(x, weights[f"{prefix}gate.weight"]).softmax(-1)
        chosen = chances >= chances.topk(3, dim=-1).values[..., -1:]
        each = torch.stack([gated(weights, f"{prefix}experts.{expert}.", x) for expert in range(6)], dim=-1)
        return (each * (chances * chosen).unsqueeze(-2)).sum(-1) + gated(weights, f"{prefix}shared_experts.", x)

    x = weights["model.embed_tokens.weight"][SENTENCE]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        h = rms_norm(x, weights[f"{prefix}input_layernorm.weight"], 1e-6)
        x = x + attended(weights, f"{prefix}self_attn.", h, frequencies(8))
        h = rms_norm(x, weights[f"{prefix}post_attention_layernorm.weight"], 1e-6)
        x = x + (experts(h) if layer else gated(weights, f"{prefix}mlp.", h))
    agrees(tmp_path, linear(rms_norm(x, weights["model.norm.weight"], 1e-6), weights["lm_head.weight"]))
    trains_and_generates(tmp_path, ["q_proj", "v_proj"])


def test_deepseek_s_byte_level_vocabulary_keeps_its_spaces(tmp_path: Path) -> None:
    deepseek(tmp_path)
    tiny = tiny_tokenizer()
    tiny.save_pretrained(tmp_path)
    settings = {
        "tokenizer_class": "LlamaTokenizerFast",
        "bos_token": {"content": "<|im_start|>"},
        "add_bos_token": True,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert load_tokenizer(tmp_path)("a b").input_ids == [1, *tiny("a b").input_ids]


def test_the_first_yi_is_llama_under_other_names(tmp_path: Path) -> None:
    own = {"architectures": ["YiForCausalLM"], "model_type": "Yi", "num_key_value_heads": 2, "rope_theta": 5000000.0}
    weights = checkpoint(tmp_path, {**CONFIG, **own}, llama_shapes(keys=16, norms=("ln1", "ln2")))
    agrees(tmp_path, llama(weights, frequencies(8, 5000000.0), norms=("ln1", "ln2")))
    trains_and_generates(tmp_path, ["q_proj", "v_proj"])


def phi(folder: Path) -> Weights:
    shapes: Shapes = {"transformer.embd.wte.weight": (64, 32), "lm_head.linear.weight": (64, 32)}
    shapes |= {"lm_head.linear.bias": (64,), "lm_head.ln.weight": (32,), "lm_head.ln.bias": (32,)}
    for layer in range(LAYERS):
        for name, shape in {"ln": (), "mixer.Wqkv": (96,), "mixer.out_proj": (32,), "mlp.fc1": (128,)}.items():
            shapes[f"transformer.h.{layer}.{name}.weight"] = (*shape, 32)
            shapes[f"transformer.h.{layer}.{name}.bias"] = shape or (32,)
        shapes |= {f"transformer.h.{layer}.mlp.fc2.weight": (32, 128), f"transformer.h.{layer}.mlp.fc2.bias": (32,)}
    config = {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi-msft",
        "auto_map": {"AutoModelForCausalLM": "modeling_phi.PhiForCausalLM"},
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-05,
        "n_embd": 32,
        "n_head": 4,
        "n_head_kv": None,
        "n_inner": None,
        "n_layer": LAYERS,
        "n_positions": 128,
        "rotary_dim": 4,
        "tie_word_embeddings": False,
        "vocab_size": 64,
    }
    return checkpoint(folder, config, shapes)


def test_the_first_phi_2_is_phi_under_other_names(tmp_path: Path) -> None:
    weights = phi(tmp_path)
    x = weights["transformer.embd.wte.weight"][SENTENCE]
    for layer in range(LAYERS):
        own = {name.partition(f".h.{layer}.")[2]: tensor for name, tensor in weights.items()}
        h = layer_norm(x, (32,), own["ln.weight"], own["ln.bias"], 1e-5)
        mixed = linear(h, own["mixer.Wqkv.weight"], own["mixer.Wqkv.bias"])
        q, k, v = mixed.unflatten(-1, (3, 4, 8)).unbind(2)
        q, k = (torch.cat([turned_halves(part[..., :4], frequencies(4)), part[..., 4:]], -1) for part in (q, k))
        attention = linear(causal(q, k, v), own["mixer.out_proj.weight"], own["mixer.out_proj.bias"])
        inner = gelu(linear(h, own["mlp.fc1.weight"], own["mlp.fc1.bias"]), approximate="tanh")
        x = x + attention + linear(inner, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
    x = layer_norm(x, (32,), weights["lm_head.ln.weight"], weights["lm_head.ln.bias"], 1e-5)
    agrees(tmp_path, linear(x, weights["lm_head.linear.weight"], weights["lm_head.linear.bias"]))
    trains_and_generates(tmp_path, ["q_proj", "v_proj"])


def agrees(folder: Path, wanted: torch.Tensor) -> None:
    """The loaded model's logits, and those of its saved copy, which loads by transformers alone, are `wanted`."""
    model = load_model(folder, device="cpu")
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-4)
    model.save_pretrained(folder / "saved")
    again = load_model(folder / "saved", device="cpu")
    assert type(again).__module__.startswith("transformers.")
    torch.testing.assert_close(logits(again), wanted, rtol=1e-4, atol=1e-4)
