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
from typing import Literal, NamedTuple, overload

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


class Truncated(NamedTuple):
    """A sample within the limit, or None and why there is none. `conversation` is its row as it was kept.

    `part` counts the samples of a dialogue that takes several, from 0.
    """

    conversation: Conversation
    sample: Sample | None
    fate: Fate
    reason: str = ""
    part: int = 0

    @property
    def rule(self) -> str:
        """The rule that a row breaks which is left out."""
        return "unrendered" if self.fate == "unrendered" else "length"


class SampleRef(NamedTuple):
    """One sample of a row, by its number, where rows are tokenised when they are needed."""

    row: Conversation
    number: int


class SampleRefs(Sequence[SampleRef]):
    """The parts of rows, which are read when they are asked for. Lays each row out once to count its samples."""

    def __init__(self, renderer: Renderer, rows: Sequence[Conversation]) -> None:
        self._rows = rows
        self._places = [(at, part.number) for at, row in enumerate(rows) for part in sample_refs(renderer, row)]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> SampleRef: ...
    @overload
    def __getitem__(self, at: slice) -> list[SampleRef]: ...
    def __getitem__(self, at: int | slice) -> SampleRef | list[SampleRef]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        row, number = self._places[at]
        return SampleRef(self._rows[row], number)


def sample_refs(renderer: Renderer, row: Conversation) -> list[SampleRef]:
    """The parts of a row; one that cannot be laid out is one part."""
    if not renderer.uses_tokenizer_template:
        return [SampleRef(row, 0)]
    try:
        return [SampleRef(row, number) for number in range(len(renderer.segments(row)))]
    except ValueError:
        return [SampleRef(row, 0)]


class Outcome(NamedTuple):
    """What became of a row, and which it was; less than a Fitted, for it is sent from process to process."""

    sample: Sample | None
    source: str
    line: int
    fate: Fate
    reason: str


class LengthReport:
    """How many samples of each source met each fate, and the reasons of those that were dropped or not rendered."""

    def __init__(self) -> None:
        self.fates: dict[str, Counter[Fate]] = {}
        self.rows: Counter[str] = Counter()
        self.reasons: list[str] = []
        self.unrendered: list[str] = []

    def add(self, source: str, line: int, fate: Fate, reason: str) -> None:
        self.fates.setdefault(source, Counter())[fate] += 1
        if reason:
            (self.unrendered if fate == "unrendered" else self.reasons).append(f"{source}:{line}: {reason}")

    def lines(self, named: int = 5) -> list[str]:
        """For people: a line a source, then the first `named` rows of each fate that has reasons."""
        found = [
            f"length: {source}: " + ", ".join(f"{fates[fate]} {fate}" for fate in FATES) + self._samples(source)
            for source, fates in self.fates.items()
        ]
        return [
            *found,
            *_first("length", self.reasons, named, "dropped"),
            *_first("unrendered", self.unrendered, named, "not rendered"),
        ]

    def _samples(self, source: str) -> str:
        """Told where dialogues take several samples: the template rewrites their earlier rounds."""
        samples, rows = self.fates[source].total(), self.rows[source]
        return f" ({samples} samples of {rows} rows)" if samples > rows else ""


def _first(rule: str, reasons: list[str], named: int, fate: str) -> list[str]:
    more = len(reasons) - named
    rest = [f"{rule}: ... and {more} more rows {fate}"] if more > 0 else []
    return [*(f"{rule}: {reason}" for reason in reasons[:named]), *rest]


def truncate(renderer: Renderer, conversation: Conversation, max_length: int, strategy: Strategy) -> list[Truncated]:
    """Render the samples of a row within `max_length` tokens (-1: no limit).

    `truncation_left` leaves out the oldest rounds, never the system text or the closing token; plain text loses
    its beginning. Raises ValueError under `error`, for a row that is too long.
    """
    try:
        samples = renderer.samples(conversation)
        return [
            _fit(renderer, conversation, sample, part, samples, max_length, strategy)
            for part, sample in enumerate(samples)
        ]
    except _TooLongError:
        raise
    except ValueError as reason:
        return [Truncated(conversation, None, "unrendered", str(reason))]


class _TooLongError(ValueError):
    """A row is longer than it may be."""


