"""Grouped-query attention for CPUs as two batched products that never copy key heads. Knows no layer.

transformers' `eager` and `sdpa` repeat every key and value head for the query heads that share it. On CPUs that copy,
and SDPA's backward pass, cost more than the products. Registered with transformers' attention interface as `NAME`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from swift.model.decoder_layers import FAMILIES

NAME = "grouped"
MODEL_TYPES = (*FAMILIES, "glm", "starcoder2", "stablelm", "olmo2")
"""A configuration's `model_type`: families whose attention is two products and an additive mask, without softcapping
or attention sinks."""


def grouped(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """softmax(Q K' x scaling + mask) V (arXiv 1706.03762), H query heads over K key heads (GQA, arXiv 2305.13245).

    `attention_mask` (B, 1, T, S) is added to the scores. Returns (B, T, H, D).
    """
    (B, H, T, D), (K, S) = query_BHTD.shape, key_BKSD.shape[1:3]
    scale = D**-0.5 if scaling is None else scaling
    query_BKND = (query_BHTD * scale).reshape(B, K, H // K * T, D)
    scores_BKNS = query_BKND @ key_BKSD.transpose(-1, -2)
    if attention_mask is not None:
        scores_BKNS = (scores_BKNS.view(B, K, H // K, T, S) + attention_mask[:, :, None, :, :S]).view(B, K, -1, S)
    probabilities_BKNS = scores_BKNS.softmax(-1, dtype=torch.float32).to(query_BHTD.dtype)
    if dropout:
        probabilities_BKNS = nn.functional.dropout(probabilities_BKNS, dropout, module.training)
    return (probabilities_BKNS @ value_BKSD).reshape(B, H, T, D).transpose(1, 2).contiguous(), None


def suit(model: PreTrainedModel) -> None:
    """Sets this attention on a model on a CPU, if its model type is listed."""
    if model.device.type == "cpu" and model.config.model_type in MODEL_TYPES:
        model.set_attn_implementation(NAME)


AttentionInterface.register(NAME, grouped)
AttentionMaskInterface.register(NAME, eager_mask)
