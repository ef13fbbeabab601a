"""The threads that OpenMP keeps for a thread of ours. Knows nothing of what is computed."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

_SOFT = 1
"""omp_pause_soft of OpenMP 5.0: what the next parallel loop needs is made again."""


def release() -> None:
    """Ends the threads that wait to help the calling thread; they come back when it computes again.

    libgomp keeps a team for each thread that ever ran a parallel loop. While all teams together are more threads than
    the machine has CPUs, those that wait go to sleep at once instead of looking out for the next loop a while, and
    waking them costs more than most loops of a small model take. Does nothing where torch brings another OpenMP.
    """
    for library in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        pause = getattr(ctypes.CDLL(str(library)), "omp_pause_resource_all", None)
        if pause is not None:
            pause(_SOFT)
