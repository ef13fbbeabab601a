"""Shifted sparse attention (S2-Attn, arXiv 2309.12307) to train on long rows. Knows no LoRA and no trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import flash_attention_mask

NAME = "s2"


def shift_attention(model: PreTrainedModel, group: int) -> None:
    """In training, tokens attend within groups of `group` tokens; for half of the heads the groups are shifted by half.

    Evaluation, and a checkpoint loaded later, attend to all tokens.
    """
    if group < 2 or group % 2:
        raise ValueError(f"--longlora_group_size {group}: must be an even number of tokens")
    kinds = set(getattr(model.config, "layer_types", None) or ()) - {"full_attention"}  # most models name none
    if kinds:
        raise ValueError(f"longlora cannot group layers of type {', '.join(sorted(kinds))}")
    # the mask stays (rows, tokens), True at tokens; None where nothing is padded
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    AttentionInterface.register(NAME, _attention(group))
    model.set_attn_implementation(NAME)


def shifted_group_attention(
    q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, real_BT: Tensor, group: int, **how: Any
) -> Tensor:
    """Causal attention within groups; for the second half of the heads, groups begin half a group earlier.

    Groups do not wrap around: for the shifted heads the first half group is a group of its own, so no token attends to
    a later one.
    """
    half = q_BHTD.shape[1] // 2
    parts = []
    for heads, shift in ((slice(0, half), 0), (slice(half, None), group // 2)):
        q, k, v = q_BHTD[:, heads], k_BHTD[:, heads], v_BHTD[:, heads]
        parts.append(_in_groups(q, k, v, real_BT, group, shift, **how))
    return torch.cat(parts, dim=1)


def _in_groups(q: Tensor, k: Tensor, v: Tensor, real_BT: Tensor, group: int, shift: int, **how: Any) -> Tensor:
    rows, heads, length, width = q.shape
    right = -(length + shift) % group
    groups = (length + shift + right) // group

    def cut(each_BHTD: Tensor) -> Tensor:
        """(rows, heads, tokens, width) -> (rows x groups, heads, group, width)"""
        padded = pad(each_BHTD, (0, 0, shift, right)).view(rows, heads, groups, group, width)
        return padded.transpose(1, 2).reshape(rows * groups, heads, group, width)

    real_NG = pad(real_BT, (shift, right), value=False).reshape(rows * groups, group)
    causal_GG = torch.ones(group, group, dtype=torch.bool, device=q.device).tril()
    # a padded query attends to itself: softmax of a row of -inf is NaN
    itself_GG = torch.eye(group, dtype=torch.bool, device=q.device)
    mask_N1GG = ((causal_GG & real_NG[:, None]) | itself_GG)[:, None]
    out = scaled_dot_product_attention(cut(q), cut(k), cut(v), attn_mask=mask_N1GG, **how)
    joined = out.view(rows, groups, heads, group, width).transpose(1, 2).reshape(rows, heads, groups * group, width)
    return joined[:, :, shift : shift + length]


def _attention(group: int) -> Any:
    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if query.shape[2] != key.shape[2]:
            raise ValueError("shifted sparse attention is for training: it takes no KV cache")
        repeats = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
        real_BT = attention_mask if attention_mask is not None else query.new_ones(query.shape[0], query.shape[2])
        width = group if module.training else query.shape[2] + query.shape[2] % 2
        how = {"dropout_p": dropout, "scale": scaling}
        if module.training:
            out = shifted_group_attention(query, key, value, real_BT.bool(), width, **how)
        else:
            out = _in_groups(query, key, value, real_BT.bool(), width, 0, **how)
        return out.transpose(1, 2).contiguous(), None

    return attend
