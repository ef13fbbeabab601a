"""Weights that FSDP2 or DeepSpeed ZeRO-3 shard over ranks: gathered to save them, distributed to resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainingArguments


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor, or the tensor if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather_fsdp(model: Any, keep: bool, everything: bool) -> dict[str, Tensor]:
    """Full tensors on the CPU by name, in the ranks that `keep` them; all ranks have to call this.

    `everything`: frozen parameters too.
    """
    found: dict[str, Tensor] = {}
    for name, each in _tensors(model).items():
        if each.requires_grad or everything:
            tensor = each.detach()
            tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if keep:
                found[name] = tensor.cpu()
    return found


def gather_zero3(engine: Any) -> dict[str, Tensor]:
    """The trained tensors of a DeepSpeed ZeRO-3 engine by name; empty but in the first rank."""
    # transformers uses this method too; the public one would gather the frozen weights as well
    found: dict[str, Tensor] = engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True)
    return found


def distribute_checkpoint(model: Any, folder: Path) -> None:
    """Loads a saved adapter or model into the FSDP shards; every rank reads the files.

    Raises ValueError where names or shapes differ from the model's.
    """
    own = _tensors(model)
    if isinstance(model, PeftModel):
        own = get_peft_model_state_dict(model, own, save_embedding_layers=False)
    saved = {name: each for file in sorted(folder.glob("*.safetensors")) for name, each in load_file(file).items()}
    if {name: each.shape for name, each in saved.items()} != {name: each.shape for name, each in own.items()}:
        raise ValueError(f"{folder} was saved from another model or with other tuner flags")
    with torch.no_grad():
        for name, shard in own.items():
            full = saved[name].to(shard.device)
            if isinstance(shard, DTensor):
                full = distribute_tensor(full, shard.device_mesh, shard.placements)
            shard.copy_(full)


def enable_fsdp_on_cpu(accelerator: Accelerator, args: TrainingArguments) -> bool:
    """Makes accelerate shard over gloo, which it ignores on CPUs though it works. Returns whether it does now."""
    state, plugin = accelerator.state, args.fsdp_plugin_args
    if plugin is None or state.distributed_type != DistributedType.MULTI_CPU:
        return False
    state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin(**plugin)
    return True


def _tensors(model: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; tied ones appear under their first name only."""
    if isinstance(model, PeftModel):
        return dict(model.named_parameters())
    persistent = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return {**dict(model.named_parameters()), **buffers}
