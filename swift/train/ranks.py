"""The processes of a run: one, or several started by torchrun. Knows no model and no data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor


class Ranks(NamedTuple):
    """`first`: whether this process prints and writes for all; `world`: the number of processes; `rank`: its own."""

    first: bool
    world: int
    rank: int = 0

    @classmethod
    def join(cls, cpu: bool, backend: str | None = None) -> Ranks:
        """Connects to the other processes, by default over gloo on CPUs and nccl on GPUs."""
        state = PartialState(cpu=cpu, **({"backend": backend} if backend else {}))
        return cls(state.is_main_process, state.num_processes, state.process_index)

    def broadcast(self, decide: Callable[[], Path]) -> Path:
        """The path that `decide` returns in the first process, in all processes."""
        if self.world == 1:
            return decide()
        decided = [str(decide()) if self.first else ""]
        dist.broadcast_object_list(decided)
        return Path(decided[0])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def leave(self) -> None:
        if self.world > 1:
            dist.barrier()
            dist.destroy_process_group()


def use_one_gpu(device: str) -> None:
    """Restricts a single process to a single GPU: transformers would split each batch over all visible ones.

    Has to be called before CUDA is initialised.
    """
    if "LOCAL_RANK" in os.environ or device in ("cpu", "mps"):
        return
    number = device.partition(":")[2] or "0"
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = seen.split(",") if seen else None
    if number.isdigit() and (known is None or int(number) < len(known)):
        os.environ["CUDA_VISIBLE_DEVICES"] = known[int(number)] if known else number
