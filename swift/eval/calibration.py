"""How well the confidence of tool calls matches how often they are right, and the temperature that makes it match.

Knows no model, no task and no file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from swift.chat import Message
from swift.infer.confidence import UNCALIBRATED, Calibration

BINS = 10
MIN_ROWS, MIN_OF_EACH = 40, 8
"""Calls, and right and wrong ones, below which no temperature is fitted."""
LIMITS = (0.02, 50.0)
"""The range of temperatures."""
HIGHEST_LIMIT = 0.1
"""The highest minimum confidence that is fitted. People ask in other words than an evaluation does, and right calls are
then less confident too: above it, a fitted limit costs right calls."""
LEAST = -700.0
"""The smallest log probability in the fit: its exponential is still a positive double."""


class Rated(NamedTuple):
    """A reply with calls: its log probability under the model, not calibrated, whether its calls are right, and whether
    a reply without calls would be."""

    log_confidence: float
    correct: bool
    needless: bool = False


class Bin(NamedTuple):
    """The calls with a confidence above `low` and up to `high`: how many, their mean confidence and the share that is
    right; NaN for an empty bin."""

    low: float
    high: float
    replies: int
    confidence: float
    accuracy: float


class Report(NamedTuple):
    """The calibration of a set of calls.

    `ece`: expected calibration error. `auroc`: the probability that a right call is more confident than a wrong one;
    NaN if there are no calls of either kind. `fitted`: the temperature fitted on all calls, None if it cannot be,
    because of `reason`. `fitted_ece`: the error with a fitted temperature, on calls that it was not fitted on.
    """

    rows: int
    accuracy: float
    confidence: float
    ece: float
    auroc: float
    bins: tuple[Bin, ...]
    fitted: Calibration | None
    fitted_ece: float
    reason: str = ""

    @property
    def text(self) -> str:
        """Figures and a table for the terminal."""
        lines = [
            f"{self.rows} replies with calls; right {self.accuracy:.1%}, mean confidence {self.confidence:.1%}",
            f"expected calibration error {self.ece:.3f}; AUROC {self.auroc:.3f}",
            "confidence      replies   mean    right",
        ]
        for each in self.bins:
            figures = f"{each.confidence:7.3f}  {each.accuracy:7.3f}" if each.replies else "      -        -"
            lines.append(f"{each.low:.2f} to {each.high:.2f}  {each.replies:9} {figures}")
        if self.fitted is None:
            lines.append(f"no temperature is fitted: {self.reason}")
        else:
            fitted = f"temperature {self.fitted.temperature:.3f}: expected calibration error {self.fitted_ece:.3f}"
            lines.append(f"{fitted} on replies that it is not fitted on")
        return "\n".join(lines)


def reply_confidence(message: Message) -> float | None:
    """The confidence in all calls of a reply together: their product. None without calls, or if one is unknown."""
    known = [call.confidence for call in message.tool_calls if call.confidence is not None]
    return math.prod(known) if known and len(known) == len(message.tool_calls) else None


def rated(
    message: Message, correct: bool, calibration: Calibration = UNCALIBRATED, needless: bool = False
) -> Rated | None:
    """A judged reply for `report`; None if it has no calls or no confidence.

    `calibration`: the one that the message's confidence was calibrated with; it is undone. `needless`: no call is
    right.
    """
    found = reply_confidence(message)
    if found is None:
        return None
    return Rated(max(LEAST, math.log(found)) * calibration.temperature if found > 0 else LEAST, correct, needless)


def report(replies: Iterable[Rated], calibration: Calibration = UNCALIBRATED) -> Report:
    """The figures of judged replies with calls. `calibration`: the one that is judged.

    `fitted_ece` is cross-validated: each half of the replies, every second one, is calibrated with a temperature that
    is fitted on the other half. Raises ValueError if there are no replies.
    """
    rows = list(replies)
    if not rows:
        raise ValueError("calibration: no reply has a call with a confidence")
    confidences = [calibration(row.log_confidence) for row in rows]
    correct = [row.correct for row in rows]
    fitted, reason, fitted_ece = None, "", math.nan
    try:
        fitted = fit_temperature([row.log_confidence for row in rows], correct)
    except ValueError as error:
        reason = str(error)
    else:
        fitted_ece = _cross_validated(rows)
    return Report(
        len(rows),
        sum(correct) / len(rows),
        sum(confidences) / len(rows),
        expected_calibration_error(confidences, correct),
        auroc(confidences, correct),
        reliability(confidences, correct),
        fitted,
        fitted_ece,
        reason,
    )


def reliability(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> tuple[Bin, ...]:
    """The bins of a reliability diagram: equal widths from 0 to 1."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for confidence, right in zip(confidences, correct, strict=True):
        members[min(max(math.ceil(confidence * bins) - 1, 0), bins - 1)].append((confidence, right))
    return tuple(
        Bin(
            index / bins,
            (index + 1) / bins,
            len(pairs),
            sum(confidence for confidence, _ in pairs) / len(pairs) if pairs else math.nan,
            sum(right for _, right in pairs) / len(pairs) if pairs else math.nan,
        )
        for index, pairs in enumerate(members)
    )


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> float:
    """The mean distance between confidence and accuracy over bins, weighted by their sizes (Guo et al. 2017,
    arXiv 1706.04599, equation 3). Raises ValueError for no calls."""
    if not confidences:
        raise ValueError("calibration: there are no calls")
    found = reliability(confidences, correct, bins)
    return sum(each.replies * abs(each.accuracy - each.confidence) for each in found if each.replies) / len(confidences)


