"""What a model can do on held-out tasks, in figures with intervals: pass@k and calls where none is right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from swift.eval.statistics import Interval, difference, interval
from swift.practice.sampling import Result


class Outcome(NamedTuple):
    """The attempts at a held-out task. `right`: successes; `called`: attempts with a call; `no_call`: none is right."""

    id: str
    kind: str
    samples: int
    right: int
    called: int
    no_call: bool


@dataclass(frozen=True)
class Measured:
    """A model on held-out tasks. `general_loss`: in nats per token of held-out general text; None: not measured.
    `seconds`: that the measurement took; `sampling_seconds`: those of the attempts."""

    outcomes: tuple[Outcome, ...]
    general_loss: float | None = None
    seconds: float = 0.0
    sampling_seconds: float = 0.0

    @property
    def samples(self) -> int:
        """The attempts at each task."""
        return min(each.samples for each in self.outcomes)

    def pass_at(self, k: int) -> Interval:
        """The mean of pass@k over the tasks."""
        return interval([pass_at_k(each.samples, each.right, k) for each in self.outcomes])

    def called_wrongly(self) -> Interval | None:
        """The share of attempts with a call at tasks where none is right; None without such tasks."""
        shares = [each.called / each.samples for each in self.outcomes if each.no_call]
        return interval(shares) if shares else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"outcomes": [each._asdict() for each in self.outcomes]}


def measured(value: Mapping[str, Any]) -> Measured:
    """The inverse of `Measured.as_json`."""
    outcomes = tuple(Outcome(**each) for each in value["outcomes"])
    return Measured(outcomes, value["general_loss"], value["seconds"], value["sampling_seconds"])


def outcomes(results: Iterable[Result]) -> tuple[Outcome, ...]:
    """The outcome of each task, in the order of ids, so that two measurements pair."""
    made = (
        Outcome(
            task.id,
            task.cluster.kind,
            len(attempts),
            sum(each.succeeded for each in attempts),
            sum(each.called for each in attempts),
            task.no_call,
        )
        for task, attempts in results
    )
    return tuple(sorted(made))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The probability that one of `k` attempts is right, estimated without bias from `right` of `samples`.

    Chen et al. 2021, arXiv 2107.03374, equation 1. Raises ValueError for more than `samples`.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def gain(before: Measured, after: Measured) -> Interval:
    """The mean difference of pass@1, task by task, over the tasks that both have. Raises ValueError without any."""
    earlier = {each.id: each for each in before.outcomes}
    pairs = [(earlier[each.id], each) for each in after.outcomes if each.id in earlier]
    if not pairs:
        raise ValueError("no held-out task is in both measurements")
    return difference([after.right / after.samples - before.right / before.samples for before, after in pairs])


def shown_ks(samples: int) -> list[int]:
    """The k of the figures that are shown: 1, 2, 4 ... and the number of samples."""
    powers = [1 << power for power in range(samples.bit_length()) if 1 << power < samples]
    return [*powers, samples]


def best(rounds: Sequence[Measured], loss_limit: float) -> int:
    """The number of the best measurement by pass@1, the earlier one of equals; 0 is the start.

    `loss_limit`: nats by which the general loss may exceed that of the start.
    """
    start = rounds[0].general_loss

    def forgot(each: Measured) -> bool:
        return start is not None and each.general_loss is not None and each.general_loss > start + loss_limit

    fit = [number for number, each in enumerate(rounds) if number == 0 or not forgot(each)]
    return max(fit, key=lambda number: (rounds[number].pass_at(1).mean, -number))


def is_settled(rounds: Sequence[Measured], patience: int) -> bool:
    """Whether none of the last `patience` rounds is better than the best one before them: the interval of its gain
    includes 0 or lies below."""
    if len(rounds) <= patience:
        return False
    earlier = rounds[: len(rounds) - patience]
    top = max(earlier, key=lambda each: each.pass_at(1).mean)
    return all(gain(top, each).low <= 0 for each in rounds[-patience:])
