"""The page of `swift teach`: a model's calls of the user's tools before and after training. Measures nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swift.assembly import run_charts
from swift.eval.records import Record, reply
from swift.eval.results import Evaluation
from swift.pages import dialogue, document, elements
from swift.pages.dialogue import Call, Turn
from swift.pages.document import Section
from swift.pages.elements import Bar
from swift.system.durations import duration

SHOWN, OPENED = 20, 3
"""Answers that are listed, and those among them that are open."""
NOTE = (
    "Exact calls: right functions, right arguments, and no call where none is right, with 95 % intervals. The "
    "questions were made by the same grammar as the training data, in phrasings that it leaves out: people ask in more "
    "ways than that."
)


def page(summary: Mapping[str, Any], after: Evaluation, history: Sequence[dict[str, Any]]) -> str:
    """`summary`: content of summary.json. `after`: the answers after training. `history`: log lines of the training."""
    training = summary["training"]
    sections = [
        Section("Before and after", _figures(summary) + elements.note(NOTE)),
        Section("Still wrong", _answers(after, correct=False)),
        Section("Right", _answers(after, correct=True)),
        Section("Training", run_charts.losses(history) + elements.settings(_training(summary, training))),
        Section("Commands", elements.commands(summary["commands"])),
    ]
    return document.render(
        "Your tools, before and after training", sections, lead=opening(summary), kind=f"teach · {summary['base']}"
    )


def opening(summary: Mapping[str, Any]) -> str:
    mean, low, high, count = summary["after"]["all"]["exact"]
    before = summary["before"].get("all", {}).get("exact")
    was = f"; before training it was {before[0]:.0%}" if before else ""
    return (
        f"The model answers {mean:.0%} of {count:.0f} questions in new phrasings with exactly the right calls "
        f"(95 % interval {low:.0%} to {high:.0%}){was}."
    )


def _figures(summary: Mapping[str, Any]) -> str:
    groups = []
    for group, after in summary["after"].items():
        before = summary["before"].get(group, {}).get("exact")
        bars = [_bar("before", before, 6)] if before else []
        bars.append(_bar("after", after["exact"], 1))
        count = round(after["exact"][3])
        groups.append((f"{group}: {count} question{'s' * (count != 1)}", bars))
    return elements.bars(groups)


def _bar(label: str, figure: Sequence[float], colour: int) -> Bar:
    mean, low, high, _ = figure
    return Bar(label, mean, f"{mean:.0%} ({low:.0%} to {high:.0%})", low, high, colour)


def _answers(evaluation: Evaluation, correct: bool) -> str:
    """Questions with the right calls and the model's answer."""
    records = [each for task in evaluation.tasks for each in task.records if each.correct == correct]
    if not records:
        return elements.text("None.")
    shown = "".join(_answer(each, at < OPENED) for at, each in enumerate(records[:SHOWN]))
    return shown + (elements.note(f"{SHOWN} of {len(records)} are shown.") if len(records) > SHOWN else "")


def _answer(record: Record, opened: bool) -> str:
    said = reply(record)
    answer = Turn("assistant", said.content, tuple(Call(call.name, call.arguments) for call in said.tool_calls))
    if record.correct:
        return elements.details(record.asked, dialogue.chat([answer]), opened)
    body = elements.columns([("right", dialogue.chat([_right(record.expected)])), ("answer", dialogue.chat([answer]))])
    return elements.details(record.asked, body + elements.note(record.detail), opened)


def _right(expected: Any) -> Turn:
    """The right calls as a turn."""
    calls: Iterable[Mapping[str, Any]] = expected if isinstance(expected, list) else ()
    found = tuple(Call(str(call["name"]), _json(call["arguments"])) for call in calls)
    return Turn("assistant", "" if found else "(no call)", found)


def _json(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _training(summary: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, object]:
    return {
        "conversations": f"{summary['rows']:,}",
        "steps": training["global_step"],
        "time of training": duration(training["train_time"]),
        "time in all": duration(summary["seconds"]),
        "tokens/s": round(training["tokens_per_second"]),
        "peak memory": f"{training['memory_gib']:.1f} GiB",
        "checkpoint": summary["checkpoint"],
    }
