"""Which tasks to practise next: those like the ones that failed. Knows no model and no figure."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from swift.practice.sampling import Result
from swift.practice.tasks import Cluster, Task

ANY = 0.25
"""Share of the tasks that are drawn whatever failed before, so that what was learned stays."""


class Failures(NamedTuple):
    """A kind of failure at tasks of a cluster."""

    failure: str
    kind: str
    domain: str


class Supply(Protocol):
    """Where tasks come from."""

    def draw(self, wanted: Sequence[Cluster | None]) -> list[Task]:
        """Tasks of these clusters where there are any, at most as many; None: of any cluster."""
        ...


def failures(results: Iterable[Result]) -> Counter[Failures]:
    """How many attempts failed, by kind of failure, kind of task and domain."""
    return Counter(
        Failures(attempt.failure, *result.task.cluster)
        for result in results
        for attempt in result.attempts
        if attempt.failure
    )


def wanted(counts: Counter[Failures], number: int, seed: int) -> list[Cluster | None]:
    """`number` clusters to draw tasks of. A kind of failure in a cluster is drawn in proportion to the square root of
    its attempts, so that rare failures are practised too; the share ANY is drawn freely."""
    rng = random.Random(seed)
    known = sorted(counts)
    free = number if not known else round(ANY * number)
    weights = [math.sqrt(counts[each]) for each in known]
    drawn = rng.choices(known, weights, k=number - free) if known else []
    chosen: list[Cluster | None] = [Cluster(each.kind, each.domain) for each in drawn]
    return chosen + [None] * free


class Pool:
    """The tasks of a file as a supply. `solved`: ids of tasks that were always solved when they were tried last; they
    come last. A draw has no task twice."""

    def __init__(self, tasks: Sequence[Task], solved: Iterable[str], seed: int) -> None:
        self._rng = random.Random(seed)
        self._tasks, self._solved = list(tasks), set(solved)

    def draw(self, wanted: Sequence[Cluster | None]) -> list[Task]:
        order = self._rng.sample(self._tasks, len(self._tasks))
        order.sort(key=lambda task: task.id in self._solved)
        found: list[Task] = []
        for cluster in sorted(wanted, key=lambda each: each is None):
            if not order:
                break
            at = next((number for number, task in enumerate(order) if task.cluster == cluster), 0)
            found.append(order.pop(at))
        return found
