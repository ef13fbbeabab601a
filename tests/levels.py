"""The instruction sets that tests compile the C++ code for: all that this processor runs."""

from __future__ import annotations

from swift.native import processor

SETS = processor.sets() or ("none",)
