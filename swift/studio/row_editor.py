"""Fields in which a row is edited. Keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nicegui import events, ui

from swift.data.data_file import text_of
from swift.data.row_fields import Field, Keys, changed, fields, row_of
from swift.data.row_values import BadRow, Row

LONGEST = 200_000
"""Characters of a text that can be edited in a page."""
Say = Callable[..., str]


def editor(say: Say, row: Row | BadRow, raw: str, keep: Callable[[Callable[[], Row]], None]) -> None:
    """The fields of a row, and the whole row as JSON. `raw`: the text of one that cannot be read.

    `keep` is called with a function that returns the edited row, or raises ValueError for wrong input.
    """
    texts: dict[Keys, str] = {}
    known = [] if isinstance(row, BadRow) else fields(row)
    for field in known:
        if len(field.text) > LONGEST:
            ui.label(say("{field}: too long to be edited here", field=_label(say, field)))
            continue
        box = ui.input if field.what in ("weight", "name") else ui.textarea
        shown = box(_label(say, field), value=field.text).classes("full-width")
        hint = f'hint="{say("empty: as the loss scale says")}"' if field.what == "weight" else ""
        shown.props(f"dense rows={_height(field.text)} {hint}")
        shown.on_value_change(partial(_note, texts, field.keys))
    if known and isinstance(row, dict):
        fielded = partial(keep, partial(changed, row, texts))
        ui.button(say("Keep the edit"), on_click=fielded)
    whole = raw if isinstance(row, BadRow) else text_of(row)
    if len(whole) > LONGEST:
        ui.label(say("{field}: too long to be edited here", field=say("The whole row as JSON")))
        return
    typed = ui.textarea(say("The whole row as JSON"), value=whole.strip()).classes("full-width studio-mono")
    typed.props("dense rows=8")
    ui.button(say("Keep the JSON"), on_click=lambda: keep(lambda: row_of(typed.value)))


def _label(say: Say, field: Field) -> str:
    return f"{field.number} · {say(field.role)} · {say(field.what)}" if field.number else field.role


def _height(text: str) -> int:
    """The lines that a text takes in a field, about."""
    return min(sum(len(line) // 90 + 1 for line in text.split("\n")), 20)


def _note(texts: dict[Keys, str], keys: Keys, event: events.ValueChangeEventArguments[Any]) -> None:
    texts[keys] = event.value or ""
