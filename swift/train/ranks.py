"""The processes of a run: started by torchrun, or one alone. Knows no model and no data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist
from accelerate import PartialState


class Ranks(NamedTuple):
    """`first`: whether this process speaks and writes for all; `world`: how many there are."""

    first: bool
    world: int

    @classmethod
    def join(cls, cpu: bool, backend: str | None = None) -> Ranks:
        """Meets the others, over gloo on CPUs and nccl on GPUs unless `backend` says otherwise."""
        state = PartialState(cpu=cpu, **({"backend": backend} if backend else {}))
        return cls(state.is_main_process, state.num_processes)

    def broadcast(self, decide: Callable[[], Path]) -> Path:
        """What the first process decides, in all of them."""
        if self.world == 1:
            return decide()
        decided = [str(decide()) if self.first else ""]
        dist.broadcast_object_list(decided)
        return Path(decided[0])

    def leave(self) -> None:
        if self.world > 1:
            dist.barrier()
            dist.destroy_process_group()


def use_one_gpu(device: str) -> None:
    """A single process trains on a single GPU: left alone, transformers splits each batch over all that it sees.

    Has to come before anything asks for a GPU.
    """
    if "LOCAL_RANK" in os.environ or device in ("cpu", "mps"):
        return
    number = device.partition(":")[2] or "0"
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = seen.split(",") if seen else None
    if number.isdigit() and (known is None or int(number) < len(known)):
        os.environ["CUDA_VISIBLE_DEVICES"] = known[int(number)] if known else number
