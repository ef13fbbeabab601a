"""A LoRA adapter as PEFT saves it, read so that it can run beside others. Knows no model."""

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
    """`tensors`: PEFT's names without their prefix, `model.layers.0.self_attn.q_proj.lora_A.weight` for one."""

    config: LoraConfig
    tensors: Mapping[str, Tensor]

    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Module name -> A (rank, in) and B (out, rank), the scale in B. ValueError for what is no such pair."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, tensor in self.tensors.items():
            module, _, kind = name.partition(".lora_")
            if kind == "A.weight":
                other = self.tensors.get(f"{module}.lora_B.weight")
                if other is None:
                    raise ValueError(f"the adapter is not whole: {module}.lora_B.weight is missing")
                found[module] = tensor, other * self._scale(module, len(tensor))
            elif kind != "B.weight":
                raise ValueError(f"the adapter holds {name}, which is no LoRA product: merge it instead")
        return found

    def _scale(self, module: str, rank: int) -> float:
        # PEFT's patterns are a name's end, or a regular expression for it
        alpha = next(
            (value for end, value in self.config.alpha_pattern.items() if re.match(rf"(.*\.)?({end})$", module)),
            self.config.lora_alpha,
        )
        return float(alpha / (rank**0.5 if self.config.use_rslora else rank))


def read_lora(folder: Path | str) -> Lora:
    """The adapter of a folder. ValueError where it is none, or of a kind that cannot run beside others."""
    from peft import PeftConfig  # who serves no adapter need not wait for it

    folder = Path(folder).expanduser()
    for file in (folder / CONFIG, folder / WEIGHTS):
        if not file.is_file():
            raise ValueError(f"{folder}: not a whole adapter: {file.name} is missing")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: half-written or damaged adapter ({error})") from None
    if reason := _why_not(config):
        raise ValueError(f"{folder}: {reason}, which cannot run beside other adapters: merge it instead")
    return Lora(config, {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()})


def _why_not(config: PeftConfig) -> str:
    from peft import LoraConfig

    kind = getattr(config.peft_type, "value", config.peft_type)  # an enum of PEFT's, a text where it has none
    if kind != "LORA" or not isinstance(config, LoraConfig):
        return f"the adapter is of type {kind}"
    start = config.init_lora_weights
    for wrong, what in (
        (config.use_dora, "the adapter is a DoRA"),
        (config.bias != "none", f"the adapter trained biases ({config.bias})"),
        (config.lora_bias, "the adapter's products have a bias"),
        (config.modules_to_save, f"the adapter holds whole modules ({', '.join(config.modules_to_save or ())})"),
        (config.trainable_token_indices, "the adapter trained tokens"),
        (getattr(config, "target_parameters", None), "the adapter is on bare parameters"),  # PEFT 0.17 on
        (config.layer_replication, "the adapter repeats layers"),
        # These change the weights below the adapter when it is put on
        (str(start).startswith(("pissa", "olora", "corda", "loftq")), f"the adapter began as {start}"),
    ):
        if wrong:
            return what
    return ""
