"""What this machine's processor can do: instruction sets and caches. Standard library only."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

VARIABLE = "SWIFT_KERNELS"
TORCH = "torch"
"""The choice of torch's functions, without C++."""


class InstructionSet(NamedTuple):
    """`needs`: flags of /proc/cpuinfo. `without`: compiler options that keep it from using more."""

    needs: frozenset[str]
    without: tuple[str, ...] = ()


_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_NO_TILES = ("-mno-amx-bf16", "-mno-amx-int8", "-mno-amx-tile")
SETS: Mapping[str, InstructionSet] = {
    "amx": InstructionSet(_AVX512 | {"avx512_bf16", "amx_tile", "amx_bf16"}),
    "avx512_bf16": InstructionSet(_AVX512 | {"avx512_bf16"}, _NO_TILES),
    "avx512": InstructionSet(_AVX512, (*_NO_TILES, "-mno-avx512bf16")),
    "avx2": InstructionSet(_AVX2, (*_NO_TILES, "-mno-avx512f")),
}
"""What the C++ is written for, the most capable first. A processor that has one has all after it."""


def sets() -> tuple[str, ...]:
    """The instruction sets of this processor, the most capable first; none where the C++ does not run."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return ()
    has = set(flags().split())
    return tuple(name for name, each in SETS.items() if each.needs <= has)


def why_none() -> str:
    """Why there are no sets here, in one line."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"it is for Linux on x86-64, not {platform.system()} on {platform.machine()}"
    return "the processor has no AVX2"


def forced() -> str:
    """The value of SWIFT_KERNELS; empty where it is not set. Raises ValueError for what this machine cannot run."""
    name = os.environ.get(VARIABLE, "").strip().lower()
    known = (*SETS, TORCH)
    if name and name not in known:
        raise ValueError(f"{VARIABLE}={name} is unknown: it is one of {', '.join(known)}")
    here = (*sets(), TORCH)
    if name and name not in here:
        raise ValueError(f"{VARIABLE}={name}: this processor cannot run it; it runs {', '.join(here)}")
    return name


def name() -> str:
    return _field("model name") or platform.processor() or platform.machine()


def flags() -> str:
    """The processor's flags as Linux lists them: part of cache names, since machines may share a cache folder."""
    return _field("flags")


class Caches(NamedTuple):
    """Bytes of the data caches of a core; 0 where the system does not report them."""

    first: int
    second: int
    third: int


def caches() -> Caches:
    found = dict.fromkeys(("1", "2", "3"), 0)
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / part).read_text().strip() for part in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[level] = int(size[:-1]) << 10
    return Caches(found["1"], found["2"], found["3"])


@cache
def _field(key: str) -> str:
    """A line of /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
