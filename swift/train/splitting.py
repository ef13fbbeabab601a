"""A step's packed batch -> micro-batches for workers that run side by side. Knows lengths; no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from swift.train import prefixes
from swift.train.batch import (
    FULL_BATCH,
    Batch,
    fill_batches,
    round_length,
    rows_of_sample,
    sample_lengths,
    select_samples,
)

Split = tuple[list[Batch], list[list[Batch]]]
"""(serial, parallel) micro-batches; `parallel` has a list for each worker."""
SYNC_COST = 0.03
"""Relative cost of each further thread of a worker: threads that share an operation synchronise at its end."""
SLACK = 1.1
"""How much more than its part of the tokens a worker may get from one group of rows."""

LONG_ROWS = 2
"""How many times `tokens_in_flight` may be computed at a time where single rows are longer than a batch: two rows of up
to 2,048 tokens side by side are about 11 % faster than one after the other on all threads."""


def tokens_in_flight(number: int) -> int:
    """Tokens that `number` workers compute at a time: two full batches up to four workers, then half a batch each."""
    return FULL_BATCH * max(4, number) // 2


def split_for_workers(
    batch: Batch,
    largest: int,
    round_up: Callable[[int], int] = round_length,
    threads: int = 2,
    share_prefixes: bool = False,
) -> Split:
    """The rows of a packed batch as micro-batches.

    Serial micro-batches are too large to run beside others; the workers' lists hold about as many tokens each. At any
    time no more tokens are computed than the `largest` longest rows hold, or `LONG_ROWS` x `tokens_in_flight`.
    `round_up` maps the length of a row, and of a batch, to the one it is padded to. `share_prefixes`: rows that begin
    alike become groups (`prefixes`), where there are any; one with more than a worker's part of the tokens is a serial
    micro-batch.
    """
    lengths = sample_lengths(batch)
    number = worker_count(lengths, threads)
    capacity = max(LONG_ROWS * tokens_in_flight(number), sum(sorted(lengths)[-largest:]))
    if share_prefixes and "judged" in batch:
        samples = prefixes.by_sample(batch, rows_of_sample(batch))
        if any(group.shared for groups in samples for group in groups):
            return _split_judged(batch, samples, number, capacity, round_up)
        share_prefixes = False
    groups = prefixes.divide(prefixes.find(batch), lengths, capacity) if share_prefixes else []
    if not any(group.shared for group in groups):
        return _split(lengths, number, capacity, partial(select_samples, batch, round_up=round_up))
    tokens = [group.tokens(lengths) for group in groups]
    part = SLACK * sum(tokens) / number
    large = [at for at, group in enumerate(groups) if group.shared and tokens[at] > part]
    others = [at for at in range(len(groups)) if at not in large]

    def select(chosen: Sequence[int]) -> Batch:
        return prefixes.select(batch, [groups[others[at]] for at in chosen], round_up)

    serial, parallel = _split([tokens[at] for at in others], number, capacity, select)
    return [prefixes.select(batch, [groups[at]], round_up) for at in large] + serial, parallel


def _split_judged(
    batch: Batch,
    samples: Sequence[Sequence[prefixes.Group]],
    number: int,
    capacity: int,
    round_up: Callable[[int], int],
) -> Split:
    """Judged samples, of these groups each, stay whole: a loss needs all rows of one."""
    lengths: list[int] = batch["rows"].tolist()

    def select(chosen: Sequence[int]) -> Batch:
        groups = [group for sample in chosen for group in samples[sample]]
        return {**prefixes.select(batch, groups, round_up), "judged": batch["judged"][list(chosen)]}

    tokens = [sum(group.tokens(lengths) for group in groups) for groups in samples]
    return _split(tokens, number, capacity, select)


def _split(lengths: Sequence[int], number: int, capacity: int, select: Callable[[Sequence[int]], Batch]) -> Split:
    """(Serial, parallel) micro-batches of rows with these lengths, which `select` makes of their numbers."""
    parts = fill_batches(range(len(lengths)), lengths, min(tokens_in_flight(number), sum(lengths)) // number)
    parts.sort(key=lambda rows: sum(lengths[row] for row in rows), reverse=True)
    sizes = [sum(lengths[row] for row in part) for part in parts]
    first = next((at for at in range(len(parts) - 1) if sum(sizes[at : at + number]) <= capacity), len(parts))
    serial, parallel = parts[:first], [row for part in parts[first:] for row in part]
    longest = max((lengths[row] for row in parallel), default=0)
    largest_part = min(
        tokens_in_flight(number) // number, (capacity - longest) // (number - 1) if number > 1 else capacity
    )
    parts = balance(parallel, lengths, number)
    return list(map(select, serial)), [list(map(select, fill_batches(part, lengths, largest_part))) for part in parts]


def worker_count(lengths: Sequence[int], threads: int) -> int:
    """The number of workers, each on an equal share of the threads, that finishes rows of these lengths first.

    At most two threads always have two workers.
    """
    if threads <= 2:
        return 2

    def time(number: int) -> float:
        each = threads // number
        longest = max(sum(lengths[row] for row in part) for part in balance(range(len(lengths)), lengths, number))
        return longest / each * (1 + SYNC_COST * (each - 1))

    return min((each for each in range(1, threads + 1) if threads % each == 0), key=time)


def balance(rows: Sequence[int], lengths: Sequence[int], number: int) -> list[list[int]]:
    """The rows in `number` parts of about equal tokens: longest first, each goes to the part with the fewest."""
    made: list[list[int]] = [[] for _ in range(number)]
    for row in sorted(rows, key=lambda row: lengths[row], reverse=True):
        min(made, key=lambda part: sum(lengths[other] for other in part)).append(row)
    return made
