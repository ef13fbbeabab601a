"""The page `data`: a file's rows as chats, what lint finds, edits, and a new file. Its state is its address."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlencode

from nicegui import run, ui

from swift.agent import TOOL_FORMATS
from swift.assembly import sample_html
from swift.data.data_file import DataFile, Filter, excerpt, text_of
from swift.data.linting import Linter
from swift.data.row_edits import Edits, save
from swift.data.row_values import BadRow, Row
from swift.studio import data_panels as panels
from swift.studio import layout, rendered_rows
from swift.studio.file_choice import choice
from swift.studio.rendered_rows import Rendering
from swift.studio.row_editor import LONGEST, editor
from swift.studio.rows import Opened
from swift.studio.settings import Studio

P = ParamSpec("P")
T = TypeVar("T")
ON_A_PAGE = 20
STYLE = (
    sample_html.STYLE
    + """
.rows { display: grid; grid-template-columns: minmax(15rem, 22rem) minmax(0, 1fr); gap: 1rem; width: 100% }
@media (max-width: 800px) { .rows { grid-template-columns: minmax(0, 1fr) } }
.rows p { margin: .4rem 0 }
"""
)
OPENED = Opened()
NOWHERE = {"line": "", "start": "", "rule": "", "text": "", "found": ""}
"""What of the address is of one file."""


def content(studio: Studio) -> None:
    ui.add_css(STYLE)
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
        self.items: dict[int, ui.item] = {}
        state = studio.jobs.folder.parent
        self.uploads = state / "uploads"
        try:
            if name := self.query.get("file"):
                self.data = OPENED.open(studio.folders.inside(name))
                self.edits = Edits(state / "edits", self.data.path)
            self.rendering = rendered_rows.allowed(self._rendering(), studio.folders)
        except ValueError as error:
            self.problem, self.rendering = str(error), Rendering()

    def _rendering(self) -> Rendering:
        get = self.query.get
        return Rendering(get("model", ""), get("format", "AUTO"), get("scale", "AUTO"))

    def _address(self, **changes: object) -> str:
        self.query.update({key: str(value) for key, value in changes.items()})
        kept = {key: value for key, value in self.query.items() if value not in ("", "False", "AUTO")}
        return f"/data?{urlencode(kept)}"

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
            choice(self.studio, self.uploads, lambda file: self._visit(**NOWHERE, file=file))
            return
        self.status()
        self.saving()
        with ui.expansion(self.say("Lint: findings by rule")).classes("full-width studio-card"):
            self.rules()
        with ui.expansion(self.say("Lengths and mixture")).classes("full-width studio-card"):
            self.figures()
        with ui.element("div").classes("rows"):
            with ui.column().classes("q-gutter-y-xs"):
                self._filters()
                self.listing()
            with ui.element("div"):
                self.row()
        if not self.data.done.is_set():
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
                    self._replaced(self.found_box, partial(panels.findings, self.say, data.found(at)))

        timer = ui.timer(0.5, look)

    # Opening ---------------------------------------------------------------------------------------------------------

    def _opening(self) -> None:
        with ui.row().classes("items-end full-width q-gutter-sm"):
            file = ui.input(self.say("Data file"), value=self.query.get("file", "")).classes("col")
            model = ui.input(self.say("Model (its tokenizer)"), value=self.query.get("model", ""))
            model.props(f'placeholder="smollm2-135m-instruct" hint="{self.say("a name, a hub id or a folder")}"')
            tools = ui.select(["AUTO", *TOOL_FORMATS], label=self.say("Tool-call format"), value=self._format())
            tools.style("width: 11rem")
            scale = ui.input(self.say("Loss scale"), value=self.query.get("scale", "AUTO"))

            def visit() -> None:
                place = {} if file.value == self.query.get("file") else NOWHERE
                chosen = {"file": file.value.strip(), "model": model.value.strip(), "format": tools.value}
                self._visit(**chosen, scale=scale.value.strip(), **place)

            for each in (file, model, scale):
                each.on("keydown.enter", visit)
            ui.button(self.say("Open"), on_click=visit)

    def _format(self) -> str:
        given = self.query.get("format", "AUTO")
        return given if given in TOOL_FORMATS else "AUTO"

    # The file --------------------------------------------------------------------------------------------------------

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

    @property
    def _data(self) -> DataFile:
        assert self.data is not None
        return self.data

    @ui.refreshable_method
    def saving(self) -> None:
        if self.saved:
            file, text = self.saved
            with ui.row().classes("items-center full-width studio-card").props("role=status"):
                ui.label(text)
                ui.button(self.say("Open the new file"), on_click=partial(self._visit, **NOWHERE, file=file)).props(
                    "flat dense"
                )
        edited = self.edits.all()
        if not edited:
            return
        with ui.row().classes("items-end full-width studio-card"):
            ui.label(self.say("Edited and not saved yet: {count}", count=len(edited)))
            target = ui.input(self.say("Save all rows as a new file"), value=self._new_name()).classes("col")
            ui.button(self.say("Save"), on_click=lambda: self._save(target.value))

    def _new_name(self) -> str:
        path = self._data.path
        names = (path.with_name(f"{path.stem}.edited{number}.jsonl") for number in ["", *range(2, 1000)])
        return self.studio.folders.short(next(name for name in names if not name.exists()))

    async def _save(self, name: str) -> None:
        try:
            target = self.studio.folders.inside(name)
            saved = await in_thread(save, self._data, self.edits, target)
        except (ValueError, OSError) as error:
            ui.notify(str(error), type="negative", timeout=0, close_button=True)
            return
        self.edits.clear()
        short = self.studio.folders.short(target)
        text = self.say("{file}: {rows} rows, of which {edited} edited", file=short, **saved._asdict())
        if saved.unreadable:
            lines = ", ".join(map(str, saved.unreadable[:20]))
            kept = self.say("kept as they are") if saved.kept else self.say("left out")
            text += ". " + self.say("Lines that cannot be read, {kept}: {lines}", kept=kept, lines=lines)
        self.saved = (short, text)
        for part in (self.saving, self.listing, self.row):
            part.refresh()

    # The list of rows ------------------------------------------------------------------------------------------------

    def _filter(self) -> Filter:
        return Filter(self.query.get("found") == "True", self.query.get("rule", ""), self.query.get("text", ""))

    def _filters(self) -> None:
        text = ui.input(self.say("Search in the rows"), value=self.query.get("text", "")).classes("full-width")
        text.props("clearable debounce=500")
        text.on_value_change(lambda: self._go(self.listing.refresh, text=text.value or "", start=""))
        found = ui.switch(self.say("Only rows with findings"), value=self.query.get("found") == "True")
        found.on_value_change(lambda: self._go(self.listing.refresh, found=found.value, start=""))

    @ui.refreshable_method
    def listing(self) -> None:
        box = ui.column().classes("full-width q-gutter-none")
        with box:
            ui.spinner()
        ui.timer(0, partial(self._list, box), once=True)

    async def _list(self, box: ui.column, backwards: bool = False) -> None:
        data, wanted, start = self._data, self._filter(), _number(self.query.get("start"))
        try:
            found, before, texts = await in_thread(self._entries, wanted, start)
        except ValueError as error:
            self._replaced(box, partial(layout.error, str(error)))
            return

        def draw() -> None:
            if wanted.rule:
                rule = self.say("Rule: {rule}", rule=wanted.rule)
                ui.chip(rule, removable=True).on("remove", lambda: self._go(self.listing.refresh, rule="", start=""))
            if not texts:
                ui.label(self.say("No row fits")).classes("studio-muted q-pa-sm")
            edited = self.edits.all()
            self.items.clear()
            with ui.list().props("dense bordered separator").classes("full-width"):
                for at, text in texts:
                    self._entry(at, text, data.lines[at] in edited)
            with ui.row():
                back = partial(self._go, self.listing.refresh, start=before[0] if before else 0)
                on = partial(self._go, self.listing.refresh, start=found[-1] if found else 0)
                ui.button(self.say("Back"), on_click=back).props("flat dense").set_enabled(bool(before))
                ui.button(self.say("Next"), on_click=on).props("flat dense").set_enabled(len(found) > ON_A_PAGE)

        self._replaced(box, draw)

    def _entries(self, wanted: Filter, start: int) -> tuple[list[int], list[int], list[tuple[int, str]]]:
        """(the rows from `start` on and one more, those before it, the places and excerpts of the former)."""
        found = self._data.find(wanted, start, ON_A_PAGE + 1)
        before = self._data.find(wanted, start - 1, ON_A_PAGE, backwards=True) if start else []
        return found, before, [(at, excerpt(self._data.row(at))) for at in found[:ON_A_PAGE]]

    def _entry(self, at: int, text: str, edited: bool) -> None:
        line, found = self._data.lines[at], self._data.found(at)
        with ui.item(on_click=partial(self._show, line)).props(f"data-line={line}"), ui.item_section():
            ui.item_label(f"{line}: {text}").props("lines=2")
            for rule in dict.fromkeys(each.rule for each in found):
                ui.item_label(rule).props("caption").classes("studio-error")
            if edited:
                ui.item_label(self.say("edited")).props("caption")

    def _show(self, line: int) -> None:
        for each, item in self.items.items():
            item.props(add="active" if each == line else None, remove="active" if each != line else None)
        self._go(self.row.refresh, line=line)

    def _replaced(self, box: ui.element, draw: Callable[[], Any]) -> None:
        if not box.is_deleted:
            box.clear()
            with box:
                draw()

    # A row -----------------------------------------------------------------------------------------------------------

    @property
    def at(self) -> int | None:
        """Where the row is that the address names, or the first."""
        line = _number(self.query.get("line"))
        return self._data.at_line(line) if line else 0 if len(self._data) else None

    @ui.refreshable_method
    def row(self) -> None:
        data, at = self._data, self.at
        self.shown_line = None if at is None else data.lines[at]
        if at is None:
            missing = self.say("There is no row at line {line}", line=self.query.get("line", ""))
            ui.label(missing if data.done.is_set() else self.say("Reading ...")).classes("studio-muted")
            return
        line = data.lines[at]
        ui.label(f"{self.studio.folders.short(data.path)}:{line}").classes("text-subtitle1").props(
            "role=heading aria-level=2"
        )
        try:
            original = data.row(at)
            edited = self.edits.get(line, original)
        except ValueError as error:
            layout.error(str(error))
            ui.button(self.say("Discard the edit"), on_click=partial(self._keep, line, {}, None))
            return
        found = data.found(at)
        if edited is not None:
            with ui.row().classes("items-center"):
                ui.label(self.say("edited")).classes("studio-muted")
                discard = partial(self._keep, line, original, None)
                ui.button(self.say("Discard the edit"), on_click=discard).props("flat dense")
            found = list(Linter(data.path).row(line, edited))
        self.is_edited = edited is not None
        with ui.element("div") as self.found_box:
            panels.findings(self.say, found)
        row = original if edited is None else edited
        if isinstance(row, BadRow):
            ui.label(text_of(row)[:LONGEST]).classes("studio-mono studio-command")
        else:
            box = ui.element("div")
            with box:
                ui.spinner()
            ui.timer(0, partial(self._chat, box, row), once=True)
        with ui.expansion(self.say("Edit this row")).classes("full-width studio-card"):
            raw = data.raw(at).decode(errors="replace") if data.is_lines else text_of(original)
            editor(self.say, row, raw, partial(self._keep, line, original))

    async def _chat(self, box: ui.element, row: Row) -> None:
        language, folder = self.studio.language, self._data.path.parent
        try:
            written = await in_thread(rendered_rows.chats, row, self.rendering, folder, language)
        except (ValueError, OSError) as error:
            self._replaced(box, partial(layout.error, str(error)))
            return

        def draw() -> None:
            ui.html(written)
            if not self.rendering.model:
                ui.label(self.say("Name a model above to see which tokens are trained")).classes("studio-muted")

        self._replaced(box, draw)

    def _keep(self, line: int, original: Row | BadRow, new: Callable[[], Row] | None) -> None:
        try:
            self.edits.set(line, original, new() if new else None)
        except ValueError as error:
            ui.notify(str(error), type="negative")
            return
        self.saved = None
        for part in (self.saving, self.listing, self.row):
            part.refresh()

    # Findings and figures --------------------------------------------------------------------------------------------

    @ui.refreshable_method
    def rules(self) -> None:
        panels.rules(self.say, self._data, self._jump)

    def _jump(self, rule: str) -> None:
        """Lists the rows of a rule and shows the first."""
        data = self._data
        first = next((each.line for each in data.findings if each.rule == rule and each.line), None)
        self._go(self.listing.refresh, self.row.refresh, rule=rule, start="", line=first or "")

    @ui.refreshable_method
    def figures(self) -> None:
        panels.mixture(self.say, self._data)
        if self.counted is None:
            panels.sizes(self.say, self._data)
            if self.rendering.model:
                ui.button(self.say("Count tokens"), on_click=self._count)
        else:
            panels.lengths(self.say, self.counted, min(len(self._data), rendered_rows.MOST))

    async def _count(self) -> None:
        try:
            self.counted = await in_thread(rendered_rows.lengths, self._data, self.rendering)
        except (ValueError, OSError) as error:
            ui.notify(str(error), type="negative")
        self.figures.refresh()


async def in_thread(function: Callable[P, T], *values: P.args, **named: P.kwargs) -> T:
    """The result of a function that takes long, while the server goes on."""
    found = await run.io_bound(function, *values, **named)
    if found is None:  # the server ends
        raise CancelledError
    return found


def _number(text: str | None) -> int:
    with suppress(ValueError):
        return max(int(text or 0), 0)
    return 0
