"""The shape of a decoder, from its configuration: what decides its speed. Computes nothing."""

from __future__ import annotations

import copy
from typing import Any

NAMES = (
    *("model_type", "num_hidden_layers", "hidden_size", "intermediate_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window"),
)


def shape_fields(config: Any) -> dict[str, object]:
    """The fields that decide the speed, as JSON values."""
    return {name: getattr(config, name, None) for name in NAMES}


def layer_weights(config: Any) -> int:
    """The number of weights in the linear layers of a decoder layer: q, k, v, o, gate, up and down."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)
    return int(config.hidden_size * (heads * head + 3 * config.intermediate_size))


def shortened(config: Any, layers: int) -> Any:
    """The configuration of a model with fewer layers and a tiny vocabulary."""
    few = copy.deepcopy(config)
    if getattr(few, "layer_types", None):
        few.layer_types = few.layer_types[:layers]
    few.num_hidden_layers, few.vocab_size = layers, 64
    few.pad_token_id = few.bos_token_id = few.eos_token_id = None
    return few
