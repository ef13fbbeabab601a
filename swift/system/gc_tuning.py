"""How often Python looks for garbage that refers to itself. Standard library only."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

INFREQUENT = 50_000
"""Things of Python's that are made and not gone, before it looks; 700 is its own choice."""


@contextmanager
def infrequent() -> Iterator[None]:
    """Looks for it seldom meanwhile: rows are many things that stay, and none of them refers to itself.

    Not for generators: what is within has to end in the order in which it began.
    """
    before = gc.get_threshold()
    gc.set_threshold(INFREQUENT, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
