"""The page of all training runs: a table, their curves over each other, and what can be done with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nicegui import run as threads
from nicegui import ui

from swift.runs import checkpoints, finding, log_file
from swift.runs.history import Axis, Log
from swift.studio import layout, run_view
from swift.studio.forms import joined
from swift.studio.jobs import Job
from swift.studio.layout import Part
from swift.studio.run_view import COLUMNS, CURVES, Row, Search
from swift.studio.settings import Studio

SECONDS = 2.0
"""Between two looks at the runs."""
COLOURS = ("#2a7de1", "#e8710a", "#12a150", "#c2185b", "#7e57c2", "#00838f", "#8d6e63", "#9e9d24")
STATES = {
    "starting": "blue-grey", "running": "primary", "saving": "primary", "finished": "positive", "stopped": "grey-7",
    "failed": "negative", "killed": "negative", "stalled": "warning",
}  # fmt: skip
AXES: dict[Axis, str] = {"step": "Step", "epoch": "Epoch", "time": "Minutes"}
LINES = 200
SEPARATOR = "|"
STATE_CELL = """<q-td :props="props"><q-badge :color="props.row.colour" :label="props.row.state_text">
<q-tooltip v-if="props.row.reason">{{ props.row.reason }}</q-tooltip></q-badge></q-td>"""
NAME_CELL = """<q-td :props="props"><a :href="props.row.link" style="color:inherit" class="studio-mono">
{{ props.row.name }}</a></q-td>"""


async def content(studio: Studio) -> None:
    page = Page(studio)
    await page.update()
    ui.timer(SECONDS, page.update, immediate=False)


class Page:
    """The query has the page's state: `runs`, names whose curves are drawn; `show`, the one in detail; `axis`."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.search = Search(studio.folders)
        self.chosen = [name for name in studio.query.get("runs", "").split(SEPARATOR) if name]
        self.shown = studio.query.get("show", "")
        axis = studio.query.get("axis")
        self.axis: Axis = next((each for each in AXES if each == axis), "step")
        self.logs: dict[Path, Log] = {}
        self.rows: list[Row] = []
        self._drawn_curves: object = None
        self._draw()

    def _draw(self) -> None:
        say = self.studio.say
        with ui.row().classes("items-center full-width"):
            layout.heading(say("Training runs"))
            ui.space()
            ui.button(say("New training"), icon="add", on_click=lambda: ui.navigate.to("/train"))
        self.faults = layout.error()
        self._draw_table()
        self.detail = Part(ui.element("section").classes("full-width q-mt-md").props(f'aria-label="{say("One run")}"'))
        self.dialogs = ui.element("div")  # outside of the detail, which is drawn anew while a dialog is open
        self.curves = ui.element("section").classes("full-width q-mt-md").props(f'aria-label="{say("Curves")}"')
        self.charts: dict[str, ui.echart] = {}
        with self.curves:
            with ui.row().classes("items-center"):
                layout.heading(say("Curves"), 2)
                toggle = ui.toggle({axis: say(title) for axis, title in AXES.items()}, value=self.axis)
                toggle.props(f'dense no-caps aria-label="{say("Horizontal axis")}"').on_value_change(self._axis_chosen)
            with ui.element("div").classes("studio-grid").style("--least:380px"):
                for key, title in CURVES.items():
                    chart = ui.echart(_options(say(title))).style("height:230px; width:100%")
                    self.charts[key] = chart.props(f'role=img aria-label="{say(title)}"')
        self.curves.set_visibility(False)

    def _draw_table(self) -> None:
        say = self.studio.say
        left = ("name", "state", "model")
        columns = [
            {"name": name, "label": say(title), "field": name, "align": "left" if name in left else "right"}
            for name, title in COLUMNS.items()
        ]
        self.table = ui.table(
            rows=[], columns=columns, column_defaults={"sortable": True}, row_key="name", selection="multiple",
            pagination=15, on_select=self._selected,
        )  # fmt: skip
        texts = f'no-data-label="{say("No runs yet")}" rows-per-page-label="{say("Rows per page")}"'
        self.table.classes("full-width").props(f"dense flat bordered hide-selected-banner {texts}")
        self.table.add_slot("body-cell-name", NAME_CELL)
        self.table.add_slot("body-cell-state", STATE_CELL)
        for name in COLUMNS.keys() - left:
            self.table.add_slot(f"body-cell-{name}", f'<q-td :props="props">{{{{ props.row.{name}_text }}}}</q-td>')

    # --- what changes -------------------------------------------------------------------------------------------------

    async def update(self) -> None:
        """Reads the runs, and sends what has changed."""
        read = await threads.io_bound(self._read)
        if read is None:
            return  # the server ends
        found, jobs = read
        self.rows = run_view.rows(found.runs, jobs)
        for row in self.rows:
            if row.job and row.run and row.job.name == self.shown:
                self.shown = row.name  # the job that was shown has become a run
                self._remember()
        self.faults.set_text("; ".join(found.faults))
        table = [self._cells(row) for row in self.rows]
        if table != self.table.rows:
            self.table.rows = table
        self.table.selected = [row for row in table if row["name"] in self.chosen]
        self._draw_detail()
        self._draw_curves()

    def _read(self) -> tuple[finding.Found, Sequence[Job]]:
        return self.search.runs(), self.studio.jobs.all()

    def _cells(self, row: Row) -> dict[str, Any]:
        link = layout.address("/runs", {"show": row.name})
        shown = {"state_text": self.studio.say(row.state), "colour": STATES.get(row.state, "grey"), "link": link}
        return {**run_view.cells(row), **shown}

    def _draw_curves(self) -> None:
        wanted = [*self.chosen, self.shown]
        drawn = {row.folder: row.name for row in self.rows if row.name in wanted and row.folder}
        logs = {name: self.logs.setdefault(folder, Log(folder)) for folder, name in list(drawn.items())[: len(COLOURS)]}
        self.curves.set_visibility(bool(logs))
        new = [log.read() for log in logs.values()]
        if not any(new) and self._drawn_curves == (self.axis, list(logs)):
            return
        self._drawn_curves = (self.axis, list(logs))
        for key, chart in self.charts.items():
            series = [
                _series(name, colour, points)
                for (name, log), colour in zip(logs.items(), COLOURS, strict=False)
                if (points := log.points(key, self.axis))
            ]
            chart.options["series"] = series
            last = [f"{each['name']} {each['data'][-1][1]:.4g} ({each['data'][-1][0]:g})" for each in series]
            chart.props["aria-label"] = f"{self.studio.say(CURVES[key])}: {', '.join(last)}"
            chart.options["xAxis"]["name"] = self.studio.say(AXES[self.axis])
            chart.options["legend"]["show"] = len(logs) > 1
            chart.set_visibility(bool(series))
            chart.run_chart_method("setOption", chart.options, {"replaceMerge": ["series"]})

    def _draw_detail(self) -> None:
        row = next((row for row in self.rows if row.name == self.shown), None)
        if row is None:
            missing = self.studio.say("There is no run {name}", name=self.shown) if self.shown else ""
            self.detail.show(missing, lambda: layout.error(missing))
            return
        state = (row.name, row.state, row.reason, row.fault, row.act.state if row.act else "", row.can_resume)
        self.detail.show(state, lambda: self._draw_run(row))
        self._fill(row)

    def _draw_run(self, row: Row) -> None:
        say = self.studio.say
        with ui.element("div").classes("studio-card"):
            with ui.row().classes("items-center full-width"):
                layout.heading(row.name, 2).classes("studio-mono")
                ui.badge(say(row.state), color=STATES.get(row.state, "grey")).props("role=status").mark("state")
                ui.space()
                self._buttons(row)
            if row.reason:
                bad = row.state in ("failed", "killed", "stalled")
                (layout.error(row.reason) if bad else ui.label(row.reason).classes("studio-muted"))
            if row.fault:
                layout.error(row.fault)
            self.figures = Part(ui.element("div").classes("studio-grid q-my-sm").style("--least:200px; gap:2px 16px"))
            layout.command(self.studio, joined(["swift", *row.words]))
            self.saved = Part(ui.column().classes("full-width q-gutter-none q-mt-sm"))
            opened = row.state in ("failed", "killed") or row.run is None
            with ui.expansion(say("Log"), value=opened).classes("full-width"):
                self.log = ui.label().classes("studio-log studio-mono").props(f'tabindex=0 aria-label="{say("Log")}"')

    def _buttons(self, row: Row) -> None:
        say = self.studio.say
        free = row.act is None or not row.act.is_active
        if row.run:
            report = layout.address("/report", {"run": row.folder})
            ui.button(say("Report"), icon="article", on_click=lambda: ui.navigate.to(report, new_tab=True)).props(
                "flat"
            )
        if row.is_active:
            stop = ui.button(say("Stop"), icon="stop", on_click=lambda: self._ask_to_stop(row))
            stop.props("outline color=negative").set_enabled(free)
        elif row.can_resume:
            resume = ui.button(say("Resume"), icon="play_arrow", on_click=lambda: self._act(row, "resume"))
            resume.props("outline").set_enabled(free)
        failed = {"words": joined(row.words), "failed": row.job.name if row.job else ""}
        form = layout.address("/train", {"run": row.folder} if row.run else failed)
        clone = ui.button(say("Clone with changes"), icon="content_copy", on_click=lambda: ui.navigate.to(form))
        clone.props("outline")

    def _fill(self, row: Row) -> None:
        """The parts of the detail that change while a run goes on."""
        if row.run:
            figures = run_view.titled(row.run, self.studio.folders.short)
            self.figures.show(figures, lambda: self._draw_figures(figures))
            saved = checkpoints.of(row.run.folder)
            self.saved.show(saved, lambda: self._draw_checkpoints(saved))
        self.log.set_text(_log(row))

    def _draw_figures(self, figures: dict[str, str]) -> None:
        for title, text in figures.items():
            if text:
                with ui.element("div"):
                    ui.label(self.studio.say(title)).classes("text-caption studio-muted")
                    ui.label(text).style("overflow-wrap:anywhere")

    def _draw_checkpoints(self, saved: Sequence[checkpoints.Checkpoint]) -> None:
        say = self.studio.say
        for each in reversed(saved):
            loss = "" if each.eval_loss is None else f" · {say('Held-out loss')} {each.eval_loss:.4f}"
            with ui.row().classes("items-center"):
                ui.label(f"{each.folder.name}{loss}").classes("studio-mono")
                for page, title in (("chat", "Chat"), ("evaluate", "Evaluate"), ("serve", "Serve")):
                    if page in self.studio.pages:
                        ui.link(say(title), layout.address(f"/{page}", {"ckpt_dir": each.folder}))

    # --- what a user does ---------------------------------------------------------------------------------------------

    def _selected(self, event: Any) -> None:
        self.chosen = [row["name"] for row in self.table.selected]
        self._remember()
        self._draw_curves()

    def _axis_chosen(self, event: Any) -> None:
        self.axis = event.value
        self._remember()
        self._draw_curves()

    def _remember(self) -> None:
        axis = self.axis if self.axis != "step" else ""
        query = {"runs": SEPARATOR.join(self.chosen), "show": self.shown, "axis": axis}
        ui.navigate.history.replace(layout.address("/runs", query))

    def _ask_to_stop(self, row: Row) -> None:
        say = self.studio.say

        def act(*words: str) -> None:
            dialog.close()
            self._act(row, *words)

        with self.dialogs, ui.dialog() as dialog, ui.card():
            layout.heading(say("Stop {name}?", name=row.name), 2)
            if row.run:
                ui.button(say("Save a checkpoint and stop"), on_click=lambda: act("stop"))
            kill = ui.button(say("Kill it now, saving nothing"), on_click=lambda: act("stop", "--now"))
            kill.props("outline color=negative")
            ui.button(say("Cancel"), on_click=dialog.close).props("flat")
        dialog.open()

    def _act(self, row: Row, act: str, *flags: str) -> None:
        """Stops or resumes as the command line does, in a job whose error is shown."""
        if row.run:
            self.studio.jobs.start(["runs", act, str(row.folder), *flags])
            ui.notify(self.studio.say("Asked to resume") if act == "resume" else self.studio.say("Asked to stop"))
        elif row.job:
            self.studio.jobs.stop(row.job.name, now=True)


