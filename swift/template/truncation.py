"""Samples that are too long: dropped, truncated at a turn, or an error. Never truncates within a turn."""

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
Status = Literal["kept", "cut", "dropped", "unrendered"]
STATUSES: tuple[Status, ...] = ("kept", "cut", "dropped")
"""The result of the length check. A row that the template or the tool-call format rejects is `unrendered`."""
CHUNK = 128
"""Rows per task of a worker process."""
MANY = 2000
"""Fewer rows are tokenised in the main process."""


class Truncated(NamedTuple):
    """A sample within the limit, or None and the reason. `conversation`: its row after truncation.

    `part`: the index of the sample in its dialogue.
    """

    conversation: Conversation
    sample: Sample | None
    status: Status
    reason: str = ""
    part: int = 0

    @property
    def rule(self) -> str:
        """The rule that a dropped row breaks."""
        return "unrendered" if self.status == "unrendered" else "length"


class SampleRef(NamedTuple):
    """A reference to one sample of a row, for lazy tokenisation."""

    row: Conversation
    number: int


class SampleRefs(Sequence[SampleRef]):
    """References to the samples of rows, which are read lazily. Renders each row once to count its samples."""

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
    """References to the samples of a row; one reference for a row that cannot be rendered."""
    if not renderer.uses_tokenizer_template:
        return [SampleRef(row, 0)]
    try:
        return [SampleRef(row, number) for number in range(len(renderer.segments(row)))]
    except ValueError:
        return [SampleRef(row, 0)]


class Outcome(NamedTuple):
    """The result for a sample and its place. Smaller than Truncated, because processes exchange it."""

    sample: Sample | None
    source: str
    line: int
    status: Status
    reason: str


class LengthReport:
    """Counts of samples by source and status, and the reasons of dropped and unrendered ones."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[Status]] = {}
        self.rows: Counter[str] = Counter()
        self.dropped: list[str] = []
        self.unrendered: list[str] = []

    def add(self, source: str, line: int, status: Status, reason: str) -> None:
        self.counts.setdefault(source, Counter())[status] += 1
        if reason:
            (self.unrendered if status == "unrendered" else self.dropped).append(f"{source}:{line}: {reason}")

    def lines(self, with_name_in_id: int = 5) -> list[str]:
        """The report as text: one line per source, then the first `named` reasons per status."""
        found = [
            f"length: {source}: "
            + ", ".join(f"{counts[status]} {status}" for status in STATUSES)
            + self._samples(source)
            for source, counts in self.counts.items()
        ]
        return [
            *found,
            *_first("length", self.dropped, with_name_in_id, "dropped"),
            *_first("unrendered", self.unrendered, with_name_in_id, "not rendered"),
        ]

    def _samples(self, source: str) -> str:
        """The number of samples, if the template makes several per row."""
        samples, rows = self.counts[source].total(), self.rows[source]
        return f" ({samples} samples of {rows} rows)" if samples > rows else ""


def _first(rule: str, dropped: list[str], with_name_in_id: int, status: str) -> list[str]:
    more = len(dropped) - with_name_in_id
    rest = [f"{rule}: ... and {more} more rows {status}"] if more > 0 else []
    return [*(f"{rule}: {reason}" for reason in dropped[:with_name_in_id]), *rest]


def truncate(renderer: Renderer, conversation: Conversation, max_length: int, strategy: Strategy) -> list[Truncated]:
    """The samples of a row, each within `max_length` tokens (-1: no limit).

    `truncation_left` drops the oldest rounds, never the system prompt or the final stop token; plain text loses its
    beginning. With `error`, raises ValueError for a row that is too long.
    """
    try:
        samples = renderer.samples(conversation)
        return [
            _truncate(renderer, conversation, sample, part, samples, max_length, strategy)
            for part, sample in enumerate(samples)
        ]
    except TooLongError:
        raise
    except ValueError as reason:
        return [Truncated(conversation, None, "unrendered", str(reason))]


Truncate = Callable[[Renderer, Conversation, int, Strategy], list[Truncated]]
"""(renderer, row, maximum tokens, strategy) -> its samples: see `truncate`."""


class TooLongError(ValueError):
    """A row is too long."""


def _truncate(
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
        raise TooLongError(f"{conversation.source}:{conversation.line}: {over}")
    if strategy == "delete":
        return Truncated(conversation, None, "dropped", over, part)
    if conversation.is_text:
        return Truncated(conversation, _tail(sample, max_length), "cut")
    # cut the dialogue after the sample's last reply, so that the sample is its last one
    whole = conversation if part == len(samples) - 1 else _up_to(renderer, conversation, part)
    for shorter in shorter_dialogues(whole):
        cut = renderer.samples(shorter)[-1]
        if len(cut.tokens) <= max_length:
            return Truncated(shorter, cut, "cut", part=part)
    return Truncated(conversation, None, "dropped", f"{over}, and its last round is too long by itself", part)


def _up_to(renderer: Renderer, conversation: Conversation, part: int) -> Conversation:
    """The longest beginning of a dialogue that has `part + 1` samples."""
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
    truncate: Truncate = truncate,
) -> Iterator[Sample]:
    """The samples of the rows that fit, in order. Counts all in `lengths`; `watch` wraps the stream, to show progress.

    With several `processes`, worker processes read the sequence themselves, a bounded number of chunks ahead.
    """
    to_outcomes = partial(_outcomes, truncate, renderer, max_length, strategy)
    if processes > 1 and isinstance(rows, Sequence):
        found: Iterable[list[Outcome]] = _in_processes(to_outcomes, rows, processes)
    else:
        found = map(to_outcomes, rows)
    for row in watch(found):
        for sample, source, line, status, reason in row:
            lengths.add(source, line, status, reason)
            if sample is not None:
                yield sample
        lengths.rows[row[0].source] += 1


def _outcomes(
    truncate: Truncate, renderer: Renderer, max_length: int, strategy: Strategy, row: Conversation
) -> list[Outcome]:
    fitted = truncate(renderer, row, max_length, strategy)
    return [Outcome(each.sample, row.source, row.line, each.status, each.reason) for each in fitted]


def processes_for(rows: int) -> int:
    """The number of worker processes: all available cores on Linux for MANY rows, else 1."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    return cores if rows >= MANY else 1


