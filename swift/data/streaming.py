"""Rows read as they are needed, from sets larger than memory. Knows no row shape and no tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from swift.chat import Conversation
from swift.data.linting import Report, Say, checked
from swift.data.mix import DataPlan, resolved
from swift.data.registry import catalogue
from swift.data.sources import Source


def rows(plan: DataPlan, say: Say) -> Callable[[int, bool], Iterator[Conversation]]:
    """A function that begins a pass over the training sets of a plan: `begin(number, aloud)`.

    In a pass that is aloud, `say` hears of bad rows. Several sets are read side by side, each as often as its share of
    all bytes says. Raises ValueError for what needs all rows at once: samples, splits, mixing in.
    """
    _refuse_what_counts_rows(plan)
    sources = resolved(plan.dataset, catalogue(plan.registry))
    for source in sources:
        if source.count:
            raise ValueError(f"--streaming true reads whole sets: {source.name}#{source.count} would sample its rows")
    sizes = [sum(file.stat().st_size for file in source.files) for source in sources]

    def begin(number: int, aloud: bool) -> Iterator[Conversation]:
        hear = say if aloud else _nothing
        passes = [_good(source, plan, hear) for source in sources]
        return _side_by_side(passes, sizes, Random(f"{plan.dataset_seed} {number}"))

    return begin


def _good(source: Source, plan: DataPlan, say: Say) -> Iterator[Conversation]:
    report = Report()
    yield from checked(source, plan.check_dataset_strategy, report, say, plan.columns)
    for line in report.warnings():
        say(line)


def _side_by_side(
    passes: Sequence[Iterator[Conversation]], sizes: Sequence[int], chance: Random
) -> Iterator[Conversation]:
    left = dict(enumerate(passes))
    while left:
        (at,) = chance.choices(list(left), [max(sizes[each], 1) for each in left])
        row = next(left[at], None)
        if row is None:
            del left[at]
        else:
            yield row


def _refuse_what_counts_rows(plan: DataPlan) -> None:
    for flag, given in (
        ("--train_dataset_sample", plan.train_dataset_sample > 0),
        ("--train_dataset_mix_ratio", plan.train_dataset_mix_ratio > 0),
        ("--self_cognition_sample", plan.self_cognition_sample > 0),
    ):
        if given:
            raise ValueError(f"{flag} needs all rows at once: leave it out, or leave --streaming true out")
    if not plan.dataset:
        raise ValueError("--streaming true: no data: give --dataset")


def _nothing(_: str) -> None:
    pass
