"""Whether training changed any weight, by checksums before and after. Knows no tuner's mathematics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class StartWeights(TrainerCallback):  # type: ignore[misc]
    """Records the trained weights at the start of a run, unless it resumes from a checkpoint."""

    def __init__(self) -> None:
        self.sums: dict[str, int] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.sums = _sums(model) if state.global_step == 0 else None

    def unchanged(self, model: Any) -> str:
        """Why the trained weights of this process count as unchanged; empty if they changed."""
        now = _sums(model)
        zeros = [name for name in now if "lora_B" in name]
        others = [name for name in now if "lora_A" not in name and "lora_B" not in name]
        moved = self.sums is None or any(now[name] != self.sums[name] for name in others)
        # weight decay changes lora_A even without a gradient
        if zeros and not any(now[name] for name in zeros) and not (others and moved):
            return "every lora_B is zero"
        if now == self.sums:
            return "no weight has changed"
        return ""


def _sums(model: Any) -> dict[str, int]:
    """The sum of the bits, as integers, of each trained tensor or shard; 0 for zeros."""
    return {name: _sum(each) for name, each in model.named_parameters() if each.requires_grad}


def _sum(parameter: Tensor) -> int:
    # ZeRO-3 leaves an empty tensor, with its shard as an attribute
    tensor: Tensor = getattr(parameter, "ds_tensor", parameter).detach()
    tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    integers = _INTEGERS[tensor.element_size()]
    # + 0.0: -0.0 counts as zero
    return int((tensor.contiguous() + 0.0).view(integers).sum(dtype=torch.int64)) if tensor.numel() else 0
