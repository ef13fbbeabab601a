"""Whether training moved anything: the bits of what is trained, before and after. Knows no tuner's mathematics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class StartWeights(TrainerCallback):  # type: ignore[misc]
    """Takes note of what is trained when a run begins; one that goes on from a checkpoint has begun elsewhere."""

    def __init__(self) -> None:
        self.sums: dict[str, int] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.sums = _sums(model) if state.global_step == 0 else None

    def unchanged(self, model: Any) -> str:
        """How this process sees that a trained model computes what it did at its start; empty if it does not."""
        now = _sums(model)
        zeros = [name for name in now if "lora_B" in name]
        others = [name for name in now if "lora_A" not in name and "lora_B" not in name]
        moved = self.sums is None or any(now[name] != self.sums[name] for name in others)
        # weight decay moves lora_A even where no gradient reaches it
        if zeros and not any(now[name] for name in zeros) and not (others and moved):
            return "every lora_B is zero"
        if now == self.sums:
            return "no weight has changed"
        return ""


def _sums(model: Any) -> dict[str, int]:
    """The bits of each trained tensor, or of this process's shard, as integers added up; 0 where all are zero."""
    return {name: _sum(each) for name, each in model.named_parameters() if each.requires_grad}


def _sum(parameter: Tensor) -> int:
    # ZeRO-3 leaves an empty tensor behind, and its shard beside it
    tensor: Tensor = getattr(parameter, "ds_tensor", parameter).detach()
    tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    integers = _INTEGERS[tensor.element_size()]
    # + 0.0: -0.0 counts as zero
    return int((tensor.contiguous() + 0.0).view(integers).sum(dtype=torch.int64)) if tensor.numel() else 0
