"""What C++ of ours is compiled for in tests: the processor's best, and what lesser ones would get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from swift import native

NO_TILES = ("-mno-amx-bf16", "-mno-amx-int8", "-mno-amx-tile")
LESSER = {  # by what the processor must have so that it is less
    "no tiles": ("amx_tile", NO_TILES),
    "AVX2": ("avx512f", (*NO_TILES, "-mno-avx512f")),
}
BEST = "the processor's best"
LEVELS = [BEST, *(name for name, (needed, _) in LESSER.items() if needed in native._processor().split())]


def multiplies_bf16(level: str) -> bool:
    return level != "AVX2" and "avx512_bf16" in native._processor().split()


def compiled_for(level: str, patch: pytest.MonkeyPatch, caches: Sequence[Callable[..., Any]] = ()) -> Iterator[None]:
    """Within it everything is compiled for that level; `caches` remember functions."""
    if level == BEST:
        yield
        return
    patch.setattr(native, "FLAGS", (*native.FLAGS, *LESSER[level][1]))
    remembering: list[Any] = [native._load, *caches]
    for each in remembering:
        each.cache_clear()
    yield
    for each in remembering:
        each.cache_clear()
