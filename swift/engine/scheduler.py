"""Which tokens of which sequences are computed in the next step. Knows no model, no tensors and no threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from swift.engine.interface import Busy

PREFILL_TOKENS = 512
"""Prompt tokens of a step in which no sequence decodes."""
MIXED_PREFILL_TOKENS = 128
"""Prompt tokens of a step in which others decode: they delay the next token of each reply."""


class Sequence:
    """A prompt and the reply so far.

    `computed`: the number of leading `tokens` whose keys and values exist; `started`: whether there is a place for
    them. `adapter`: what computes the tokens; only sequences of one adapter share prefixes. `shares_prefix`: whether
    its keys and values follow from its tokens alone. `splittable` False: the prompt is computed in one chunk.
    """

    def __init__(
        self, tokens: Iterable[int], adapter: object = None, *, shares_prefix: bool = True, splittable: bool = True
    ) -> None:
        self.tokens = list(tokens)
        self.adapter = adapter
        self.shares_prefix, self.splittable = shares_prefix, splittable
        self.computed = 0
        self.started = self.cancelled = False

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next one is sampled: 1 while decoding."""
        return len(self.tokens) - self.computed

    def cancel(self) -> None:
        self.cancelled = True


S = TypeVar("S", bound=Sequence)
S_contra = TypeVar("S_contra", bound=Sequence, contravariant=True)


class States(Protocol[S_contra]):
    """Where the keys and values of sequences are kept."""

    @property
    def capacity(self) -> int:
        """Positions that fit in memory, over all sequences."""
        ...

    def open(self, sequence: S_contra) -> bool:
        """Makes a place for a sequence and sets `computed` to the length of its cached prefix. False if it fails."""
        ...

    def close(self, sequence: S_contra, store: bool) -> None:
        """Frees the place; `store` puts what was computed into the prefix cache first."""
        ...


@dataclass(frozen=True)
class ScheduledChunk(Generic[S]):
    """The next `count` uncomputed tokens of a sequence."""

    sequence: S
    count: int


@dataclass(frozen=True)
class SchedulerOutput(Generic[S]):
    """`decoding`: single tokens, each the last of its sequence. `prefill`: parts of prompts. `cancelled`: removed."""

    decoding: list[ScheduledChunk[S]]
    prefill: list[ScheduledChunk[S]]
    cancelled: list[S]


