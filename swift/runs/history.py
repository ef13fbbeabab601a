"""The log lines of a training run, logging.jsonl, and the curves in them. Reads no other file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

FILE = "logging.jsonl"
Points = list[tuple[float, float]]
Axis = Literal["step", "epoch", "time"]
"""Keys of the log lines that can be the horizontal axis."""

CURVES = {
    "train_loss": "loss",
    "eval_loss": "eval_loss",
    "eval_acc": "eval_acc",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens_per_second": "tokens_per_second",
    **{
        f"{prefix}reward_{title}": f"{prefix}rewards/{key}"
        for prefix in ("", "eval_")
        for title, key in (
            *(("accuracy", "accuracies"), ("margin", "margins")),
            *(("of_chosen", "chosen"), ("of_rejected", "rejected")),
        )
    },
    "divergence": "kl",
}
"""Title of a curve -> key of the log lines."""


class Log:
    """The log lines of a run's folder, without an incomplete line of a killed run. A later `read` reads what is new."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._offset = 0
        self.lines: list[dict[str, Any]] = []

    def read(self) -> bool:
        """Whether there is something new. A file that a resumed run has cut is read anew."""
        try:
            with self._file.open("rb") as file:
                file.seek(max(self._offset - 1, 0))
                if self._offset and file.read(1) != b"\n":
                    self._offset, self.lines = 0, []
                    file.seek(0)
                new = file.read()
        except FileNotFoundError:
            return False
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and isinstance(found.get("step"), int):
                while self.lines and self.lines[-1]["step"] > found["step"]:
                    self.lines.pop()  # a resumed run logs steps again
                self.lines.append(found)
        return bool(whole)

    def points(self, key: str, axis: Axis) -> Points:
        """(x, value) of the lines that have both. Times are minutes since the first line."""
        begin = next((line["time"] for line in self.lines if "time" in line), 0.0)
        found = []
        for line in self.lines:
            x, y = line.get(axis), line.get(key)
            if isinstance(x, (int, float)) and isinstance(y, (int, float)):
                found.append(((x - begin) / 60 if axis == "time" else float(x), float(y)))
        return found


def read(folder: Path) -> list[dict[str, Any]]:
    """The log lines of a run's folder, as they are now."""
    log = Log(folder)
    log.read()
    return log.lines


def curves(history: Iterable[Mapping[str, float]]) -> dict[str, Points]:
    """Title -> (step, value) points, for the keys in the log lines."""
    lines = list(history)
    found = {title: [(line["step"], line[key]) for line in lines if key in line] for title, key in CURVES.items()}
    return {title: points for title, points in found.items() if points}


def by_source(history: Iterable[Mapping[str, Any]], key: str = "loss") -> dict[str, Points]:
    """Data set -> (step, value) points of `key`/DATA SET; nothing where a run had only one.

    Keys: `loss` and `eval_loss` in nats per trained token, or that of preferences; `trained_tokens`, or `rows` of
    preferences, since the line before.
    """
    found: dict[str, Points] = {}
    for line in history:
        for name, value in line.items():
            if name.startswith(f"{key}/") and isinstance(value, (int, float)):
                found.setdefault(name.removeprefix(f"{key}/"), []).append((line["step"], value))
    return found


def finite(points: Iterable[tuple[float, float]]) -> Points:
    """The points without NaN and infinite values."""
    return [(step, value) for step, value in points if math.isfinite(value)]


SMOOTHED = 20
"""Fewer points are not smoothed."""
MOST = 600
"""Points of a smoothed curve."""


def smoothed(points: Sequence[tuple[float, float]]) -> Points:
    """A smooth curve through the finite points: at each a line is fitted to those around it, weighted by a Gaussian.

    The width is 4 % of the curve. A running mean would lag behind the curve, and a mean of both sides would begin too
    low where a loss falls fast. More than MOST points are joined to means of neighbours first.
    """
    known = finite(points)
    if len(known) < SMOOTHED:
        return known
    size = math.ceil(len(known) / MOST)
    known = [_mean(known[at : at + size]) for at in range(0, len(known), size)]
    width = max(len(known) / 25, 1.5)
    reach = math.ceil(3 * width)
    weights = [math.exp(-((at / width) ** 2) / 2) for at in range(reach + 1)]
    found = []
    for at, (step, _) in enumerate(known):
        near = range(max(at - reach, 0), min(at + reach + 1, len(known)))
        found.append((step, _fitted([(each - at, known[each][1], weights[abs(each - at)]) for each in near])))
    return found


def _mean(points: Points) -> tuple[float, float]:
    return sum(step for step, _ in points) / len(points), sum(value for _, value in points) / len(points)


def _fitted(points: Sequence[tuple[float, float, float]]) -> float:
    """The value at 0 of the line through (place, value, weight)."""
    total = sum(weight for *_, weight in points)
    middle = sum(weight * x for x, _, weight in points) / total
    mean = sum(weight * y for _, y, weight in points) / total
    spread = sum(weight * (x - middle) ** 2 for x, _, weight in points)
    slope = sum(weight * (x - middle) * (y - mean) for x, y, weight in points) / spread
    return mean - slope * middle
