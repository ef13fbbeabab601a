"""Figures, failures and comparisons of an evaluation on standard output. Writes no file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from swift.eval import figures, report
from swift.eval.calibration import Report
from swift.eval.figures import Comparison, Results
from swift.eval.results import Evaluation
from swift.system import terminal


def show(
    evaluation: Evaluation, comparisons: Mapping[str, Sequence[Comparison]], calibrations: Mapping[str, Report]
) -> None:
    """Prints tables, kinds of failures and notes of each task, then the comparisons."""
    console = _console()
    console.print(f"{evaluation.name}: means with 95 % intervals", highlight=False, markup=False)
    for results in evaluation.tasks:
        console.print(_table(*report.grid(results)))
        calibrated = calibrations.get(results.task)
        sure = [f"confidence of calls: {calibrated.text}"] if calibrated else []
        for line in (*_failure_lines(results), *results.notes, *sure):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    show_comparisons(comparisons)


def show_comparisons(comparisons: Mapping[str, Sequence[Comparison]]) -> None:
    """Prints a table and the flips of each. `comparisons`: `SECOND against FIRST`, or another title -> one a task."""
    console = _console()
    for title, found in comparisons.items():
        console.print(f"{title}: second is {title.partition(' against ')[0]}", highlight=False, markup=False)
        for each in found:
            console.print(_table(*report.change_grid(each)))
            console.print(report.flip_line(each), highlight=False, markup=False, soft_wrap=True)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for the terminal; all columns but the first are aligned right."""
    made = Table(header_style="bold")
    for number, title in enumerate(header):
        made.add_column(title, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        made.add_row(*row)
    return made


def _failure_lines(results: Results) -> list[str]:
    """One line a way of asking: the kinds of failures and how many there are."""
    lines = []
    for guided in results.modes:
        counts = figures.counts(results, guided)
        named = ", ".join(f"{kind} {number}" for kind, number in counts.items()) or "none"
        lines.append(f"failures{', guided' if guided else ''}: {named}")
    return lines


def _console() -> Console:
    return terminal.console()