def _log(row: Row) -> str:
    """The last lines of a run, or of a job without one."""
    if row.folder:
        try:
            return log_file.read(row.folder, LINES)
        except OSError:
            pass
    return row.job.log(LINES) if row.job else ""


def _series(name: str, colour: str, points: list[tuple[float, float]]) -> dict[str, Any]:
    few = len(points) < 30
    return {
        "type": "line", "name": name, "data": points, "color": colour, "showSymbol": few, "symbolSize": 4,
        "sampling": "lttb", "lineStyle": {"width": 1.6}, "animation": False,
    }  # fmt: skip


def _options(title: str) -> dict[str, Any]:
    muted = "#8a9396"
    return {
        "animation": False,
        "title": {"text": title, "textStyle": {"fontSize": 13, "color": muted}, "left": 4, "top": 0},
        "grid": {"left": 56, "right": 16, "top": 34, "bottom": 40},
        "legend": {"show": False, "type": "scroll", "right": 8, "top": 0, "textStyle": {"color": muted}},
        "tooltip": {"trigger": "axis"},
        "xAxis": {
            "type": "value", "name": "", "nameLocation": "middle", "nameGap": 24, "min": "dataMin", "max": "dataMax",
            "axisLabel": {"color": muted, "hideOverlap": True}, "nameTextStyle": {"color": muted},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "value", "scale": True, "axisLabel": {"color": muted, "hideOverlap": True},
            "splitLine": {"lineStyle": {"color": "rgba(128,128,128,.2)"}},
        },
        "series": [],
    }  # fmt: skip
