"""What came out of a training run, in words: an opening line and warnings, from figures. Knows no page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from swift.runs import history
from swift.runs.contents import Contents
from swift.runs.history import Points
from swift.runs.record import Run
from swift.system import invocation
from swift.system.durations import duration

CHANGED = 0.01
"""Relative change of a loss that counts as one."""
FEW_HELD_OUT = 20
FEW = 5
"""Fewer points show no trend that could be told from noise."""
LITTLE_TRAINED = 0.05


class HeldOut(NamedTuple):
    """(step, loss) of the first, the last and the least evaluation."""

    first: tuple[float, float]
    last: tuple[float, float]
    least: tuple[float, float]

    @property
    def rose(self) -> bool:
        """Whether the loss is by now clearly above its least."""
        return self.last[1] > self.least[1] + CHANGED * abs(self.least[1])


def losses(lines: Sequence[dict[str, Any]], key: str = "loss") -> Points:
    """The finite (step, loss) points of log lines."""
    return history.finite((line["step"], line[key]) for line in lines if _is_number(line.get(key)))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def held_out(lines: Sequence[dict[str, Any]]) -> HeldOut | None:
    """None where nothing was evaluated."""
    points = losses(lines, "eval_loss")
    return HeldOut(points[0], points[-1], min(points, key=lambda point: point[1])) if points else None


def best_step(found: Contents) -> int | None:
    """The step of the checkpoint with the least held-out loss; None where no checkpoint was evaluated."""
    known = dict(losses(found.history, "eval_loss"))
    rated = [(known.get(each.step, each.eval_loss), each.step) for each in found.saved]
    finite = [(loss, step) for loss, step in rated if loss is not None and math.isfinite(loss)]
    return min(finite)[1] if finite else None


def number(value: float) -> str:
    """A loss with two decimals, or three significant digits where it is below 1."""
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:#.3g}"


# --- the opening line -------------------------------------------------------------------------------------------------


def opening(found: Contents) -> str:
    """One or two sentences: the state of a run that did not finish, its losses, its best checkpoint."""
    clauses = [_loss(found.history), _held_out(found), _rewards(found.history), _checkpoint(found)]
    said = "; ".join(clause for clause in clauses if clause)
    return " ".join(part for part in (_state(found.run), f"{said[0].upper()}{said[1:]}." if said else "") if part)


def _state(run: Run) -> str:
    at = f"step {run.record.progress.step:,} of {run.record.progress.steps:,}"
    if run.state == "starting":
        return "The run is starting."
    if run.state in ("running", "saving"):
        left = run.record.progress.seconds_left
        return f"The run is at {at}" + (f", with about {duration(left)} left." if left is not None else ".")
    reason = run.reason.rstrip(".").replace(f", at step {run.record.progress.step:,}", "")
    if run.state == "stopped":  # its reason has the step
        return f"The run was stopped {reason}." if reason else f"The run was stopped at {at}."
    words = {"failed": "failed", "killed": "was killed", "stalled": "has stalled"}
    if run.state not in words:
        return ""
    return f"The run {words[run.state]} at {at}" + (f": {reason}." if reason else ".")


def _loss(lines: Sequence[dict[str, Any]]) -> str:
    points = losses(lines)
    broken = next((line["step"] for line in lines if _is_number(line.get("loss")) and not _finite(line["loss"])), None)
    nan = f"loss is not a number from step {broken:,} on" if broken is not None else ""
    if not points:
        return nan or "no loss was logged"
    if len(points) == 1:
        said = f"loss was {number(points[0][1])} at step {points[0][0]:,}, the only one logged"
    elif mean := _trendless(points):
        low, high = min(value for _, value in points), max(value for _, value in points)
        said = f"loss was {number(mean)} on average, between {number(low)} and {number(high)}, without a trend"
    else:
        curve = history.smoothed(points)
        said = f"loss {_moved(curve[0][1], curve[-1][1])}"
    return f"{said}; {nan}" if nan else said


def _trendless(points: Points) -> float | None:
    """The mean of points too few to smooth whose regression line is within twice its error; None where it is not."""
    if not FEW <= len(points) < history.SMOOTHED:
        return None
    slope, error = _slope(points)
    mean = sum(value for _, value in points) / len(points)
    spread = max(value for _, value in points) - min(value for _, value in points)
    return mean if abs(slope) < 2 * error and spread > CHANGED * abs(mean) else None


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _moved(start: float, end: float) -> str:
    if abs(end - start) <= CHANGED * max(abs(start), abs(end)):
        return f"stayed at about {number(end)}"
    return f"{'fell' if end < start else 'rose'} from {number(start)} to {number(end)}"


def _held_out(found: Contents) -> str:
    held = held_out(found.history)
    steps = found.run.record.progress.steps
    if held is None:
        rows = found.mixture.get("held_out_rows")
        return "no rows were held out" if rows == 0 else ""
    if held.first == held.last:
        return f"held-out loss was {number(held.last[1])} at step {held.last[0]:,}, the only evaluation"
    if held.least == held.first and held.rose:
        return (
            f"held-out loss rose from its first evaluation on, from {number(held.first[1])} to {number(held.last[1])}"
        )
    if held.rose:
        return f"held-out loss stopped falling at step {held.least[0]:,} of {steps:,}"
    if held.least == held.last:
        return f"held-out loss {_moved(held.first[1], held.last[1])}, its lowest"
    return f"held-out loss {_moved(held.first[1], held.least[1])} at step {held.least[0]:,} and stayed there"


def _rewards(lines: Sequence[dict[str, Any]]) -> str:
    """Preference training: how often the chosen reply of a held-out pair has the higher reward."""
    points = losses(lines, "eval_rewards/accuracies")
    return f"the chosen reply has the higher reward in {points[-1][1]:.0%} of held-out pairs" if points else ""


def _checkpoint(found: Contents) -> str:
    if not found.saved:
        return "there is no checkpoint yet" if found.run.is_active else "no checkpoint was saved"
    last, best = found.saved[-1].step, best_step(found)
    if best is None:
        return f"the last checkpoint is of step {last:,}"
    if len(found.saved) == 1:
        return f"the only checkpoint is of step {last:,}"
    held = held_out(found.history)
    if held and held.least[0] != best:
        return f"the best checkpoint that was kept is of step {best:,}"
    return f"the checkpoint of step {best:,}{', the last one,' if best == last else ''} is the best"


# --- warnings ---------------------------------------------------------------------------------------------------------


def warnings(found: Contents) -> list[str]:
    """What to look at, one or two sentences each, the most important first."""
    return [*_ended(found), *_learning(found), *_checks(found), *_rows(found)]


def _ended(found: Contents) -> list[str]:
    run = found.run
    if run.state in ("finished", "starting", "running", "saving"):
        return []
    if run.state == "stalled":
        return [f"The run does nothing: {run.reason}. {invocation.command('runs', 'stop', run.folder)} ends it."]
    if any(each.resumable for each in found.saved):
        return [f"Not all steps were trained. To go on: {invocation.command('runs', 'resume', run.folder)}"]
    return ["Not all steps were trained, and no checkpoint can be resumed."]


def _learning(found: Contents) -> list[str]:
    lines, held, said = found.history, held_out(found.history), []
    if any(_is_number(line.get("eval_loss")) and not _finite(line["eval_loss"]) for line in lines):
        said.append("Held-out loss is not a number at some steps.")
    points, steps = losses(lines), held is not None and held.last[0] > held.least[0]
    curve = history.smoothed(points)
    if held and held.rose and steps:
        at, fell = _at(curve, held.least[0]), f"from {number(held.least[1])} to {number(held.last[1])}"
        if curve and curve[-1][1] < at - CHANGED * abs(at):
            said.append(
                f"Over-fitting: after step {held.least[0]:,} held-out loss rose {fell}, while training loss went on "
                f"falling, from {number(at)} to {number(curve[-1][1])}. Fewer epochs or more rows would help."
            )
        else:
            said.append(
                f"After step {held.least[0]:,} held-out loss rose {fell}, and training loss did not fall either. "
                "A lower learning rate may help."
            )
    elif found.run.state in ("finished", "stopped") and _still_falling(lines):
        said.append("Loss was still falling when the run ended: more epochs may lower it further.")
    if len(points) >= history.SMOOTHED and curve[-1][1] > curve[0][1] + CHANGED * abs(curve[0][1]):
        said.append("Training loss is higher at the end than at the start: the learning rate may be too high.")
    return said


def _at(curve: Points, step: float) -> float:
    """The value of a curve at the point nearest to a step."""
    return min(curve, key=lambda point: abs(point[0] - step))[1] if curve else math.nan


def _still_falling(lines: Sequence[dict[str, Any]]) -> bool:
    """Whether the curve falls in its last quarter by more than noise and more than `CHANGED`.

    Held-out loss decides where it was evaluated often enough, since training loss falls with repetition too.
    """
    evaluated = losses(lines, "eval_loss")
    if len(evaluated) >= 4:
        before, last = evaluated[-2][1], evaluated[-1][1]
        return last == min(value for _, value in evaluated) and before - last > CHANGED * abs(last)
    points = losses(lines)
    points = points[3 * len(points) // 4 :]
    if len(points) < 8:
        return False
    slope, error = _slope(points)
    drop = -slope * (points[-1][0] - points[0][0])
    return slope < -3 * error and drop > 2 * CHANGED * abs(points[-1][1])


def _slope(points: Points) -> tuple[float, float]:
    """The slope of the regression line through points, and its standard error."""
    n = len(points)
    middle, mean = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - middle) ** 2 for x, _ in points)
    slope = sum((x - middle) * (y - mean) for x, y in points) / spread
    rest = sum((y - mean - slope * (x - middle)) ** 2 for x, y in points)
    return slope, math.sqrt(rest / (n - 2) / spread)


def _checks(found: Contents) -> list[str]:
    """What the figures cannot tell."""
    rows = found.mixture.get("held_out_rows")
    if rows == 0:
        return ["No rows were held out, so nothing tells whether the run over-fits (--dataset_test_ratio)."]
    if isinstance(rows, int) and rows < FEW_HELD_OUT:
        return [
            f"Only {_count(rows, 'row was', 'rows were')} held out: small differences of held-out loss mean little."
        ]
    return []


def _rows(found: Contents) -> list[str]:
    """Rows that were dropped or cut, stop tokens that are not trained, and few trained tokens."""
    mixture, said = found.mixture, []
    rows = list(mixture.get("rows", {}).values())
    read, bad = sum(each.get("read", 0) for each in rows), sum(each.get("bad", 0) for each in rows)
    if bad:
        rules = ", ".join(f"{rule} {count:,}" for rule, count in mixture.get("rules", {}).items())
        said.append(f"{bad:,} of {read:,} rows {_were(bad)} dropped for errors{f' ({rules})' if rules else ''}.")
    limit = found.flags.get("max_length")
    over = f"longer than --max_length {limit}" if limit else "too long"
    lengths = list(mixture.get("lengths", {}).values())
    total = sum(sum(each.values()) for each in lengths)
    for status, words in (
        ("dropped", f"dropped, because they are {over}"),
        ("cut", f"cut, because they are {over}: the oldest rounds are gone"),
        ("unrendered", "dropped, because the template or the tool-call format rejects them"),
    ):
        if count := sum(each.get(status, 0) for each in lengths):
            said.append(f"{count:,} of {total:,} samples {_were(count)} {words}.")
    for rule, about in mixture.get("warnings", {}).items():
        said.append(f"{_count(about['rows'], 'row has', 'rows have')} the warning {rule}.")
    tokens = mixture.get("total", {})
    share = tokens.get("trained_tokens", 0) / tokens["tokens"] if tokens.get("tokens") else 1
    if share < LITTLE_TRAINED:
        said.append(f"Only {share:.1%} of the tokens are trained: most of the time goes into text that is only read.")
    ends = mixture.get("sample_lengths", {})
    if ends.get("samples") and ends["trained_ends"] < ends["samples"] / 2:
        said.append(
            f"Only {ends['trained_ends']:,} of {ends['samples']:,} samples train their stop token: replies may not end."
        )
    return said


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _count(count: int, one: str, many: str) -> str:
    return f"1 {one}" if count == 1 else f"{count:,} {many}"
