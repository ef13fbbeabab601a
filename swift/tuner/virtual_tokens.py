"""A model with virtual tokens that generates with a KV cache. Knows no tokenizer.

PEFT puts virtual tokens before every input, so also before the next token of a sequence. Here the first `length`
positions of a cache are the virtual ones; the caller sends `length` arbitrary ids before each prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel


def has_virtual_tokens(model: PreTrainedModel | PeftModel) -> bool:
    """Whether the adapter consists of virtual tokens, which `VirtualTokenModel` puts before a prompt."""
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


class VirtualTokenModel(nn.Module):
    """Called like the model inside, with the KV cache in `past_key_values`."""

    def __init__(self, tuned: PeftModel) -> None:
        super().__init__()
        self.tuned = tuned
        self.base = tuned.get_base_model()
        self.config, self.generation_config = self.base.config, self.base.generation_config
        self.length: int = tuned.active_peft_config.num_virtual_tokens
        self._keys = tuned.active_peft_config.peft_type == "PREFIX_TUNING"

    @property
    def device(self) -> torch.device:
        device: torch.device = self.base.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.base.dtype
        return dtype

    def forward(self, input_ids: Tensor, past_key_values: Any, logits_to_keep: int = 0, **options: Any) -> Any:
        before = past_key_values.get_seq_length()
        virtual = max(min(self.length - before, input_ids.shape[1]), 0)
        options |= {"past_key_values": past_key_values, "logits_to_keep": logits_to_keep}
        if not virtual:
            return self.base(input_ids=input_ids, **options)
        rows, rest = len(input_ids), input_ids[:, virtual:]
        if not self._keys:
            prompt = self.tuned.get_prompt(rows)[:, before : before + virtual]
            embeddings = self.base.get_input_embeddings()(rest)
            return self.base(inputs_embeds=torch.cat([prompt.to(embeddings.dtype), embeddings], dim=1), **options)
        if before or not rest.shape[1]:
            raise ValueError(f"the {self.length} virtual positions and the token after them must be in one call")
        for index, layer in enumerate(self.tuned.get_prompt(rows).layers):
            past_key_values.update(layer.keys, layer.values, index)
        return self.base(input_ids=rest, **options)
