"""Figures, comparisons and failures of an evaluation, as tables for the terminal and as an HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swift.eval import calibration, figures
from swift.eval.figures import Change, Comparison, Figure, Flip, Results
from swift.eval.records import Record
from swift.eval.results import Evaluation
from swift.eval.statistics import Interval
from swift.eval.task import FAILURES, Metric
from swift.pages import document, elements

SHOWN = 100
"""Failures of one kind, and flips of one direction, on a page."""
LONGEST = 2000
"""Characters of a text on a page."""


def grid(results: Results) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the figures of a task: one row a group and way of asking."""
    found = figures.figures(results)
    header = [results.task, "questions", *(_title(metric) for metric in results.metrics)]
    modes = [guided for guided in results.modes if any(figure.guided == guided for figure in found)]
    rows = []
    for guided in modes:
        for group in dict.fromkeys(figure.group for figure in found if figure.guided == guided):
            here = {figure.metric: figure.value for figure in found if (figure.group, figure.guided) == (group, guided)}
            count = max(value.n for value in here.values())
            cells = [_cell(here.get(metric.name), metric) for metric in results.metrics]
            rows.append([f"{group}, guided" if guided else group, f"{count:,}", *cells])
    return header, rows


def change_grid(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of a comparison: one row a metric and group."""
    metrics = {metric.name: metric for metric in found.metrics}
    header = [f"{found.task}, {found.guided}", "group", "questions", "first", "second", "difference"]
    rows = [
        [
            _title(metrics[each.metric]),
            each.group,
            f"{each.difference.n:,}",
            _number(each.first, metrics[each.metric]),
            _number(each.second, metrics[each.metric]),
            _change(each, metrics[each.metric]),
        ]
        for each in found.changes
    ]
    return header, rows


def flip_line(found: Comparison) -> str:
    """How many questions flipped, and how many only one side has."""
    better = sum(flip.better for flip in found.flips)
    alone = found.only_first + found.only_second
    note = f"; {alone} questions that only one side has are left out" if alone else ""
    lost = len(found.flips) - better
    kept = f"; {found.known - lost} of {found.known} right answers stayed right" if found.known else ""
    return (
        f"{found.task}, {found.guided}: of {found.common} questions, {better} became right and {lost} wrong{kept}{note}"
    )


def _title(metric: Metric) -> str:
    return f"{metric.title} %" if metric.share else metric.title


def _cell(value: Interval | None, metric: Metric) -> str:
    if value is None:
        return "-"
    low, high = _number(value.low, metric), _number(value.high, metric)
    return f"{_number(value.mean, metric)} [{low}, {high}]"


def _number(value: float, metric: Metric) -> str:
    return f"{100 * value:.1f}" if metric.share else f"{value:.3f}"


def _change(change: Change, metric: Metric) -> str:
    scale, digits = (100, 1) if metric.share else (1, 3)
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in change.difference[:3])
    return f"{mean} [{low}, {high}]"


# --- the page ---


def page(
    evaluation: Evaluation,
    comparisons: Mapping[str, Sequence[Comparison]],
    calibrations: Mapping[str, calibration.Report],
) -> str:
    """Figures, failures and calibration of each task, the comparisons, and the settings."""
    sections = []
    for results in evaluation.tasks:
        header, rows = grid(results)
        notes = "".join(elements.note(note) for note in results.notes)
        sections.append(document.Section(results.task, _bars(results) + elements.table(header, rows) + notes))
        sections += _failure_sections(results)
    for what, found in comparisons.items():
        sections.append(document.Section(what, "".join(_compared(each) for each in found)))
    if calibrations:
        diagrams = calibration.plot(list(calibrations.items()))
        picture = elements.picture(diagrams, "reliability diagrams", "svg+xml")
        figures_of = "".join(elements.code(f"{task}: {each.text}") for task, each in calibrations.items())
        sections.append(document.Section("Confidence of calls", picture + figures_of))
    sections.append(document.Section("Settings", elements.settings(_flat(evaluation.settings))))
    return document.render(f"Evaluation of {evaluation.name}", sections, lead=opening(evaluation), kind="evaluation")


def opening(evaluation: Evaluation) -> str:
    """The first figure of each task, over all of its questions."""
    parts = []
    for results in evaluation.tasks:
        metric = results.metrics[0]
        value = next((each.value for each in figures.figures(results) if _is_total(each, metric)), None)
        if value is None:
            continue
        unit = " %" if metric.share else ""
        low, high = _number(value.low, metric), _number(value.high, metric)
        parts.append(
            f"{results.task}: {metric.title} {_number(value.mean, metric)}{unit} of {value.n:,} questions "
            f"(95 % interval {low} to {high})"
        )
    return "; ".join(parts) + "." if parts else "No question was answered."


def _is_total(figure: Figure, metric: Metric) -> bool:
    return (figure.group, figure.metric) == (figures.ALL, metric.name)


def _bars(results: Results) -> str:
    """The shares over all questions, as bars with their intervals."""
    groups = []
    for metric in results.metrics:
        found = [each for each in figures.figures(results) if metric.share and _is_total(each, metric)]
        bars = [
            elements.Bar(
                "guided" if each.guided else "",
                each.value.mean,
                f"{_cell(each.value, metric)} %",
                each.value.low,
                each.value.high,
                3 if each.guided else 1,
            )
            for each in found
        ]
        groups += [(metric.title, bars)] if bars else []
    return elements.bars(groups) if groups else ""


def comparison_page(what: str, found: Sequence[Comparison]) -> str:
    """A page with a comparison alone."""
    sections = [document.Section(each.task, _compared(each)) for each in found]
    return document.render(what, sections, lead=" ".join(f"{flip_line(each)}." for each in found), kind="comparison")


def _failure_sections(results: Results) -> list[document.Section]:
    sections = []
    for guided in results.modes:
        kinds = figures.failures(results, guided)
        body = "".join(
            elements.details(kind_line(kind, failed), _shown(map(failure_row, failed[:SHOWN]), FAILURE_HEADER))
            for kind, failed in kinds
        )
        title = f"{results.task}: failures{', guided' if guided else ''}"
        sections.append(document.Section(title, body or elements.text("none")))
    return sections


FAILURE_HEADER = ("question", "reply", "right answer", "what is wrong")
FLIP_HEADER = ("question", "first", "second", "right answer")


def kind_line(kind: str, failed: Sequence[Record]) -> str:
    """A kind of failure, how many answers have it, and what it means."""
    meaning = f": {FAILURES[kind]}" if kind in FAILURES else ""
    cut = f" (the first {SHOWN} are shown)" if len(failed) > SHOWN else ""
    return f"{kind} ({len(failed)}){meaning}{cut}"


def _shown(rows: Iterable[Sequence[str]], header: Sequence[str]) -> str:
    return elements.side_by_side(header, rows)


def failure_row(record: Record) -> list[str]:
    """The cells under FAILURE_HEADER."""
    return [f"{record.id}\n\n{_cut(record.asked)}", reply_text(record), _expected(record), record.detail]


def _compared(found: Comparison) -> str:
    header, rows = change_grid(found)
    parts = [elements.text(flip_line(found)), elements.table(header, rows)]
    for better, title in ((False, "became wrong"), (True, "became right")):
        flips = [flip for flip in found.flips if flip.better == better]
        cut = f" (the first {SHOWN} are shown)" if len(flips) > SHOWN else ""
        if flips:
            body = _shown(map(flip_row, flips[:SHOWN]), FLIP_HEADER)
            parts.append(elements.details(f"{title} ({len(flips)}){cut}", body))
    return "".join(parts)


def flip_row(flip: Flip) -> list[str]:
    """The cells under FLIP_HEADER."""
    first, second = flip
    return [
        f"{first.id}\n\n{_cut(first.asked)}",
        _with_failure(first),
        _with_failure(second),
        _expected(first),
    ]


def _with_failure(record: Record) -> str:
    failure = ": ".join(part for part in (record.failure, record.detail) if part)
    return f"{'right' if record.correct else failure}\n\n{reply_text(record)}"


def reply_text(record: Record) -> str:
    """The messages of an answer as text: content, then calls, one a line."""
    parts = []
    several = len(record.messages) > 1
    for message in record.messages:
        calls = [_call(each) for each in message.get("calls", ())]
        said = "\n".join(part for part in (message["content"].strip(), *calls) if part)
        parts.append(f"[{message['role']}] {said}" if several else said)
    return _cut("\n".join(parts)) or "(empty)"


def _call(call: Mapping[str, Any]) -> str:
    confidence = call.get("confidence")
    sure = "" if confidence is None else f"  (confidence {confidence:.2f})"
    return f"{call['name']}({call['arguments']}){sure}"


def _expected(record: Record) -> str:
    """The right answer: calls one a line, anything else as JSON."""
    expected = record.expected
    if isinstance(expected, dict) and isinstance(expected.get("text"), str):
        return _cut(expected["text"])
    if isinstance(expected, str):
        return _cut(expected)
    if expected == []:
        return "(no call)"
    if isinstance(expected, list) and all(
        isinstance(each, dict) and set(each) == {"name", "arguments"} for each in expected
    ):
        return _cut("\n".join(f"{each['name']}({_json(each['arguments'])})" for each in expected))
    return _cut(json.dumps(expected, ensure_ascii=False, indent=1))


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [... {len(text) - LONGEST:,} characters]"


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in settings.items()
    }
