"""Findings, rules, figures and charts of a data file, as parts of a page. Keeps nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from nicegui import ui

from swift.assembly import sample_html
from swift.data.data_file import DataFile
from swift.data.linting import Finding
from swift.data.rules import RULES

Say = Callable[..., str]
REMEDIES = {rule.name: rule.remedy.replace("`", "") for rule in RULES}


def findings(say: Say, found: Sequence[Finding]) -> None:
    """What lint says of a row."""
    for each in found:
        ui.html(sample_html.findings([each]))
        if remedy := REMEDIES.get(each.rule):
            ui.label(say("Remedy: {remedy}", remedy=remedy)).classes("studio-muted")


def rules(say: Say, data: DataFile, jump: Callable[[str], None]) -> None:
    """The rules that rows break, each with a button that calls `jump`."""
    if not data.rules:
        ui.label(say("Nothing wrong") if data.done.is_set() else say("Reading ..."))
    for (rule, warning), count in data.rules.most_common():
        with ui.row().classes("items-baseline full-width no-wrap"):
            ui.button(rule, on_click=partial(jump, rule)).props("flat dense no-caps")
            ui.label(f"{count:,}").classes("studio-mono")
            ui.label(": ".join(filter(None, (say("warning") if warning else say("error"), REMEDIES.get(rule)))))


def mixture(say: Say, data: DataFile) -> None:
    with ui.row().classes("full-width"):
        kinds = [(say(kind), count) for kind, count in data.kinds.most_common()]
        ui.html(sample_html.bars(say("Kinds of rows"), kinds)).classes("col")
        sources = [(name or say("not said"), count) for name, count in data.sources.most_common(20)]
        ui.html(sample_html.bars(say("Sources"), sources)).classes("col")


def sizes(say: Say, data: DataFile) -> None:
    ui.html(sample_html.bars(say("Bytes of a row"), sample_html.histogram(data.sizes()))).classes("full-width")


def lengths(say: Say, counted: Sequence[int], rows: int) -> None:
    """`counted`: the tokens of the samples of the first `rows` rows."""
    title = say("Tokens of the samples of the first {count} rows", count=rows)
    ui.html(sample_html.bars(title, sample_html.histogram(counted))).classes("full-width")
