"""A tiny random checkpoint of any generating class of transformers. Knows nothing of swift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny import SIZES, tiny_tokenizer
from tiny_images import FAMILIES, tiny_image_model
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

_MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT = {
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1},
    **{"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4},
}
_HEAD = {"head_dim": 8}
_LINEAR = {
    **{"layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 2, "linear_key_head_dim": 8},
    **{"linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2},
}
_EXPERTS = {**_MOE, "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 4},
    "dbrx": {
        **{"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 2048},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "gemma": _HEAD,
    "gemma2": {**_HEAD, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_HEAD, "query_pre_attn_scalar": 8},
    "glm": _HEAD,
    "glm4": _HEAD,
    "glm4_moe": {**_HEAD, **_LATENT, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048},
    "gpt_oss": {**_HEAD, **_MOE},
    "mamba": {"state_size": 4, "time_step_rank": 4},
    "minicpm3": {**_LATENT, "head_dim": 16},
    "mixtral": _MOE,
    "nemotron_h": {
        **{"layer_types": ["linear_attention", "full_attention", "moe", "mlp"], "num_hidden_layers": 4, **_HEAD},
        **{"mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2, "num_experts_per_tok": 2},
        **{"n_routed_experts": 4, "moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16},
        **{"n_group": 1, "topk_group": 1},
    },
    "qwen2_moe": _EXPERTS,
    "qwen3": _HEAD,
    "qwen3_moe": {**_HEAD, **_EXPERTS},
    "qwen3_next": {**_HEAD, **_EXPERTS, **_LINEAR},
    "qwen3_5": {"text_config": {**_HEAD, **_LINEAR}},
    "qwen3_5_moe": {"text_config": {**_HEAD, **_EXPERTS, **_LINEAR}},
}
"""What a class needs beyond SIZES, by its configuration's `model_type`."""
_TOWER = {
    **{"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 32},
    **{"patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": []},
}


def tiny_checkpoint(path: Path, architecture: str) -> Any:
    """Saves a random two-layer model of the class with a tokenizer under `path`, and gives the model."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    kind = _model_type(architecture)
    if kind in FAMILIES:
        return transformers.AutoModelForImageTextToText.from_pretrained(tiny_image_model(path, kind)).eval()
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {**SIZES, **ids, "vocab_size": len(tokenizer), **SETTINGS.get(kind, {})}
    if text := sizes.pop("text_config", None):
        config = CONFIG_MAPPING[kind](text_config={**sizes, **text}, vision_config=_TOWER, **ids)
    else:
        config = CONFIG_MAPPING[kind](**sizes)
    model = getattr(transformers, architecture)(config).eval()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model


def _model_type(architecture: str) -> str:
    for names in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
        for kind, name in names.items():
            if architecture in ((name,) if isinstance(name, str) else name):
                return kind
    raise ValueError(f"{architecture}: no generating class of transformers")
