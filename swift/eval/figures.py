"""Judged answers -> figures with intervals, and the comparison of two sets of answers. Knows no file and no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from swift.eval import statistics
from swift.eval.records import Record
from swift.eval.statistics import Interval
from swift.eval.task import FAILURES, Metric, Total

ALL = "all"


class Results(NamedTuple):
    """The answers to the questions of one task, and what its figures are."""

    task: str
    version: str
    metrics: tuple[Metric, ...]
    totals: tuple[Total, ...]
    notes: tuple[str, ...]
    records: tuple[Record, ...]

    @property
    def modes(self) -> list[bool]:
        """Whether answers are guided: False, True or both."""
        return sorted({record.guided for record in self.records})

    def answers(self, guided: bool) -> dict[str, list[Record]]:
        """Question -> its answers, one a seed.

        A question without tools has no guided answer, because a grammar would change nothing: its other one counts.
        """
        found: dict[str, list[Record]] = {}
        for record in self.records:
            if record.guided == guided:
                found.setdefault(record.id, []).append(record)
        if guided and found:
            for id, records in self.answers(False).items():
                found.setdefault(id, records)
        return found


class Figure(NamedTuple):
    """A metric over the questions of a group, "all" for every question of the task."""

    group: str
    metric: str
    guided: bool
    value: Interval


class Change(NamedTuple):
    """A metric of two sets of answers to the same questions: both means, and the mean difference, second - first."""

    group: str
    metric: str
    first: float
    second: float
    difference: Interval


class Flip(NamedTuple):
    """A question that one side has right and the other wrong, with an answer of each."""

    first: Record
    second: Record

    @property
    def better(self) -> bool:
        """Whether the second side has it right."""
        return self.second.correct


class Comparison(NamedTuple):
    """Two sets of answers. `common`: the questions that both have; `only_first`, `only_second`: left out.

    `known`: the common questions that have the headline metric and that the first side answers right.
    """

    task: str
    guided: str
    metrics: tuple[Metric, ...]
    changes: tuple[Change, ...]
    flips: tuple[Flip, ...]
    common: int
    only_first: int
    only_second: int
    known: int


def figures(results: Results) -> list[Figure]:
    """For each way of asking: all questions, the totals of the task, then its groups."""
    found = []
    for guided in results.modes:
        answers = results.answers(guided)
        for metric in results.metrics:
            for group, value in _grouped(_values(answers, metric), _groups(answers), results.totals, metric):
                found.append(Figure(group, metric.name, guided, value))
    return found


def failures(results: Results, guided: bool) -> list[tuple[str, list[Record]]]:
    """(kind of failure, its answers), in the order of FAILURES."""
    kinds: dict[str, list[Record]] = {}
    for records in results.answers(guided).values():
        for record in records:
            if not record.correct:
                kinds.setdefault(record.failure or "wrong", []).append(record)
    order = list(FAILURES)
    return sorted(kinds.items(), key=lambda each: order.index(each[0]) if each[0] in order else len(order))


def counts(results: Results, guided: bool) -> Counter[str]:
    return Counter({kind: len(records) for kind, records in failures(results, guided)})


def compare(
    results: Results, first: Mapping[str, Sequence[Record]], second: Mapping[str, Sequence[Record]], guided: str
) -> Comparison:
    """Compares answers to the same questions. `results`: names the task and its metrics; `guided`: for reports.

    With several seeds a question counts with the mean over its seeds, and flips if its majority does. A question whose
    text differs between the sides is not common to them.
    """
    common = [id for id, records in first.items() if id in second and records[0].question == second[id][0].question]
    left, right = {id: first[id] for id in common}, {id: second[id] for id in common}
    groups = _groups(left)
    changes = []
    for metric in results.metrics:
        before, after = _values(left, metric), _values(right, metric)
        both = [id for id in before if id in after]
        if not both:
            continue
        deltas = {id: after[id] - before[id] for id in both}
        befores, afters = {id: before[id] for id in both}, {id: after[id] for id in both}
        for (group, difference), (_, one), (_, two) in zip(
            _grouped(deltas, groups, results.totals, metric, statistics.difference),
            _grouped(befores, groups, results.totals, metric),
            _grouped(afters, groups, results.totals, metric),
            strict=True,
        ):
            if group == ALL or group not in groups.values() or difference.n < len(both):  # not all of them once more
                changes.append(Change(group, metric.name, one.mean, two.mean, difference))
    flips = [
        Flip(_typical(left[id]), _typical(right[id])) for id in common if _correct(left[id]) != _correct(right[id])
    ]
    return Comparison(
        results.task,
        guided,
        results.metrics,
        tuple(changes),
        tuple(sorted(flips, key=lambda flip: flip.better)),
        len(common),
        len(first) - len(common),
        len(second) - len(common),
        sum(_correct(left[id]) for id in _values(left, results.metrics[0])),
    )


def _values(answers: Mapping[str, Sequence[Record]], metric: Metric) -> dict[str, float]:
    """Question -> the mean of a score over its seeds, for the questions that have it."""
    found = {}
    for id, records in answers.items():
        scores = [record.scores[metric.name] for record in records if metric.name in record.scores]
        if scores:
            found[id] = sum(scores) / len(scores)
    return found


def _groups(answers: Mapping[str, Sequence[Record]]) -> dict[str, str]:
    return {id: records[0].group for id, records in answers.items()}


def _grouped(
    values: Mapping[str, float],
    groups: Mapping[str, str],
    totals: Iterable[Total],
    metric: Metric,
    interval: Callable[[Sequence[float]], Interval] = statistics.interval,
) -> Iterator[tuple[str, Interval]]:
    """(group, its mean): all questions, totals, and the groups if there are several."""
    if not values:
        return
    yield ALL, interval(list(values.values()))
    parted: dict[str, list[float]] = {}
    for id, value in values.items():
        parted.setdefault(groups[id], []).append(value)
    each = {group: interval(found) for group, found in parted.items()}
    for total in totals:
        parts = [(weight, each[group]) for group, weight in total.weights.items() if group in each]
        if total.metric == metric.name and any(weight for weight, _ in parts):
            yield total.title, statistics.weighted(parts)
    if len(set(groups.values())) > 1:
        yield from each.items()


def _correct(records: Sequence[Record]) -> bool:
    return 2 * sum(record.correct for record in records) > len(records)


def _typical(records: Sequence[Record]) -> Record:
    """An answer on the side of the majority."""
    return next(record for record in records if record.correct == _correct(records))
