"""Releases OpenMP worker threads that a finished computation leaves behind. Knows nothing of what is computed."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

_SOFT = 1
"""omp_pause_soft of OpenMP 5.0: the next parallel loop creates its threads again."""


def release() -> None:
    """Ends the calling thread's OpenMP team; its next parallel loop starts a new one.

    libgomp keeps a team for each thread that ever ran a parallel loop. If all teams together have more threads than the
    machine has CPUs, idle ones sleep at once instead of spinning until the next loop, and waking them takes longer than
    most loops of a small model. Does nothing if torch comes with another OpenMP.
    """
    for library in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        pause = getattr(ctypes.CDLL(str(library)), "omp_pause_resource_all", None)
        if pause is not None:
            pause(_SOFT)
