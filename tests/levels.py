"""The instruction sets that C++ of ours is compiled for, of which tests take all that this processor executes."""

from __future__ import annotations

from swift.native import processor

SETS = processor.sets() or ("none",)
