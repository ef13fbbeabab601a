"""Reads LoRA adapters that PEFT saved, for serving several in one batch. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Lora:
    """`tensors` by PEFT's names without `base_model.model.`, like `model.layers.0.self_attn.q_proj.lora_A.weight`."""

    config: LoraConfig
    tensors: Mapping[str, Tensor]

    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Module name -> A (rank, in) and B (out, rank), times the scale. Raises ValueError for other tensors."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, tensor in self.tensors.items():
            module, _, kind = name.partition(".lora_")
            if kind == "A.weight":
                other = self.tensors.get(f"{module}.lora_B.weight")
                if other is None:
                    raise ValueError(f"the adapter is incomplete: {module}.lora_B.weight is missing")
                found[module] = tensor, other * self._scale(module, len(tensor))
            elif kind != "B.weight":
                raise ValueError(f"the adapter contains {name}, which is no LoRA matrix: merge it instead")
        return found

    def _scale(self, module: str, rank: int) -> float:
        # A pattern of PEFT's is the end of a name, or a regular expression for it
        alpha = next(
            (alpha for end, alpha in self.config.alpha_pattern.items() if re.match(rf"(.*\.)?({end})$", module)),
            self.config.lora_alpha,
        )
        return float(alpha / (rank**0.5 if self.config.use_rslora else rank))


def read_lora(folder: Path | str) -> Lora:
    """Reads an adapter. Raises ValueError if it is incomplete, or of a kind that cannot share a batch with others."""
    from peft import PeftConfig  # slow to import, and needed for adapters alone

    folder = Path(folder).expanduser()
    for file in (folder / CONFIG, folder / WEIGHTS):
        if not file.is_file():
            raise ValueError(f"{folder}: incomplete adapter: {file.name} is missing")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: half-written or damaged adapter ({error})") from None
    if reason := _why_not(config):
        raise ValueError(f"{folder}: {reason}, which cannot be served with other adapters: merge it instead")
    return Lora(config, {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()})


def _why_not(config: PeftConfig) -> str:
    from peft import LoraConfig

    kind = getattr(config.peft_type, "value", config.peft_type)  # a string for types that PEFT's enum lacks
    if kind != "LORA" or not isinstance(config, LoraConfig):
        return f"the adapter is of type {kind}"
    start = config.init_lora_weights
    for wrong, what in (
        (config.use_dora, "the adapter uses DoRA"),
        (config.bias != "none", f"the adapter trained biases ({config.bias})"),
        (config.lora_bias, "the adapter has LoRA biases"),
        (config.modules_to_save, f"the adapter contains trained modules ({', '.join(config.modules_to_save or ())})"),
        (config.trainable_token_indices, "the adapter trained token embeddings"),
        (getattr(config, "target_parameters", None), "the adapter is on parameters, not modules"),  # PEFT 0.17 on
        (config.layer_replication, "the adapter repeats layers"),
        # These change the base weights when the adapter is attached
        (str(start).startswith(("pissa", "olora", "corda", "loftq")), f"the adapter was initialised with {start}"),
    ):
        if wrong:
            return what
    return ""
