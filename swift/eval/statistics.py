"""Intervals of means, of weighted means and of paired differences. Knows numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
RESAMPLES = 2000
BLOCK = 2_000_000
"""Resampled values that are held in memory at once."""


class Interval(NamedTuple):
    """A mean over `n` questions with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Sequence[float]) -> Interval:
    """The mean of one value a question: Wilson's interval if all are 0 or 1, else the bootstrap's.

    Where all answers of a small set are right, or none is, the bootstrap's interval has no width; Wilson's has.
    Raises ValueError without values.
    """
    if not values:
        raise ValueError("no values")
    return wilson(round(sum(values)), len(values)) if all(value in (0, 1) for value in values) else bootstrap(values)


def wilson(successes: int, n: int) -> Interval:
    """The score interval of a share (E. B. Wilson 1927, Probable inference, the law of succession)."""
    share = successes / n
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # at the borders the formula gives 0 and 1 up to rounding
    return Interval(share, 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half, n)


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """The percentile interval of a mean over resampled questions (Efron and Tibshirani 1993, chapter 13)."""
    data = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(_means(data, seed), (0.025, 0.975))
    return Interval(float(data.mean()), float(low), float(high), len(values))


def _means(data: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    random, size = np.random.default_rng(seed), len(data)
    at_once = max(1, BLOCK // size)
    blocks = [
        data[random.integers(0, size, (min(at_once, RESAMPLES - start), size))].mean(axis=1)
        for start in range(0, RESAMPLES, at_once)
    ]
    return np.concatenate(blocks)


def weighted(parts: Sequence[tuple[float, Interval]]) -> Interval:
    """The weighted mean of independent groups: (weight, interval) each; weights are scaled to 1.

    The borders follow from those of the groups by the method of variance estimates recovery (Zou and Donner 2008,
    Construction of confidence limits about effect measures), so that they keep Wilson's behaviour for small groups.
    """
    total = sum(weight for weight, _ in parts)
    if not total:
        raise ValueError("no groups with a weight")
    shares = [(weight / total, part) for weight, part in parts]
    mean = sum(share * part.mean for share, part in shares)
    down = math.sqrt(sum((share * (part.mean - part.low)) ** 2 for share, part in shares))
    up = math.sqrt(sum((share * (part.high - part.mean)) ** 2 for share, part in shares))
    return Interval(mean, mean - down, mean + up, sum(part.n for _, part in parts))


def difference(values: Sequence[float]) -> Interval:
    """The mean of paired differences, one a question, with the bootstrap's interval.

    Where all differences are 0, or all 1 or -1, the bootstrap's interval has no width: then it is the adjusted Wald
    interval of Agresti and Min (2005, Simple improved confidence intervals for comparing matched proportions), which
    adds half a question to each of the four outcomes of a pair.
    """
    if len(set(values)) > 1 or values[0] not in (-1, 0, 1):
        return bootstrap(values)
    n = len(values) + 2
    better, worse = values.count(1) + 0.5, values.count(-1) + 0.5
    centre = (better - worse) / n
    half = Z95 * math.sqrt(better + worse - (better - worse) ** 2 / n) / n
    return Interval(sum(values) / len(values), max(-1.0, centre - half), min(1.0, centre + half), len(values))