def auroc(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """The probability that a right call has a higher confidence than a wrong one; ties count half. NaN if there are
    only right or only wrong calls."""
    ranked = sorted(zip(confidences, correct, strict=True))
    right = sum(correct)
    wrong = len(ranked) - right
    if not right or not wrong:
        return math.nan
    total, at = 0.0, 0
    while at < len(ranked):  # the Mann-Whitney statistic: the ranks of the right ones, equal values share theirs
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        total += (at + end + 1) / 2 * sum(each for _, each in ranked[at:end])
        at = end
    return (total - right * (right + 1) / 2) / (right * wrong)


def fit_temperature(log_confidences: Sequence[float], correct: Sequence[bool]) -> Calibration:
    """The temperature with the smallest negative log likelihood of `correct`, within LIMITS.

    The likelihood of `p ** a` with a = 1 / temperature is concave in a, so its only maximum is found by bisection of
    the derivative. Raises ValueError, with the reason, for too few calls.
    """
    right = sum(correct)
    if len(correct) < MIN_ROWS:
        raise ValueError(f"{len(correct)} calls are too few: it takes {MIN_ROWS}")
    if min(right, len(correct) - right) < MIN_OF_EACH:
        raise ValueError(f"{right} of {len(correct)} calls are right: it takes {MIN_OF_EACH} right and wrong ones each")
    return _fit(log_confidences, correct)


class Limit(NamedTuple):
    """A confidence below which calls are not made; 0 if all are better made. `right`, `needless`: how many calls below
    it are right, and how many where no call is."""

    confidence: float
    right: int = 0
    needless: int = 0


def fit_min_confidence(replies: Sequence[Rated], calibration: Calibration) -> Limit:
    """The confidence, as `calibration` has it, below which replies in words are right more often than calls.

    Of all limits up to HIGHEST_LIMIT, it is the lowest with the most right replies: a call that is not made counts as
    right if it was needless. It is 0 with fewer than MIN_OF_EACH needless calls.
    """
    if sum(row.needless for row in replies) < MIN_OF_EACH:
        return Limit(0.0)
    rows = sorted(row for row in replies if calibration(row.log_confidence) < HIGHEST_LIMIT)
    best, most, gained = 0, 0, 0
    for number, row in enumerate(rows, 1):
        gained += row.needless - row.correct
        if gained > most:
            best, most = number, gained
    if not best:
        return Limit(0.0)
    below = rows[:best]
    following = calibration(rows[best].log_confidence) if best < len(rows) else HIGHEST_LIMIT
    limit = (calibration(below[-1].log_confidence) + following) / 2
    return Limit(limit, sum(row.correct for row in below), sum(row.needless for row in below))


def _fit(log_confidences: Sequence[float], correct: Sequence[bool]) -> Calibration:
    # A probability of exactly 1 has no likelihood of being wrong.
    logs = [min(max(each, LEAST), -1e-9) for each in log_confidences]

    def slope(a: float) -> float:
        """The derivative of the log likelihood."""
        return sum(
            each if ok else each / -math.expm1(min(-a * each, 700.0)) for each, ok in zip(logs, correct, strict=True)
        )

    low, high = 1 / LIMITS[1], 1 / LIMITS[0]
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return Calibration(1 / math.sqrt(low * high))


def _cross_validated(rows: Sequence[Rated]) -> float:
    """The expected calibration error of each half with the temperature of the other."""
    confidences: list[float] = []
    correct: list[bool] = []
    for half in (0, 1):
        fitted_on, held_out = rows[half::2], rows[1 - half :: 2]
        fitted = _fit([row.log_confidence for row in fitted_on], [row.correct for row in fitted_on])
        confidences += [fitted(row.log_confidence) for row in held_out]
        correct += [row.correct for row in held_out]
    return expected_calibration_error(confidences, correct)


def plot(reports: Sequence[tuple[str, Report]], kind: Literal["svg", "png"] = "svg") -> bytes:
    """The reliability diagrams of titled reports side by side, as the bytes of an image file.

    A point is a bin: its area grows with the replies in it, and points below the diagonal are too confident.
    """
    from matplotlib import rc_context  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(reports), 4.3), layout="constrained")
    for index, (title, each) in enumerate(reports):
        axes = figure.add_subplot(1, len(reports), index + 1)
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        full = [part for part in each.bins if part.replies]
        areas = [20 + 400 * part.replies / each.rows for part in full]
        axes.scatter([part.confidence for part in full], [part.accuracy for part in full], s=areas, alpha=0.7)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="confidence", ylabel="share of right replies")
        axes.set_title(f"{title}: ECE {each.ece:.3f}", fontsize=10)
        axes.set_aspect("equal")
    file = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "swift"}):  # text stays text, equal plots equal bytes
        figure.savefig(file, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()
