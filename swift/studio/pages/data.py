"""The page `data`: a file's rows as chats, what lint finds, edits, and a new file. Its state is its address."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from nicegui import run, ui

from swift.agent import TOOL_FORMATS
from swift.assembly import sample_html
from swift.data.data_file import DataFile, Filter, excerpt, text_of
from swift.data.linting import Linter
from swift.data.row_edits import Edits, save
from swift.data.row_values import BadRow, Row
from swift.studio import data_files, layout, rendered_rows
from swift.studio import data_panels as panels
from swift.studio.rendered_rows import Rendering
from swift.studio.rows import Opened
from swift.studio.settings import Studio

ON_A_PAGE = 20
OPENED = Opened()
NOWHERE = {"line": "", "start": "", "rule": "", "text": "", "found": ""}
"""What of the address is of one file."""
DEFAULTS = ("", "False", "AUTO")
"""Values that the address leaves out."""


class Entries(NamedTuple):
    """Rows of the list. `before`: the places of those in front of them; `after`: that of the first behind them."""

    before: list[int]
    texts: list[tuple[int, str]]
    after: int | None


def content(studio: Studio) -> None:
    ui.add_css(sample_html.STYLE)
    DataPage(studio).build()


class DataPage:
    """One visit of the page. `query`: the state, which the address shows."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.say, self.query = studio, studio.say, dict(studio.query)
        self.data: DataFile | None = None
        self.problem = ""
        self.counted: list[int] | None = None
        self.saved: tuple[str, str] | None = None
        self.shown_line: int | None = None
        self.is_edited = False
        self.rendering = Rendering()
        state = studio.jobs.folder.parent
        self.uploads = state / "uploads"
        with layout.told(self._set_problem):
            if name := self._of("file"):
                self.data = OPENED.open(studio.folders.inside(name))
                self.edits = Edits(state / "edits", self.data.path)
            given = Rendering(self._of("model"), self._of("format", "AUTO"), self._of("scale", "AUTO"))
            self.rendering = rendered_rows.allowed(given, studio.folders)

    def _set_problem(self, text: str) -> None:
        self.problem = text

    def _of(self, name: str, default: str = "") -> str:
        """A value of the address."""
        return self.query.get(name, default)

    def _address(self, **changes: object) -> str:
        self.query.update({key: str(value) for key, value in changes.items()})
        return layout.address("/data", {key: value for key, value in self.query.items() if value not in DEFAULTS})

    def _go(self, *parts: Callable[[], Any], **changes: object) -> None:
        """Changes the address and draws parts of the page again."""
        ui.navigate.history.replace(self._address(**changes))
        for part in parts:
            part()

    def _visit(self, **changes: object) -> None:
        ui.navigate.to(self._address(**changes))

    def build(self) -> None:
        self._opening()
        if self.problem:
            layout.error(self.problem)
        if self.data is None:
            data_files.choice(self.studio, self.uploads, lambda file: self._visit(**NOWHERE, file=file))
            return
        partly_read = not self.data.done.is_set()  # as of before the parts are drawn
        self.status()
        self.saving()
        with ui.expansion(self.say("Lint: findings by rule")).classes("full-width studio-card"):
            self.rules()
        with ui.expansion(self.say("Lengths and mixture")).classes("full-width studio-card"):
            self.figures()
        with ui.element("div").classes("data-rows"):
            with ui.column().classes("q-gutter-y-xs"):
                self._filters()
                self.listing()
            with ui.element("div"):
                self.row()
        if partly_read:
            self._watch(self.data)

    def _watch(self, data: DataFile) -> None:
        """Draws the page again while the file is read."""

        def look() -> None:
            self.status.refresh()
            if data.done.is_set():
                timer.deactivate()
                for part in (self.rules, self.figures, self.listing):
                    part.refresh()
                if self.shown_line is None:
                    self.row.refresh()
                elif (at := data.at_line(self.shown_line)) is not None and not self.is_edited:
                    # the row itself stays: somebody may be typing
                    self.found.show(self.shown_line, partial(panels.findings, self.say, data.found(at)))

        timer = ui.timer(0.5, look)

    @property
    def _data(self) -> DataFile:
        assert self.data is not None
        return self.data

    # The file --------------------------------------------------------------------------------------------------------

    def _opening(self) -> None:
        with ui.row().classes("items-end full-width q-gutter-sm"):
            file = ui.input(self.say("Data file"), value=self._of("file")).classes("col")
            model = ui.input(self.say("Model (its tokenizer)"), value=self._of("model"))
            model.props(f'placeholder="smollm2-135m-instruct" hint="{self.say("a name, a hub id or a folder")}"')
            given = self._of("format") if self._of("format") in TOOL_FORMATS else "AUTO"
            tools = ui.select(["AUTO", *TOOL_FORMATS], label=self.say("Tool-call format"), value=given)
            tools.style("width: 11rem")
            scale = ui.input(self.say("Loss scale"), value=self._of("scale", "AUTO"))

            def visit() -> None:
                place = {} if file.value == self.query.get("file") else NOWHERE
                chosen = {"file": file.value.strip(), "model": model.value.strip(), "format": tools.value}
                self._visit(**chosen, scale=scale.value.strip(), **place)

            for each in (file, model, scale):
                each.on("keydown.enter", visit)
            ui.button(self.say("Open"), on_click=visit)

    @ui.refreshable_method
    def status(self) -> None:
        data = self._data
        bad = sum(count for (_, warning), count in data.rules.items() if not warning)
        counts = {"rows": f"{len(data):,}", "errors": f"{bad:,}", "warnings": f"{data.rules.total() - bad:,}"}
        text = self.say("Rows: {rows}, errors: {errors}, warnings: {warnings}", **counts)
        with ui.row().classes("items-center full-width").props("role=status"):
            if not data.done.is_set():
                ui.spinner()
                text += self.say(" so far")
            ui.label(text)
            for finding in (each for each in data.findings[-50:] if not each.line):
                layout.error(finding.message)

    @ui.refreshable_method
    def saving(self) -> None:
        if self.saved:
            file, text = self.saved
            with ui.row().classes("items-center full-width studio-card").props("role=status"):
                ui.label(text)
                visit = partial(self._visit, **NOWHERE, file=file)
                ui.button(self.say("Open the new file"), on_click=visit).props("flat")
        if edited := self.edits.all():
            with ui.row().classes("items-end full-width studio-card"):
                ui.label(self.say("Edited and not saved yet: {count}", count=len(edited)))
                target = ui.input(self.say("Save all rows as a new file"), value=self._new_name()).classes("col")
                ui.button(self.say("Save"), on_click=lambda: self._save(target.value))

    def _new_name(self) -> str:
        path = self._data.path
        names = (path.with_name(f"{path.stem}.edited{number}.jsonl") for number in ["", *range(2, 1000)])
        return self.studio.folders.short(next(name for name in names if not name.exists()))

    async def _save(self, name: str) -> None:
        with layout.told():
            target = self.studio.folders.inside(name)
            saved = await run.io_bound(save, self._data, self.edits, target)
            if saved is None:
                return
            self.edits.clear()
            short = self.studio.folders.short(target)
            text = self.say("{file}: {rows} rows, of which {edited} edited", file=short, **saved._asdict())
            if saved.unreadable:
                lines = ", ".join(map(str, saved.unreadable[:20]))
                kept = self.say("kept as they are") if saved.kept else self.say("left out")
                text += ". " + self.say("Lines that cannot be read, {kept}: {lines}", kept=kept, lines=lines)
            self._edited((short, text))

    def _edited(self, saved: tuple[str, str] | None = None) -> None:
        """Draws what edits change. `saved`: the new file and what to say of it."""
        self.saved = saved
        for part in (self.saving, self.listing, self.row):
            part.refresh()

    # The list of rows ------------------------------------------------------------------------------------------------

    def _filters(self) -> None:
        text = ui.input(self.say("Search in the rows"), value=self._of("text")).classes("full-width")
        text.props("clearable debounce=500")
        text.on_value_change(lambda: self._go(self.listing.refresh, text=text.value or "", start=""))
        found = ui.switch(self.say("Only rows with findings"), value=self._of("found") == "True")
        found.on_value_change(lambda: self._go(self.listing.refresh, found=found.value, start=""))

    @ui.refreshable_method
    def listing(self) -> None:
        wanted = Filter(self._of("found") == "True", self._of("rule"), self._of("text"))
        layout.later(partial(self._list, wanted.rule), self._entries, wanted, _number(self._of("start")))

    def _entries(self, wanted: Filter, start: int) -> Entries:
        """The rows from `start` on. Raises ValueError for a file that has changed."""
        found = self._data.find(wanted, start, ON_A_PAGE + 1)
        before = self._data.find(wanted, start - 1, ON_A_PAGE, backwards=True) if start else []
        texts = [(at, excerpt(self._data.row(at))) for at in found[:ON_A_PAGE]]
        return Entries(before, texts, found[-1] if len(found) > ON_A_PAGE else None)

    def _list(self, rule: str, entries: Entries) -> None:
        if rule:
            chip = ui.chip(self.say("Rule: {rule}", rule=rule), removable=True)
            chip.on("remove", lambda: self._go(self.listing.refresh, rule="", start=""))
        if not entries.texts:
            ui.label(self.say("No row fits")).classes("studio-muted q-pa-sm")
        edited = self.edits.all()
        self.items: dict[int, ui.item] = {}
        with ui.list().props("dense bordered separator").classes("full-width"):
            for at, text in entries.texts:
                self._entry(at, text, self._data.lines[at] in edited)
        with ui.row():
            back = partial(self._go, self.listing.refresh, start=entries.before[0] if entries.before else 0)
            on = partial(self._go, self.listing.refresh, start=entries.after or 0)
            ui.button(self.say("Back"), on_click=back).props("flat").set_enabled(bool(entries.before))
            ui.button(self.say("Next"), on_click=on).props("flat").set_enabled(entries.after is not None)

    def _entry(self, at: int, text: str, edited: bool) -> None:
        line, found = self._data.lines[at], self._data.found(at)
        with ui.item(on_click=partial(self._show, line)).props(f"data-line={line}") as item, ui.item_section():
            ui.item_label(f"{line}: {text}").props("lines=2")
            for rule in dict.fromkeys(each.rule for each in found):
                ui.item_label(rule).props("caption").classes("studio-error")
            if edited:
                ui.item_label(self.say("edited")).props("caption")
        self.items[line] = item
        item.props(f"{'active ' if line == self.shown_line else ''}active-class=data-shown")

    def _show(self, line: int) -> None:
        for each, item in self.items.items():
            item.props(add="active" if each == line else None, remove="active" if each != line else None)
        self._go(self.row.refresh, line=line)

    # A row -----------------------------------------------------------------------------------------------------------

    @ui.refreshable_method
    def row(self) -> None:
        data, named = self._data, _number(self._of("line"))
        at = data.at_line(named) if named else 0 if len(data) else None  # the first
        self.shown_line = None if at is None else data.lines[at]
        if at is None or self.shown_line is None:
            missing = self.say("There is no row at line {line}", line=self._of("line"))
            ui.label(missing if data.done.is_set() else self.say("Reading ...")).classes("studio-muted")
            return
        line = self.shown_line
        layout.heading(f"{self.studio.folders.short(data.path)}:{line}", 2)
        try:
            original = data.row(at)
            edited = self.edits.get(line, original)
        except ValueError as error:
            layout.error(str(error))
            ui.button(self.say("Discard the edit"), on_click=partial(self._keep, line, {}, None))
            return
        self.is_edited = edited is not None
        if self.is_edited:
            with ui.row().classes("items-center"):
                ui.label(self.say("edited")).classes("studio-muted")
                discard = partial(self._keep, line, original, None)
                ui.button(self.say("Discard the edit"), on_click=discard).props("flat")
        found = data.found(at) if edited is None else list(Linter(data.path).row(line, edited))
        self.found = layout.Part(ui.element("div"))
        self.found.show(None, partial(panels.findings, self.say, found))
        row = original if edited is None else edited
        if isinstance(row, BadRow):
            ui.label(text_of(row)[: panels.LONGEST]).classes("studio-mono studio-command")
        else:
            written = (row, self.rendering, data.path.parent, self.studio.language)
            layout.later(self._chat, rendered_rows.chats, *written)
        with ui.expansion(self.say("Edit this row")).classes("full-width studio-card"):
            raw = data.raw(at).decode(errors="replace") if data.is_lines else text_of(original)
            panels.editor(self.say, row, raw, partial(self._keep, line, original))

    def _chat(self, written: str) -> None:
        ui.html(written)
        if not self.rendering.model:
            ui.label(self.say("Name a model above to see which tokens are trained")).classes("studio-muted")

    def _keep(self, line: int, original: Row | BadRow, new: Callable[[], Row] | None) -> None:
        with layout.told():
            self.edits.set(line, original, new() if new else None)
            self._edited()

    # Findings and figures --------------------------------------------------------------------------------------------

    @ui.refreshable_method
    def rules(self) -> None:
        panels.rules(self.say, self._data, self._jump)

    def _jump(self, rule: str) -> None:
        """Lists the rows of a rule and shows the first."""
        first = next((each.line for each in self._data.findings if each.rule == rule and each.line), None)
        self._go(self.listing.refresh, self.row.refresh, rule=rule, start="", line=first or "")

    @ui.refreshable_method
    def figures(self) -> None:
        panels.mixture(self.say, self._data)
        if self.counted is not None:
            panels.lengths(self.say, self.counted, min(len(self._data), rendered_rows.MOST))
            return
        panels.sizes(self.say, self._data)
        if self.rendering.model:
            ui.button(self.say("Count tokens"), on_click=self._count)

    async def _count(self) -> None:
        with layout.told():
            self.counted = await run.io_bound(rendered_rows.lengths, self._data, self.rendering)
        self.figures.refresh()


def _number(text: str) -> int:
    with suppress(ValueError):
        return max(int(text or 0), 0)
    return 0
