"""DeepSeek-MoE (the first, without latent attention) -> Qwen2-MoE. Knows no template.

Both route among small experts by softmax and add a shared expert. Qwen2-MoE scales the shared expert by a sigmoid gate:
a gate of zeros makes it one half, which a doubled output matrix compensates exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, Qwen2MoeConfig

from swift.model.convert import Original, Tensors, _llama, _tokenizer_json, named

TARGETS: Mapping[str, tuple[str, ...]] = {}
SAVES = (
    "Saved as Qwen2-MoE (Qwen2MoeForCausalLM), which transformers and vLLM read; DeepSeek's own Python code does not."
)


def matches(original: Original) -> bool:
    return named(original, "DeepseekForCausalLM")


def config(original: Original) -> Qwen2MoeConfig:
    _llama.require(original, attention_bias=False, scoring_func="softmax")
    layers, dense = original["num_hidden_layers"], original["first_k_dense_replace"]
    every, width = original.get("moe_layer_freq", 1), original["moe_intermediate_size"]
    return Qwen2MoeConfig(
        **_llama.settings(original, "rms_norm_eps", "norm_topk_prob", "num_experts_per_tok", "moe_intermediate_size"),
        num_experts=original["n_routed_experts"],
        shared_expert_intermediate_size=original["n_shared_experts"] * width,
        mlp_only_layers=[layer for layer in range(layers) if layer < dense or layer % every],
        router_aux_loss_coef=original.get("aux_loss_alpha", 0.001),
        qkv_bias=False,
    )


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    if ".mlp.shared_experts." not in name:
        return _llama.kept(name, tensor)
    renamed = name.replace(".shared_experts.", ".shared_expert.")
    if not name.endswith(".down_proj.weight"):
        return [(renamed, tensor)]
    block = name.partition(".shared_experts.")[0]
    return [(renamed, tensor * 2), (f"{block}.shared_expert_gate.weight", tensor.new_zeros(1, tensor.shape[0]))]


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _tokenizer_json.tokenizer(folder)