class Scheduler(Generic[S]):
    """A queue of waiting sequences and a batch of running ones: continuous batching with chunked prefill.

    A sequence is admitted, first come first served, while fewer than `max_running` run and memory holds them all. When
    the running ones outgrow memory, the youngest is preempted: it waits again, at the head of the queue.
    `max_waiting`: `add` raises Busy beyond it; None: no limit. `block_size`: tokens of the blocks in which prefixes are
    shared. `unsplit`: a prompt's first `unsplit` + 1 tokens are computed in one chunk.

    `add` may be called while another thread is in `schedule`.
    """

    def __init__(
        self,
        states: States[S],
        max_running: int,
        max_waiting: int | None = None,
        *,
        block_size: int,
        prefill_tokens: int = PREFILL_TOKENS,
        mixed_prefill_tokens: int = MIXED_PREFILL_TOKENS,
        unsplit: int = 0,
    ) -> None:
        self._states, self._max_running, self._max_waiting = states, max_running, max_waiting
        self._prefill_tokens, self._mixed_prefill_tokens = prefill_tokens, mixed_prefill_tokens
        self._block_size, self._unsplit = block_size, unsplit
        self.waiting: deque[S] = deque()
        self.running: list[S] = []
        self.preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def memory_usage(self) -> float:
        """The part of the memory that the running sequences take, from 0 to 1. Safe to call from any thread."""
        lengths = [len(sequence.tokens) for sequence in list(self.running)]
        return min(1.0, len(lengths) * max(lengths, default=0) / max(self._states.capacity, 1))

    def add(self, sequence: S) -> None:
        """Queues a sequence. Raises Busy when the queue is full."""
        if self._max_waiting is not None and len(self.waiting) >= self._max_waiting:
            raise Busy(f"{len(self.waiting)} requests are waiting: try again later")
        self.waiting.append(sequence)

    def schedule(self) -> SchedulerOutput[S]:
        """Removes cancelled sequences, admits, preempts and starts others, and divides the step among all."""
        cancelled = [sequence for sequence in self.running if sequence.cancelled]
        for sequence in cancelled:
            self.finish(sequence)
        cancelled += self._admit()
        while len(self.running) > 1 and not self._fits(self.running):
            self._preempt(self.running[-1])
        self._start()
        started = [sequence for sequence in self.running if sequence.started]
        decoding = [ScheduledChunk(sequence, 1) for sequence in started if sequence.remaining == 1]
        prompts = [sequence for sequence in started if sequence.remaining > 1]
        budget = self._mixed_prefill_tokens if decoding else self._prefill_tokens
        shares = _divide(budget, [sequence.remaining for sequence in prompts])
        prefill = [
            ScheduledChunk(prompts[index], self._chunk_size(prompts[index], share)) for index, share in shares.items()
        ]
        return SchedulerOutput(decoding, prefill, cancelled)

    def finish(self, sequence: S, store: bool = True) -> None:
        """Removes a running sequence; `store` keeps what was computed for others that begin alike."""
        self.running.remove(sequence)
        self._close(sequence, store)

    def sequences(self) -> list[S]:
        return [*self.running, *self.waiting]

    def drain(self) -> list[S]:
        """Removes all sequences and returns them; their places are not freed."""
        rest = self.sequences()
        self.running.clear()
        self.waiting.clear()
        return rest

    def _admit(self) -> list[S]:
        """Moves waiting sequences to the running ones. Returns cancelled ones that it meets."""
        cancelled: list[S] = []
        while self.waiting and len(self.running) < self._max_running:
            sequence = self.waiting[0]
            if not sequence.cancelled and self.running and not self._fits([*self.running, sequence]):
                break
            self.waiting.popleft()
            (cancelled if sequence.cancelled else self.running).append(sequence)
        return cancelled

    def _fits(self, sequences: list[S]) -> bool:
        """Whether memory holds the sequences for another step; every place is as long as the longest needs."""
        return len(sequences) * max(len(sequence.tokens) for sequence in sequences) <= self._states.capacity

    def _preempt(self, sequence: S) -> None:
        self.finish(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _close(self, sequence: S, store: bool) -> None:
        if sequence.started:
            self._states.close(sequence, store)
            sequence.started, sequence.computed = False, 0

    def _start(self) -> None:
        """Makes places for admitted sequences, in order: how much of one is cached decides whether the next waits."""
        for sequence in self.running[:]:
            if sequence.started or self._waits_for_prefix(sequence):
                continue
            if self._states.open(sequence):
                sequence.started = True
            else:
                self.running.remove(sequence)

    def _waits_for_prefix(self, sequence: S) -> bool:
        """Whether the next block of an older prompt is also a block of this one: it is computed once, then shared."""
        if not sequence.shares_prefix:
            return False
        for older in self.running[: self.running.index(sequence)]:
            end = (older.computed // self._block_size + 1) * self._block_size
            computes = older.adapter is sequence.adapter and older.shares_prefix and older.remaining > 1
            if computes and len(sequence.tokens) > end and older.tokens[:end] == sequence.tokens[:end]:
                return True
        return False

    def _chunk_size(self, sequence: S, share: int) -> int:
        """The share, or more where the prompt must not be split."""
        if not sequence.splittable:
            return sequence.remaining
        return share if sequence.computed else min(max(share, self._unsplit + 1), sequence.remaining)


def _divide(budget: int, remaining: list[int]) -> dict[int, int]:
    """Index of a prompt -> its tokens in this step, by the tokens that each has left, oldest first.

    Half of the budget is the oldest prompt's, so that it is not overtaken forever. The rest goes to the shortest
    first, so that short prompts do not wait behind long ones.
    """
    shares: dict[int, int] = {}
    for index in [*range(len(remaining))[:1], *sorted(range(len(remaining)), key=remaining.__getitem__)]:
        free = budget - sum(shares.values()) if shares else budget - budget // 2
        shares[index] = shares.get(index, 0) + min(remaining[index] - shares.get(index, 0), free)
    return {index: share for index, share in shares.items() if share}