def _in_processes(
    to_outcomes: Callable[[Conversation], list[Outcome]], rows: Sequence[Conversation], processes: int
) -> Iterator[list[Outcome]]:
    chunks = iter([range(at, min(at + CHUNK, len(rows))) for at in range(0, len(rows), CHUNK)])
    # fork: neither the tokenizer nor rows have to be pickled
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _begin, (to_outcomes, rows)) as pool:
        waiting = deque(pool.submit(_truncate_chunk, chunk) for chunk in islice(chunks, 2 * processes + 1))
        while waiting:
            to_outcomesd = waiting.popleft().result()
            waiting += [pool.submit(_truncate_chunk, chunk) for chunk in islice(chunks, 1)]
            yield from to_outcomesd


_WORK: list[tuple[Callable[[Conversation], list[Outcome]], Sequence[Conversation]]] = []
"""In a worker process: the function for a row, and the rows."""


def _begin(to_outcomes: Callable[[Conversation], list[Outcome]], rows: Sequence[Conversation]) -> None:
    _WORK[:] = [(to_outcomes, rows)]


def _truncate_chunk(places: range) -> list[list[Outcome]]:
    to_outcomes, rows = _WORK[0]
    return [to_outcomes(rows[place]) for place in places]


def shorter_dialogues(conversation: Conversation) -> Iterator[Conversation]:
    """The row without its oldest round, without the two oldest, and so on."""
    messages = conversation.messages
    system: tuple[Message, ...] = messages[:1] if messages[0].role == "system" else ()
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    for start in starts[1:]:
        yield conversation.with_messages(system + messages[start:])


def _tail(sample: Sample, length: int) -> Sample:
    return Sample(sample.tokens[-length:], sample.weights[-length:], sample.source)
