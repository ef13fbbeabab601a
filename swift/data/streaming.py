"""Streams rows from data sets larger than memory. Knows no row format and no tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from swift.chat import Conversation
from swift.data.linting import Report, Say, checked
from swift.data.mix import DataPlan, resolved
from swift.data.registry import catalogue
from swift.data.sources import Source


def rows(plan: DataPlan, say: Say) -> Callable[[int, bool], Iterator[Conversation]]:
    """A function that begins an epoch over the training data of a plan: `begin(number, verbose)`.

    A verbose epoch reports bad rows to `say`. Several data sets are interleaved at random, in proportion to
    their bytes. Raises ValueError for options that need all rows at once: samples, splits, mixing.
    """
    _refuse_sampling(plan)
    sources = resolved(plan.dataset, catalogue(plan.registry))
    for source in sources:
        if source.count:
            raise ValueError(f"--streaming true reads whole data sets: {source.name}#{source.count} would sample")
    sizes = [sum(file.stat().st_size for file in source.files) for source in sources]

    def begin(number: int, verbose: bool) -> Iterator[Conversation]:
        report = say if verbose else _ignore
        passes = [_rows_of(source, plan, report) for source in sources]
        return _interleaved(passes, sizes, Random(f"{plan.dataset_seed} {number}"))

    return begin


def _rows_of(source: Source, plan: DataPlan, say: Say) -> Iterator[Conversation]:
    report = Report()
    yield from checked(source, plan.check_dataset_strategy, report, say, plan.columns)
    for line in report.warnings():
        say(line)


def _interleaved(
    passes: Sequence[Iterator[Conversation]], sizes: Sequence[int], random: Random
) -> Iterator[Conversation]:
    left = dict(enumerate(passes))
    while left:
        (at,) = random.choices(list(left), [max(sizes[each], 1) for each in left])
        row = next(left[at], None)
        if row is None:
            del left[at]
        else:
            yield row


def _refuse_sampling(plan: DataPlan) -> None:
    for flag, given in (
        ("--train_dataset_sample", plan.train_dataset_sample > 0),
        ("--train_dataset_mix_ratio", plan.train_dataset_mix_ratio > 0),
        ("--self_cognition_sample", plan.self_cognition_sample > 0),
    ):
        if given:
            raise ValueError(f"{flag} needs all rows at once: it cannot be combined with --streaming true")
    if not plan.dataset:
        raise ValueError("--streaming true needs --dataset")


def _ignore(_: str) -> None:
    pass
