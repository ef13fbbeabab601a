"""Charts of the log lines of training runs: the losses of one, the others of one, the same figure of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swift.pages import chart
from swift.pages.chart import Curve, Mark
from swift.runs import history, outcome
from swift.runs.history import Points

Lines = Sequence[dict[str, Any]]
NATS = "nats per trained token"
COLOURS = 6
"""Of a page; the seventh curve has the first again, and is dashed."""


def losses(lines: Lines, unit: str = NATS) -> str:
    """Training loss smoothed, with its points behind, and held-out loss with the least one marked."""
    raw, evaluated = outcome.losses(lines), outcome.losses(lines, "eval_loss")
    curve, held, smooth = history.smoothed(raw), outcome.held_out(lines), len(raw) >= history.SMOOTHED
    curves = [
        Curve("training loss", curve, 1, raw=raw if smooth else (), dots=not smooth),
        Curve("held-out loss", evaluated, 2, dots=True),
    ]
    marks = [Mark(held.least[0], f"least held-out loss: step {held.least[0]:,}")] if held and len(evaluated) > 1 else []
    remark = (
        "The faint line has each logged value; the strong one is a line fitted to those around it." if smooth else ""
    )
    return chart.chart(curves, y=unit, marks=marks, remark=remark)


def by_source(losses: Mapping[str, Points], smooth: bool, unit: str) -> str:
    """The loss of each data set of a mixture, by the name that is shown."""
    curves = []
    for at, (name, points) in enumerate(losses.items()):
        few = not smooth or len(points) < history.SMOOTHED
        curve = history.finite(points) if few else history.smoothed(points)
        curves.append(Curve(name, curve, at % COLOURS + 1, dots=few, dashed=at >= COLOURS))
    return chart.chart(curves, y=unit)


def others(lines: Lines) -> str:
    """Every other figure in a small chart of its own."""
    drawn = []
    for title, points in history.curves(lines).items():
        if title in ("train_loss", "eval_loss"):
            continue
        raw = history.finite(points)
        curve = history.smoothed(raw)
        noisy = curve != raw and title != "learning_rate"
        shown = Curve(title.replace("_", " "), curve if noisy else raw, 3, raw=raw if noisy else ())
        drawn.append(chart.chart([shown], small=True))
    body = "".join(drawn)
    return f'<div class="charts">{body}</div>' if body else ""


def together(runs: Mapping[str, Lines], key: str, unit: str = "") -> str:
    """The same figure of several runs by name. `key`: of the log lines; training loss is smoothed."""
    curves = []
    for at, (name, lines) in enumerate(runs.items()):
        points = outcome.losses(lines, key)
        few = len(points) < history.SMOOTHED
        colour, again = at % COLOURS + 1, at >= COLOURS
        curves.append(
            Curve(name, history.smoothed(points) if key == "loss" else points, colour, dots=few, dashed=again)
        )
    return chart.chart(curves, y=unit)
