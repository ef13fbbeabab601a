"""AdaLoRA (arXiv 2303.10512) in the training loop: rank pruning and the orthogonality penalty."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import TrainerCallback


class PruneRanks(TrainerCallback):  # type: ignore[misc]
    """Passes the number of steps, and each step, to PEFT's AdaLoRA."""

    def __init__(self, model: PeftModel) -> None:
        self.model = model

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        config = self.model.active_peft_config
        if state.max_steps <= config.tinit + config.tfinal:
            raise ValueError(
                f"--adalora_tinit {config.tinit} and --adalora_tfinal {config.tfinal} leave none of the "
                f"{state.max_steps} steps to prune ranks in"
            )
        config.total_step = state.max_steps

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # after the optimizer's step, while its gradients exist; global_step is incremented later
        self.model.base_model.update_and_allocate(state.global_step + 1)


def orthogonality(model: PeftModel) -> Tensor:
    """The mean Frobenius norm of P'P - I and QQ' - I over all layers, times its weight."""
    grams = [
        each @ each.T if "lora_A" in name else each.T @ each
        for name, each in model.named_parameters()
        if "lora_A" in name or "lora_B" in name
    ]
    away = [torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)) for gram in grams]
    weight: float = model.active_peft_config.orth_reg_weight
    return weight * torch.stack(away).mean()
