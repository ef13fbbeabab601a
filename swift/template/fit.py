"""Rows that are longer than the model may read: left out, cut at a turn, or refused. Never cut inside a turn."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple

from swift.chat import Conversation, Message, Sample
from swift.template.render import Renderer

Strategy = Literal["delete", "truncation_left", "error"]
Fate = Literal["kept", "cut", "dropped", "unrendered"]
FATES: tuple[Fate, ...] = ("kept", "cut", "dropped")
"""What becomes of a row by its length. One that the template or the text form refuses is `unrendered`."""
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

    @property
    def rule(self) -> str:
        """The rule that a row breaks which is left out."""
        return "unrendered" if self.fate == "unrendered" else "length"


class Settled(NamedTuple):
    """What became of a row, and which it was; less than a Fitted, for it is sent from process to process."""

    sample: Sample | None
    source: str
    line: int
    fate: Fate
    reason: str


class Lengths:
    """How many rows of each source met each fate, and the reasons of those that were dropped or not rendered."""

    def __init__(self) -> None:
        self.fates: dict[str, Counter[Fate]] = {}
        self.reasons: list[str] = []
        self.unrendered: list[str] = []

    def add(self, source: str, line: int, fate: Fate, reason: str) -> None:
        self.fates.setdefault(source, Counter())[fate] += 1
        if reason:
            (self.unrendered if fate == "unrendered" else self.reasons).append(f"{source}:{line}: {reason}")

    def lines(self, named: int = 5) -> list[str]:
        """For people: a line a source, then the first `named` rows of each fate that has reasons."""
        found = [
            f"length: {source}: " + ", ".join(f"{fates[fate]} {fate}" for fate in FATES)
            for source, fates in self.fates.items()
        ]
        return [
            *found,
            *_first("length", self.reasons, named, "dropped"),
            *_first("unrendered", self.unrendered, named, "not rendered"),
        ]


def _first(rule: str, reasons: list[str], named: int, fate: str) -> list[str]:
    more = len(reasons) - named
    rest = [f"{rule}: ... and {more} more rows {fate}"] if more > 0 else []
    return [*(f"{rule}: {reason}" for reason in reasons[:named]), *rest]


def fit(renderer: Renderer, conversation: Conversation, max_length: int, strategy: Strategy) -> Fitted:
    """Render a row within `max_length` tokens (-1: no limit).

    `truncation_left` leaves out the oldest rounds, never the system text or the closing token; plain text loses
    its beginning. Raises ValueError under `error`, for a row that is too long.
    """
    try:
        return _fit(renderer, conversation, max_length, strategy)
    except _TooLongError:
        raise
    except ValueError as reason:
        return Fitted(conversation, None, "unrendered", str(reason))


class _TooLongError(ValueError):
    """A row is longer than it may be."""


def _fit(renderer: Renderer, conversation: Conversation, max_length: int, strategy: Strategy) -> Fitted:
    sample = renderer.encode(conversation)
    length = len(sample.tokens)
    if max_length < 0 or length <= max_length:
        return Fitted(conversation, sample, "kept")
    over = f"{length} tokens, more than --max_length {max_length}"
    if strategy == "error":
        raise _TooLongError(f"{conversation.source}:{conversation.line}: {over}")
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
    watch: Callable[[Iterable[Settled]], Iterable[Settled]] = iter,
) -> Iterator[Sample]:
    """The samples of the rows that fit, in order; `lengths` keeps account of all of them, and `watch` sees them pass.

    A sequence can be shared out among `processes`, which read it themselves and are never far ahead.
    """
    settle = partial(_settle, renderer, max_length, strategy)
    if processes > 1 and isinstance(rows, Sequence):
        found: Iterable[Settled] = _shared_out(settle, rows, processes)
    else:
        found = map(settle, rows)
    for sample, source, line, fate, reason in watch(found):
        lengths.add(source, line, fate, reason)
        if sample is not None:
            yield sample


def _settle(renderer: Renderer, max_length: int, strategy: Strategy, row: Conversation) -> Settled:
    fitted = fit(renderer, row, max_length, strategy)
    return Settled(fitted.sample, row.source, row.line, fitted.fate, fitted.reason)


def processes_for(rows: int) -> int:
    """As many as there are cores for this process, where the rows are many and the system can fork."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    return cores if rows >= MANY else 1


def _shared_out(
    settle: Callable[[Conversation], Settled], rows: Sequence[Conversation], processes: int
) -> Iterator[Settled]:
    chunks = iter([range(at, min(at + CHUNK, len(rows))) for at in range(0, len(rows), CHUNK)])
    # forked, so that neither the tokenizer nor rows have to be sent
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _begin, (settle, rows)) as pool:
        waiting = deque(pool.submit(_settle_chunk, chunk) for chunk in islice(chunks, 2 * processes + 1))
        while waiting:
            settled = waiting.popleft().result()
            waiting += [pool.submit(_settle_chunk, chunk) for chunk in islice(chunks, 1)]
            yield from settled


_WORK: list[tuple[Callable[[Conversation], Settled], Sequence[Conversation]]] = []
"""In a process of the pool: what it does to a row, and the rows."""


def _begin(settle: Callable[[Conversation], Settled], rows: Sequence[Conversation]) -> None:
    _WORK[:] = [(settle, rows)]


def _settle_chunk(places: range) -> list[Settled]:
    settle, rows = _WORK[0]
    return [settle(rows[place]) for place in places]


def _shorter(conversation: Conversation) -> Iterator[Conversation]:
    """The row without its oldest round, without its two oldest, and so on."""
    messages = conversation.messages
    system: tuple[Message, ...] = messages[:1] if messages[0].role == "system" else ()
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    for start in starts[1:]:
        yield conversation.with_messages(system + messages[start:])


def _tail(sample: Sample, length: int) -> Sample:
    return Sample(sample.tokens[-length:], sample.weights[-length:], sample.source)