def _fit(
    renderer: Renderer,
    conversation: Conversation,
    sample: Sample,
    part: int,
    samples: Sequence[Sample],
    max_length: int,
    strategy: Strategy,
) -> Truncated:
    length = len(sample.tokens)
    if max_length < 0 or length <= max_length:
        return Truncated(conversation, sample, "kept", part=part)
    over = f"{length} tokens, more than --max_length {max_length}"
    if len(samples) > 1:
        over = f"sample {part + 1} of {len(samples)}: {over}"
    if strategy == "error":
        raise _TooLongError(f"{conversation.source}:{conversation.line}: {over}")
    if strategy == "delete":
        return Truncated(conversation, None, "dropped", over, part)
    if conversation.is_text:
        return Truncated(conversation, _tail(sample, max_length), "cut")
    # a dialogue up to its part's last reply is one with the part at its end
    whole = conversation if part == len(samples) - 1 else _up_to(renderer, conversation, part)
    for shorter in _shorter(whole):
        cut = renderer.samples(shorter)[-1]
        if len(cut.tokens) <= max_length:
            return Truncated(shorter, cut, "cut", part=part)
    return Truncated(conversation, None, "dropped", f"{over}, and its last round alone is too long", part)


def _up_to(renderer: Renderer, conversation: Conversation, part: int) -> Conversation:
    """The longest beginning of a dialogue that takes `part + 1` samples."""
    messages = conversation.messages
    ends = [index + 1 for index, message in enumerate(messages) if message.role == "assistant"]
    for end in reversed(ends):
        begun = conversation.with_messages(messages[:end])
        if len(renderer.samples(begun)) == part + 1:
            return begun
    return conversation


def truncate_all(
    renderer: Renderer,
    rows: Iterable[Conversation],
    max_length: int,
    strategy: Strategy,
    lengths: LengthReport,
    processes: int = 1,
    watch: Callable[[Iterable[list[Outcome]]], Iterable[list[Outcome]]] = iter,
) -> Iterator[Sample]:
    """The samples of the rows that fit, in order; `lengths` keeps account of all of them, and `watch` sees them pass.

    A sequence can be shared out among `processes`, which read it themselves and are never far ahead.
    """
    settle = partial(_settle, renderer, max_length, strategy)
    if processes > 1 and isinstance(rows, Sequence):
        found: Iterable[list[Outcome]] = _shared_out(settle, rows, processes)
    else:
        found = map(settle, rows)
    for row in watch(found):
        for sample, source, line, fate, reason in row:
            lengths.add(source, line, fate, reason)
            if sample is not None:
                yield sample
        lengths.rows[row[0].source] += 1


def _settle(renderer: Renderer, max_length: int, strategy: Strategy, row: Conversation) -> list[Outcome]:
    fitted = truncate(renderer, row, max_length, strategy)
    return [Outcome(each.sample, row.source, row.line, each.fate, each.reason) for each in fitted]


def processes_for(rows: int) -> int:
    """As many as there are cores for this process, where the rows are many and the system can fork."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    return cores if rows >= MANY else 1


def _shared_out(
    settle: Callable[[Conversation], list[Outcome]], rows: Sequence[Conversation], processes: int
) -> Iterator[list[Outcome]]:
    chunks = iter([range(at, min(at + CHUNK, len(rows))) for at in range(0, len(rows), CHUNK)])
    # forked, so that neither the tokenizer nor rows have to be sent
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _begin, (settle, rows)) as pool:
        waiting = deque(pool.submit(_settle_chunk, chunk) for chunk in islice(chunks, 2 * processes + 1))
        while waiting:
            settled = waiting.popleft().result()
            waiting += [pool.submit(_settle_chunk, chunk) for chunk in islice(chunks, 1)]
            yield from settled


_WORK: list[tuple[Callable[[Conversation], list[Outcome]], Sequence[Conversation]]] = []
"""In a process of the pool: what it does to a row, and the rows."""


def _begin(settle: Callable[[Conversation], list[Outcome]], rows: Sequence[Conversation]) -> None:
    _WORK[:] = [(settle, rows)]


def _settle_chunk(places: range) -> list[list[Outcome]]:
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
