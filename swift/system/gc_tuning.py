"""Tunes the cyclic garbage collector. Standard library only."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

INFREQUENT = 50_000
"""Threshold of the youngest generation: net allocations between collections; Python's default is 700."""


@contextmanager
def infrequent() -> Iterator[None]:
    """Collects cyclic garbage rarely within: rows are many long-lived objects without cycles.

    Not for use in generators, since nested uses have to end in reverse order.
    """
    before = gc.get_threshold()
    gc.set_threshold(INFREQUENT, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
