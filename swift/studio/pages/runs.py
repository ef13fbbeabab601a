"""The page of all training runs: a table, their curves over each other, and what can be done with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from nicegui import run as threads
from nicegui import ui

from swift.runs import finding, log_file
from swift.studio import layout, run_view
from swift.studio.forms import joined
from swift.studio.jobs import Job
from swift.studio.run_view import CURVES, Axis, Log, Row, Search
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
        self._detail_state: Any = None
        self._draw()

    def _draw(self) -> None:
        say = self.studio.say
        with ui.row().classes("items-center full-width"):
            ui.label(say("Training runs")).classes("text-h5").props("role=heading aria-level=1")
            ui.space()
            ui.button(say("New training"), icon="add", on_click=lambda: ui.navigate.to("/train")).props(
                "no-caps color=primary dense"
            )
        self.faults = layout.error("")
        titles = {
            "name": "Run", "state": "State", "model": "Model", "step": "Step", "loss": "Loss",
            "eval_loss": "Held-out loss", "speed": "Tokens/s", "left": "Time left", "started": "Started",
        }  # fmt: skip
        columns = [
            {
                "name": name, "label": say(title), "field": name, "sortable": True,
                "align": "left" if name in ("name", "state", "model") else "right",
            }
            for name, title in titles.items()
        ]  # fmt: skip
        self.table = ui.table(
            rows=[], columns=columns, row_key="name", selection="multiple", pagination=15, on_select=self._selected
        )
        self.table.classes("full-width").props(
            f'dense flat bordered hide-selected-banner no-data-label="{say("No runs yet")}"'
        )
        self.table.props(f'rows-per-page-label="{say("Rows per page")}"')
        self.table.add_slot("body-cell-name", NAME_CELL)
        self.table.add_slot("body-cell-state", STATE_CELL)
        for name in ("step", "loss", "eval_loss", "speed", "left", "started"):
            self.table.add_slot(f"body-cell-{name}", f'<q-td :props="props">{{{{ props.row.{name}_text }}}}</q-td>')
        self.detail = ui.element("section").classes("full-width q-mt-md").props(f'aria-label="{say("One run")}"')
        self.dialogs = ui.element("div")  # outside of the detail, which is drawn anew while a dialog is open
        self.curves = ui.element("section").classes("full-width q-mt-md").props(f'aria-label="{say("Curves")}"')
        self.charts: dict[str, ui.echart] = {}
        with self.curves:
            with ui.row().classes("items-center"):
                ui.label(say("Curves")).classes("text-h6")
                toggle = ui.toggle({axis: say(title) for axis, title in AXES.items()}, value=self.axis)
                toggle.props(f'dense no-caps aria-label="{say("Horizontal axis")}"').on_value_change(self._axis_chosen)
            with ui.element("div").classes("studio-grid").style("--least:380px"):
                for key, title in CURVES.items():
                    chart = ui.echart(_options(say(title))).style("height:230px; width:100%")
                    self.charts[key] = chart.props(f'role=img aria-label="{say(title)}"')
        self.curves.set_visibility(False)

    # --- what changes -------------------------------------------------------------------------------------------------

    async def update(self) -> None:
        """Reads the runs, and sends what has changed."""
        read = await threads.io_bound(self._read)
        if read is None:
            return  # the server ends
        found, jobs = read
        self.rows = run_view.rows(found.runs, jobs)
        self._follow_job()
        self.faults.set_text("; ".join(found.faults))
        say = self.studio.say
        table = []
        for row in self.rows:
            cells = run_view.cells(row)
            more = {
                "state_text": say(row.state),
                "colour": STATES.get(row.state, "grey"),
                "link": f"/runs?{urlencode({'show': row.name})}",
            }
            table.append({**cells, **more})
        if table != self.table.rows:
            self.table.rows = table
        self.table.selected = [row for row in table if row["name"] in self.chosen]
        self._draw_detail()
        self._draw_curves()

    def _read(self) -> tuple[finding.Found, Sequence[Job]]:
        return self.search.runs(), self.studio.jobs.all()

    def _follow_job(self) -> None:
        """Goes over from a job that has been started to its run, once that has begun."""
        for row in self.rows:
            if row.job and row.run and row.job.name == self.shown:
                self.shown = row.name
                self._remember()

    def _drawn(self) -> list[Row]:
        names = [*self.chosen, *([self.shown] if self.shown not in self.chosen else [])]
        return [row for row in self.rows if row.name in names and row.run]

    def _draw_curves(self) -> None:
        rows = self._drawn()[: len(COLOURS)]
        self.curves.set_visibility(bool(rows))
        changed = [self.axis, *(row.name for row in rows)] != getattr(self, "_curves_of", None)
        self._curves_of = [self.axis, *(row.name for row in rows)]
        for row in rows:
            assert row.folder
            log = self.logs.setdefault(row.folder, Log(row.folder))
            changed = log.read() or changed
        if not changed:
            return
        for key, chart in self.charts.items():
            series = []
            for row, colour in zip(rows, COLOURS, strict=False):
                assert row.folder
                points = self.logs[row.folder].points(key, self.axis)
                if points:
                    series.append(_series(row.name, colour, points))
            chart.options["series"] = series
            last = [f"{each['name']} {each['data'][-1][1]:.4g} ({each['data'][-1][0]:g})" for each in series]
            chart.props["aria-label"] = f"{self.studio.say(CURVES[key])}: {', '.join(last)}"
            chart.options["xAxis"]["name"] = self.studio.say(AXES[self.axis])
            chart.options["legend"]["show"] = len(rows) > 1
            chart.set_visibility(bool(series))
            chart.run_chart_method("setOption", chart.options, {"replaceMerge": ["series"]})

    def _draw_detail(self) -> None:
        row = next((row for row in self.rows if row.name == self.shown), None)
        if row is None:
            if self._detail_state != self.shown:
                self._detail_state = self.shown
                self.detail.clear()
                if self.shown:
                    with self.detail:
                        layout.error(self.studio.say("There is no run {name}", name=self.shown))
            return
        state = (row.name, row.state, row.reason, row.fault, row.act.state if row.act else "")
        if state != self._detail_state:
            self._detail_state = state
            self.detail.clear()
            with self.detail, ui.element("div").classes("studio-card"):
                self._draw_run(row)
        self._fill(row)

    def _draw_run(self, row: Row) -> None:
        say = self.studio.say
        with ui.row().classes("items-center full-width"):
            ui.label(row.name).classes("text-h6 studio-mono").props("role=heading aria-level=2")
            ui.badge(say(row.state), color=STATES.get(row.state, "grey")).props("role=status").mark("state")
            ui.space()
            self._buttons(row)
        if row.reason:
            bad = row.state in ("failed", "killed", "stalled")
            (layout.error(row.reason) if bad else ui.label(row.reason).classes("studio-muted"))
        if row.fault:
            layout.error(row.fault)
        self.figures = ui.element("div").classes("studio-grid q-my-sm").style("--least:200px; gap:2px 16px")
        self._figures_shown: Any = None
        layout.command(self.studio, joined(["swift", *row.words]))
        self.saved = ui.column().classes("full-width q-gutter-none q-mt-sm")
        self._saved_shown: Any = None
        with ui.expansion(say("Log"), value=row.state in ("failed", "killed") or row.run is None).classes("full-width"):
            self.log = ui.label().classes("studio-log studio-mono").props(f'tabindex=0 aria-label="{say("Log")}"')

    def _buttons(self, row: Row) -> None:
        say = self.studio.say
        busy = row.act is not None and row.act.is_active
        if row.is_active:
            stop = ui.button(say("Stop"), icon="stop", on_click=lambda: self._ask_to_stop(row)).props(
                "dense no-caps outline color=negative"
            )
            stop.set_enabled(not busy)
        elif row.run and run_view.can_resume(row.run):
            resume = ui.button(say("Resume"), icon="play_arrow", on_click=lambda: self._act("resume", row))
            resume.props("dense no-caps outline color=primary").set_enabled(not busy)
        query = (
            {"run": str(row.folder)}
            if row.folder
            else {"words": joined(row.words), "failed": row.job.name if row.job else ""}
        )
        clone = ui.button(
            say("Clone with changes"),
            icon="content_copy",
            on_click=lambda: ui.navigate.to(f"/train?{urlencode(query)}"),
        )
        clone.props("dense no-caps outline color=primary")

    def _fill(self, row: Row) -> None:
        """The parts of the detail that change while a run goes on."""
        say = self.studio.say
        if row.run and (figures := run_view.details(row.run, self.studio.folders.short)) != self._figures_shown:
            self._figures_shown = figures
            self.figures.clear()
            with self.figures:
                for title, text in figures.items():
                    if text:
                        with ui.element("div"):
                            ui.label(say(title)).classes("text-caption studio-muted")
                            ui.label(text).style("overflow-wrap:anywhere")
        if row.run and (saved := run_view.saved(row.run)) != self._saved_shown:
            self._saved_shown = saved
            self.saved.clear()
            with self.saved:
                for each in saved:
                    loss = f" · {say('Held-out loss')} {each['loss']}" if each["loss"] else ""
                    with ui.row().classes("items-center"):
                        ui.label(f"{each['name']}{loss}").classes("studio-mono")
                        for page, title in (("chat", "Chat"), ("evaluate", "Evaluate"), ("serve", "Serve")):
                            if page in self.studio.pages:
                                ui.link(say(title), f"/{page}?{urlencode({'ckpt_dir': each['folder']})}")
        text = _log(row)
        if text != self.log.text:
            self.log.set_text(text)

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
        query = {
            "runs": SEPARATOR.join(self.chosen),
            "show": self.shown,
            "axis": self.axis if self.axis != "step" else "",
        }
        kept = urlencode({name: value for name, value in query.items() if value})
        ui.run_javascript(f"history.replaceState(null, '', '/runs?' + {kept!r})")

    def _ask_to_stop(self, row: Row) -> None:
        say = self.studio.say

        def act(name: str) -> None:
            dialog.close()
            self._act(name, row)

        with self.dialogs, ui.dialog() as dialog, ui.card():
            ui.label(say("Stop {name}?", name=row.name)).classes("text-h6")
            if row.run:
                save = ui.button(say("Save a checkpoint and stop"), on_click=lambda: act("stop"))
                save.props("no-caps color=primary")
            kill = ui.button(say("Kill it now, saving nothing"), on_click=lambda: act("kill"))
            kill.props("no-caps outline color=negative")
            ui.button(say("Cancel"), on_click=dialog.close).props("no-caps flat")
        dialog.open()

    def _act(self, act: str, row: Row) -> None:
        """Stops or resumes as the command line does, in a job whose error is shown."""
        if row.run is None:
            if row.job:
                self.studio.jobs.stop(row.job.name, now=True)
            return
        words = {
            "stop": ("runs", "stop", str(row.folder)),
            "kill": ("runs", "stop", str(row.folder), "--now"),
            "resume": ("runs", "resume", str(row.folder)),
        }[act]
        self.studio.jobs.start(words)
        ui.notify(self.studio.say("Asked to resume") if act == "resume" else self.studio.say("Asked to stop"))


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
