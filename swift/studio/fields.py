"""Draws the fields of a form, their values and their errors. Knows no command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from nicegui import ui

from swift.studio import layout
from swift.studio.forms import Field, Form
from swift.studio.language import words as translations
from swift.studio.settings import Studio


class Fields:
    """A form on a page. `values` has the texts that differ from the defaults; `changed` is called after each change.

    Sections are drawn when they are opened first. `first`: the fields of a section of their own, which is open.
    `offers`: field name -> texts that a menu beside it offers.
    """

    def __init__(
        self,
        studio: Studio,
        form: Form,
        values: dict[str, str],
        changed: Callable[[], None],
        first: Sequence[str],
        offers: Mapping[str, Sequence[str]],
    ) -> None:
        self.studio, self.form, self.values, self.offers = studio, form, values, offers
        self._changed = changed
        self._drawn: dict[str, Any] = {}
        self._faults: dict[str, str] = {}
        self._first = [form.fields[name] for name in first if name in form.fields]
        say = studio.say
        search = ui.input(placeholder=say("Search all settings"), on_change=lambda event: self._find(event.value or ""))
        search.props(f'clearable debounce=200 type=search aria-label="{say("Search all settings")}"')
        search.classes("full-width")
        self._body = ui.column().classes("full-width q-mt-sm").style("gap:8px")
        self.draw()

    def draw(self) -> None:
        """All fields anew, with the values as they are."""
        self._find("")

    def show(self, faults: Mapping[str, str]) -> None:
        """Marks the fields that are wrong, and those alone."""
        before, self._faults = self._faults, dict(faults)
        for name in before.keys() | faults.keys():
            if name in self._drawn:
                self._drawn[name].error = faults.get(name)

    def _find(self, query: str) -> None:
        say = self.studio.say
        self._body.clear()
        self._drawn = {}
        with self._body:
            if query.strip():
                known = translations() if self.studio.language.code == "zh" else {}
                found = list(self.form.search(query, known))
                ui.label(say("{count} settings", count=len(found))).classes("studio-muted").props("role=status")
                self._grid(found)
                return
            if self._first:
                self._grid(self._first)
            for title, fields in self.form.sections.items():
                if rest := [field for field in fields if field not in self._first]:
                    self._section(title, rest)

    def _section(self, title: str, fields: Sequence[Field]) -> None:
        set_here = ", ".join(field.name for field in fields if field.name in self.values)
        text = self.studio.say("Other flags") if title == "flags" else self.studio.say(title)
        section = layout.folded(text, lambda: self._grid(fields), caption=set_here or None).classes("studio-section")
        if any(field.name in self._faults for field in fields):
            section.open()

    def _grid(self, fields: Sequence[Field]) -> None:
        with ui.element("div").classes("studio-grid"):
            for field in fields:
                with ui.element("div"):
                    self._field(field)

    def _field(self, field: Field) -> None:
        say = self.studio.say
        value = self.values.get(field.name, "")
        meaning = say(field.meaning)
        ui.label(field.name).classes("studio-mono text-weight-medium")
        drawn: Any
        if field.choices:
            options = {"": say("default {value}", value=field.default or "none")} | {
                each: each for each in field.choices
            }
            drawn = ui.select(options, value=value if value in options else "").props("options-dense")
        else:
            drawn = ui.input(value=value, placeholder=field.default)
            drawn.props("debounce=250 spellcheck=false autocomplete=off")
            drawn.props("inputmode=decimal" if field.kind == "number" else "")
        drawn.on_value_change(lambda event: self._set(field, event.value))
        drawn.without_auto_validation()  # which would take away the errors of `show`
        drawn.classes("full-width").mark(f"field-{field.name}")
        drawn.props["aria-label"] = f"{field.name}: {meaning}"
        drawn.error = self._faults.get(field.name)
        self._drawn[field.name] = drawn
        if offered := self.offers.get(field.name):
            with drawn.add_slot("append"):
                self._menu(field, drawn, offered)
        ui.label(meaning).classes("studio-muted text-caption").style("line-height:1.3")

    def _menu(self, field: Field, drawn: Any, offered: Sequence[str]) -> None:
        def choose(text: str) -> None:
            before = (drawn.value or "").strip()
            drawn.value = f"{before} {text}" if field.kind == "list" and before else text

        label = self.studio.say("Choose")
        with ui.button(icon="arrow_drop_down").props(f'flat round padding=xs aria-label="{label}"'), ui.menu():
            for text in offered:
                ui.menu_item(text, partial(choose, text))

    def _set(self, field: Field, value: object) -> None:
        text = str(value or "")
        self.values.pop(field.name, None)
        if text.strip():
            self.values[field.name] = text
        self._changed()
