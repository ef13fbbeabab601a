"""Flags -> how a run uses several processes and devices. Refuses what would be ignored or cannot work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from swift.assembly.training_config import TrainingConfig

if TYPE_CHECKING:
    import torch

TUNERS = ("lora", "full")
"""Tuners whose sharded weights can be gathered to save them."""


class Spread(NamedTuple):
    """`settings`: of TrainingArguments. `shards`: an engine shards the weights. `device_map`: devices of the layers."""

    settings: dict[str, Any]
    shards: bool
    device_map: str | dict[str, Any] | None

    @property
    def engine(self) -> str:
        return next((name for name in ("fsdp", "deepspeed") if name in self.settings), "")


def check(cfg: TrainingConfig) -> Spread:
    """What the flags ask for. Raises ValueError where they contradict each other or the machine. Loads nothing."""
    from swift.train import distributed

    parallel, quant = cfg.parallel, cfg.model.quant
    chosen = [f"--{name}" for name in ("fsdp", "deepspeed", "device_map") if getattr(parallel, name)]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} exclude each other: each places the layers")
    settings = distributed.fsdp(parallel.fsdp, parallel.fsdp_config) | distributed.deepspeed(parallel.deepspeed)
    processes = "LOCAL_RANK" in os.environ
    if settings and cfg.train.sft_type not in TUNERS:
        raise ValueError(f"{chosen[0]} works with --sft_type {' and '.join(TUNERS)}, not with {cfg.train.sft_type}")
    if "fsdp" in settings and (cfg.tuner.galore.use_galore or cfg.tuner.trainable.lisa_activated_layers):
        raise ValueError("--fsdp shards the weights that --use_galore and --lisa_activated_layers need: leave it out")
    if settings and quant.bits and (quant.bits, quant.quant_method) != (4, "bnb"):
        raise ValueError(f"{chosen[0]} shards quantised weights only of --quant_method bnb --quantization_bit 4")
    if settings and not processes:
        raise ValueError(f"{chosen[0]} needs several processes: NPROC_PER_NODE=8 swift sft ..., or torchrun")
    if parallel.ddp_backend and not processes:
        raise ValueError("--ddp_backend has no effect in one process: NPROC_PER_NODE=2 swift sft ... starts two")
    if parallel.device_map and processes:
        raise ValueError("--device_map needs a single process: leave out NPROC_PER_NODE and torchrun, or use --fsdp")
    stage = settings.get("deepspeed", {}).get("zero_optimization", {}).get("stage")
    placed = distributed.device_map(parallel.device_map) if parallel.device_map else None
    return Spread(settings, "fsdp" in settings or stage == 3, placed)


def check_device(spread: Spread, device: torch.device, backend: str | None = None) -> None:
    """Raises ValueError for an engine or a backend that this kind of device cannot run."""
    if backend == "nccl" and device.type == "cpu":
        raise ValueError("--ddp_backend nccl connects GPUs: leave it out, or use gloo")
    if spread.engine == "deepspeed" and device.type == "cpu":
        raise ValueError("--deepspeed needs GPUs: on CPUs use --fsdp, or neither (DDP)")
