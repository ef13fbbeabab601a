"""What the engine asks of a model: tokens of many requests in, logits out, the past kept between. Knows no queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from swift.engine.lora import Lora
from swift.engine.sampling import Choice


class Kept(NamedTuple):
    """Keys and values of `length` positions, in tensors as the runner that read them likes to have them back."""

    length: int
    tensors: list[Tensor]


class Past:
    """The keys and values of one request, wherever its runner keeps them; `length` positions are filled."""

    length: int = 0


class Feed(NamedTuple):
    """Tokens to be put behind a past. `wants`: logits after the last of them are asked for.

    `inputs`: what an image model takes beside the tokens of its first and only piece.
    """

    past: Past
    tokens: Sequence[int]
    wants: bool = True
    adapter: str = ""
    inputs: Mapping[str, Tensor] | None = None


class Runner(Protocol):
    """A model with the pasts of the requests that it is answering."""

    position_bytes: int
    """What keys and values of one position cost; 0 until known."""
    readable: bool
    """Whether positions of a past can be read for another; where not, `open` is given none and `read` not called."""

    def open(self, kept: Sequence[Kept] = (), length: int = 0) -> Past:
        """A past that begins with `length` positions read from another."""
        ...

    def close(self, past: Past) -> None: ...

    def step(self, feeds: Sequence[Feed]) -> Tensor:
        """Feeds everything once; a row of logits for each feed that wants them, in order, there until the next step."""
        ...

    def likeliest(self, logits_NV: Tensor) -> list[Choice]:
        """The likeliest token of each row of the last step's logits, or of some of them."""
        ...

    def read(self, past: Past, start: int, end: int) -> Kept:
        """A copy of the keys and values of some positions."""
        ...

    def why_not(self, adapter: Lora) -> str:
        """Why requests with this adapter cannot run beside others; empty if they can. Changes nothing."""
        ...

    def add(self, name: str, adapter: Lora) -> None: ...

    def remove(self, name: str) -> None: ...


def as_long(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=device)
