"""What the engine requires of a model: chunks of sequences in, logits out, keys and values kept. Knows no queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from swift.engine.lora import Lora
from swift.engine.sampling import SampledToken


class KVBlock(NamedTuple):
    """A copy of the keys and values of `length` positions; the runner that made it defines the tensors' layout."""

    length: int
    tensors: list[Tensor]


class SequenceState:
    """The keys and values of one sequence, wherever its runner keeps them. `length`: positions computed so far."""

    length: int = 0


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence, computed in one step behind what `state` holds.

    `needs_logits`: return the logits of the last token. `adapter`: the name of a LoRA adapter, '' for the base model.
    `inputs`: tensors of a vision-language model, with the sequence's first and only chunk.
    """

    state: SequenceState
    tokens: Sequence[int]
    needs_logits: bool = True
    adapter: str = ""
    inputs: Mapping[str, Tensor] | None = None


class Runner(Protocol):
    """A model with the states of the sequences that it computes."""

    position_bytes: int
    """Bytes of the keys and values of one position, over all layers; 0 until known."""
    shares_prefixes: bool
    """Whether one sequence can begin with blocks read from another; if not, the engine never calls `read`."""

    def open(self, blocks: Sequence[KVBlock] = (), length: int = 0) -> SequenceState:
        """Returns a new state whose first `length` positions are those of `blocks`."""
        ...

    def close(self, state: SequenceState) -> None: ...

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Computes all chunks once and extends their states.

        Returns logits_NV, a row for each chunk with `needs_logits`, in order. It is valid until the next step.
        """
        ...

    def argmax(self, logits_NV: Tensor) -> list[SampledToken]:
        """The most probable token of each row; the rows are some or all of the last step's."""
        ...

    def read(self, state: SequenceState, start: int, end: int) -> KVBlock:
        """Copies the keys and values of positions `start` to `end`."""
        ...

    def why_not(self, adapter: Lora) -> str:
        """Why this adapter cannot be served together with others; empty if it can. Changes nothing."""
        ...

    def add_lora(self, name: str, adapter: Lora) -> None: ...

    def remove_lora(self, name: str) -> None: ...


def as_long(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=device)
