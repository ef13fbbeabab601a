"""What families in Llama's layout share: the settings that have Llama's names, and weights kept as they are."""

from __future__ import annotations

from typing import Any

import torch

from swift.model.convert import Original, Tensors

SAME = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "use_cache"),
    *("rope_theta", "rope_scaling", "rope_parameters", "attention_dropout", "tie_word_embeddings"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
)


def settings(original: Original, *more: str) -> dict[str, Any]:
    """The settings that mean the same in every class of Llama's kind, and those named in `more`.

    Where none is written the rotary base is Llama's: classes differ in what they assume.
    """
    base = {} if original.get("rope_parameters") else {"rope_theta": 10000.0}
    return base | {name: original[name] for name in (*SAME, *more) if original.get(name) is not None}


def require(original: Original, **expected: Any) -> None:
    """Raises ValueError for a setting that the class we map onto has no place for."""
    for name, value in expected.items():
        if (found := original.get(name, value)) != value:
            raise ValueError(f"config.json: {name} = {found!r} is not supported for this model (only {value!r} is)")


def kept(name: str, tensor: torch.Tensor) -> Tensors:
    """The weight as it is; the frequencies that old code saved with its layers are computed anew."""
    return [] if name.endswith("rotary_emb.inv_freq") else [(name, tensor)]
