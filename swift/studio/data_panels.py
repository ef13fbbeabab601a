"""Findings, rules, figures and charts of a data file, and fields to edit a row, as parts of a page. Keeps nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nicegui import events, ui

from swift.assembly import sample_html
from swift.data.data_file import DataFile, text_of
from swift.data.linting import Finding
from swift.data.row_fields import Field, Keys, changed, fields, row_of
from swift.data.row_values import BadRow, Row
from swift.data.rules import RULES

Say = Callable[..., str]
LONGEST = 200_000
"""Characters of a text that can be edited in a page."""
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


def editor(say: Say, row: Row | BadRow, raw: str, keep: Callable[[Callable[[], Row]], None]) -> None:
    """The fields of a row, and the whole row as JSON. `raw`: the text of one that cannot be read.

    `keep` is called with a function that returns the edited row, or raises ValueError for wrong input.
    """
    texts: dict[Keys, str] = {}

    def note(keys: Keys, event: events.ValueChangeEventArguments[Any]) -> None:
        texts[keys] = event.value or ""

    known = [] if isinstance(row, BadRow) else fields(row)
    for field in known:
        if len(field.text) > LONGEST:
            ui.label(say("{field}: too long to be edited here", field=_label(say, field)))
            continue
        box = ui.input if field.what in ("weight", "name") else ui.textarea
        shown = box(_label(say, field), value=field.text).classes("full-width")
        hint = f'hint="{say("empty: as the loss scale says")}"' if field.what == "weight" else ""
        shown.props(f"rows={_height(field.text)} {hint}")
        shown.on_value_change(partial(note, field.keys))
    if known and isinstance(row, dict):
        ui.button(say("Keep the edit"), on_click=partial(keep, partial(changed, row, texts)))
    whole = raw if isinstance(row, BadRow) else text_of(row)
    if len(whole) > LONGEST:
        ui.label(say("{field}: too long to be edited here", field=say("The whole row as JSON")))
        return
    typed = ui.textarea(say("The whole row as JSON"), value=whole.strip()).classes("full-width studio-mono")
    typed.props("rows=8")
    ui.button(say("Keep the JSON"), on_click=lambda: keep(lambda: row_of(typed.value)))


def _label(say: Say, field: Field) -> str:
    return f"{field.number} · {say(field.role)} · {say(field.what)}" if field.number else field.role


def _height(text: str) -> int:
    """The lines that a text takes in a field, about."""
    return min(sum(len(line) // 90 + 1 for line in text.split("\n")), 20)
