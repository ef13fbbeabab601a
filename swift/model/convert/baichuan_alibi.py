"""Baichuan 13B and Baichuan2 13B: Llama with ALiBi in place of RoPE, and q, k and v packed into one module.

transformers has no such class, so this file defines one with the original's names and shapes. Only the head of
Baichuan2 is converted (see `baichuan`), and adapters for `W_pack` fit both.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, eager_attention_forward

from swift.model.convert import _llama, baichuan

if TYPE_CHECKING:
    from swift.model.convert import Original

TARGETS: Mapping[str, tuple[str, ...]] = {}
SAVES = (
    "Saved in Baichuan's own layout (BaichuanForCausalLM), which this project reads; with Baichuan's own Python files "
    "put beside it, so do vLLM and those files. Transformers alone does not."
)
weights = baichuan.head


class BaichuanConfig(LlamaConfig):  # type: ignore[misc]  # transformers has no types
    """Llama's settings; `alibi` distinguishes a folder that this project saved from a 7B."""

    model_type = "baichuan"


class PackedAttention(LlamaAttention):  # type: ignore[misc]  # transformers has no types
    """Attention without rotary embedding. The mask contains the distances."""

    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        del self.q_proj, self.k_proj, self.v_proj
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, past_key_values: Cache | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        kwargs.pop("position_embeddings", None)
        heads_BHTD = self.W_pack(hidden_states).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        query, key, value = heads_BHTD.unbind(0)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        output, scores = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.flatten(-2)), scores


class BaichuanModel(LlamaModel):  # type: ignore[misc]  # transformers has no types
    """Llama whose attention scores decrease with distance, by a slope per head (ALiBi, arXiv 2108.12409)."""

    config_class = BaichuanConfig
    _supports_flash_attn = False  # it takes no additive mask
    _supports_flex_attn = False

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = PackedAttention(config, index)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = DynamicCache(config=self.config)
        as_numbers = copy.copy(self.config)
        as_numbers._attn_implementation = "eager"  # an additive mask, whatever attention the layers use
        mask_B1QK = create_causal_mask(
            config=as_numbers,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        return super().forward(
            inputs_embeds=inputs_embeds,
            attention_mask=with_distances(mask_B1QK, past, self.config.num_attention_heads),
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )


class BaichuanForCausalLM(LlamaForCausalLM):  # type: ignore[misc]  # transformers has no types
    config_class = BaichuanConfig
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.model = BaichuanModel(config)
        self.post_init()


AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)


def with_distances(mask_B1QK: Tensor, past: int, heads: int) -> Tensor:
    """The causal mask plus ALiBi's slope x (key position - query position): (B, heads, Q, K).

    Positions count in the padded row, as only differences matter.
    """
    queries, keys = mask_B1QK.shape[-2:]
    places_K = torch.arange(keys, device=mask_B1QK.device)
    distance_QK = (places_K - places_K[past : past + queries, None]).clamp(max=0)
    slope_H11 = torch.tensor(slopes(heads), device=mask_B1QK.device)[:, None, None]
    mask_BHQK = mask_B1QK + (slope_H11 * distance_QK)[None].to(mask_B1QK.dtype)
    return mask_BHQK.clamp(min=torch.finfo(mask_BHQK.dtype).min)  # softmax of a row of -inf is NaN


def slopes(heads: int) -> list[float]:
    """The paper's slopes: powers of 2^(-8/n) for n heads, n a power of 2; others add every second slope of 2n."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * head / power) for head in range(1, power + 1)]
    return first + [2 ** (-4 * head / power) for head in range(1, 2 * (heads - power), 2)]


def matches(original: Original) -> bool:
    return baichuan.named(original) and baichuan.alibi(original)


def config(original: Original) -> BaichuanConfig:
    settings = _llama.settings(original, "rms_norm_eps", "model_max_length", "z_loss_weight")
    length = original.get("model_max_length", 4096)
    return BaichuanConfig(**{**settings, "max_position_embeddings": length, "alibi": True})


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the original, or of a folder that this project saved."""
    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    return baichuan.tokenizer(folder)
