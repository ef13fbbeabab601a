"""Rows that are longer than the model may read: left out, cut at a turn, or refused. Never cut inside a turn."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple

from swift.chat import Conversation, Message, Sample
from swift.template.render import Renderer

Strategy = Literal["delete", "truncation_left", "error"]
Fate = Literal["kept", "cut", "dropped"]
FATES: tuple[Fate, ...] = ("kept", "cut", "dropped")
CHUNK = 128
"""Rows that a process takes at a time."""
MANY = 2000
"""Rows from which on starting processes pays."""


class Fitted(NamedTuple):
    """A row within the limit, or None and why there is none. `conversation` is the row as it was kept."""

    conversation: Conversation
    sample: Sample | None
    fate: Fate
    reason: str = ""


class Lengths:
    """How many rows of each source were kept, cut and dropped, and the reasons of the dropped ones."""

    def __init__(self) -> None:
        self.fates: dict[str, Counter[Fate]] = {}
        self.reasons: list[str] = []

    def add(self, conversation: Conversation, fitted: Fitted) -> None:
        self.fates.setdefault(conversation.source, Counter())[fitted.fate] += 1
        if fitted.reason:
            self.reasons.append(f"{conversation.source}:{conversation.line}: {fitted.reason}")

    def lines(self, named: int = 5) -> list[str]:
        """For people: a line a source, then the first `named` rows that were dropped."""
        found = [
            f"{source}: " + ", ".join(f"{fates[fate]} {fate}" for fate in FATES) for source, fates in self.fates.items()
        ]
        more = len(self.reasons) - named
        return [*found, *self.reasons[:named], *([f"... and {more} more rows dropped"] if more > 0 else [])]


def fit(renderer: Renderer, conversation: Conversation, max_length: int, strategy: Strategy) -> Fitted:
    """Render a row within `max_length` tokens (-1: no limit).

    `truncation_left` leaves out the oldest rounds, never the system text or the closing token; plain text loses
    its beginning. Raises ValueError under `error`.
    """
    try:
        sample = renderer.encode(conversation)
    except ValueError as reason:
        return Fitted(conversation, None, "dropped", str(reason))
    length = len(sample.tokens)
    if max_length < 0 or length <= max_length:
        return Fitted(conversation, sample, "kept")
    over = f"{length} tokens, more than --max_length {max_length}"
    if strategy == "error":
        raise ValueError(f"{conversation.source}:{conversation.line}: {over}")
    if strategy == "delete":
        return Fitted(conversation, None, "dropped", over)
    if conversation.is_text:
        return Fitted(conversation, _tail(sample, max_length), "cut")
    for shorter in _shorter(conversation):
        cut = renderer.encode(shorter)
        if len(cut.tokens) <= max_length:
            return Fitted(shorter, cut, "cut")
    return Fitted(conversation, None, "dropped", f"{over}, and its last round alone is too long")


def fit_all(
    renderer: Renderer,
    rows: Iterable[Conversation],
    max_length: int,
    strategy: Strategy,
    lengths: Lengths,
    processes: int = 1,
) -> Iterator[Sample]:
    """The samples of the rows that fit, in order; `lengths` keeps account of all of them.

    With several `processes` no more rows are read ahead than keep them busy.
    """
    one = partial(fit, renderer, max_length=max_length, strategy=strategy)
    found = _shared_out(one, rows, processes) if processes > 1 else ((row, one(row)) for row in rows)
    for conversation, fitted in found:
        lengths.add(conversation, fitted)
        if fitted.sample is not None:
            yield fitted.sample


def processes_for(rows: int) -> int:
    """As many as there are cores for this process, where the rows are many and the system can fork."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    return cores if rows >= MANY else 1


def _shared_out(
    one: Callable[[Conversation], Fitted], rows: Iterable[Conversation], processes: int
) -> Iterator[tuple[Conversation, Fitted]]:
    source = iter(rows)
    # forked, so that nothing has to be sent and loaded again
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _begin, (one,)) as pool:
        waiting: deque[tuple[list[Conversation], Future[list[_Fate]]]] = deque()
        while (chunk := list(islice(source, CHUNK))) or waiting:
            if chunk:
                waiting.append((chunk, pool.submit(_fit_chunk, chunk)))
            if not chunk or len(waiting) > 2 * processes:
                before, result = waiting.popleft()
                yield from ((row, Fitted(row, *fate)) for row, fate in zip(before, result.result(), strict=True))


_Fate = tuple[Sample | None, Fate, str]
"""What a process sends back: all of a Fitted but the row, which takes longer to send than its tokens."""
_ONE: list[Callable[[Conversation], Fitted]] = []  # in a process of the pool: what it does to a row


def _begin(one: Callable[[Conversation], Fitted]) -> None:
    _ONE[:] = [one]


def _fit_chunk(chunk: list[Conversation]) -> list[_Fate]:
    return [_ONE[0](row)[1:] for row in chunk]


def _shorter(conversation: Conversation) -> Iterator[Conversation]:
    """The row without its oldest round, without its two oldest, and so on."""
    messages = conversation.messages
    system: tuple[Message, ...] = messages[:1] if messages[0].role == "system" else ()
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    for start in starts[1:]:
        yield conversation.with_messages(system + messages[start:])


def _tail(sample: Sample, length: int) -> Sample:
    return Sample(sample.tokens[-length:], sample.weights[-length:], sample.source)
