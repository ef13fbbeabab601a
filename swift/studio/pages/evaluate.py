"""Evaluations: `swift eval` as a job, its figures and failures, and what changed between two results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

from nicegui import run, ui

from swift.eval import figures, report, results
from swift.eval.registry import TASKS
from swift.eval.results import Evaluation
from swift.studio import job_view, layout, servers
from swift.studio.folders import Folders
from swift.studio.job_view import JobList
from swift.studio.settings import Studio

DEPTH = 5
"""Levels below a folder where results are looked for."""
STYLE = """
.eval-table { border-collapse: collapse; display: block; overflow-x: auto; max-width: 100%; }
.eval-table th, .eval-table td { border: 1px solid var(--studio-line); padding: 4px 8px; text-align: left;
  vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere; min-width: 4rem; max-width: 26rem; }
"""


def content(studio: Studio) -> None:
    ui.add_head_html(f"<style>{STYLE}</style>")
    _start(studio)
    ui.separator().classes("q-my-md")
    ui.label(studio.say("Results")).classes("text-h6").props("role=heading aria-level=2")
    box = ui.column().classes("full-width")

    async def choose() -> None:
        found = await run.io_bound(find, studio.folders)
        with box:
            await _chosen(studio, found or [])

    ui.timer(0, choose, once=True)  # the search may take a second


def _start(studio: Studio) -> None:
    say = studio.say
    ui.label(say("Evaluate a model")).classes("text-h6").props("role=heading aria-level=2")
    with ui.row().classes("full-width items-end"):
        model = ui.input(say("Model or checkpoint"), value=studio.query.get("ckpt_dir", servers.BUNDLED[0]))
        compare = ui.input(say("Compare with (optional)"))
        tasks = ui.select([*TASKS], value=["calls"], multiple=True, label=say("Tasks"))
        dataset = ui.input(say("Held-out rows (optional)"))
        limit = ui.number(say("Questions of a task"), value=20, min=1, format="%d")
        guided = ui.select({"false": say("no"), "true": say("yes"), "both": say("both")}, value="false")
        guided.props(f'label="{say("Guided decoding")}"')
        more = ui.input(say("Other flags of swift eval"), placeholder="--seeds 1,2,3")
        job_view.offer_models(studio, model, compare)
        for each in (model, compare, tasks, dataset, limit, guided, more):
            each.props("outlined dense").style("min-width: 15rem")
        started = ui.button(say("Evaluate"), icon="play_arrow").props("no-caps")
    fault = layout.error("")

    def start() -> None:
        try:
            words = ["eval", *servers.model_words(model.value or "", studio.folders), "--tasks", ",".join(tasks.value)]
            if compare.value:
                words += ["--compare", servers.model_words(compare.value, studio.folders)[1]]
            if dataset.value:
                file = studio.folders.inside(dataset.value)
                words += ["--dataset", str(file) if file.exists() else dataset.value]  # else a registered name
            if limit.value is not None:
                words += ["--limit", f"{limit.value:g}"]
            if guided.value != "false":
                words += ["--guided", guided.value]
            job_view.start(studio, words, more.value or "")
            fault.set_text("")
        except (ValueError, OSError) as error:
            fault.set_text(str(error))
        jobs.look()

    started.on_click(start)
    jobs = JobList(studio, lambda job: job.verb == "eval", say("No evaluation has been started here"))


async def _chosen(studio: Studio, folders: Sequence[Path]) -> None:
    """The results that the page's address names, and the choice of others."""
    say, query = studio.say, studio.query
    found = {studio.folders.short(folder): f"{folder.parent.name}/{folder.name}" for folder in folders}
    for path in (query.get("first"), query.get("second")):
        if path:
            found.setdefault(path, path)
    if not found:
        layout.empty(studio, say("No results yet: an evaluation writes them to output/eval"), "query_stats")
        return

    def go() -> None:
        chosen = {"first": first.value, "second": second.value}
        ui.navigate.to(f"/evaluate?{urlencode({name: value for name, value in chosen.items() if value})}")

    with ui.row().classes("full-width"):
        first = ui.select(found, value=query.get("first"), label=say("Result"), on_change=go)
        second = ui.select({"": say("none"), **found}, value=query.get("second", ""), on_change=go)
        second.props(f'label="{say("Compare with")}"')
        for each in (first, second):
            each.props("outlined dense").classes("col").style("min-width: 16rem")
    try:
        named = [studio.folders.inside(query[name]) for name in ("first", "second") if query.get(name)]
        loaded = [await run.io_bound(results.load, folder) for folder in named]
        shown = [each for each in loaded if each is not None]  # None: the server ends
        if len(shown) > 1:
            draw_comparison(studio, shown[0], shown[1])
        elif shown:
            draw(studio, shown[0])
    except (ValueError, OSError) as error:
        layout.error(str(error))


def draw(studio: Studio, evaluation: Evaluation) -> None:
    """The figures of each task with their intervals, and the failures by kind."""
    for task in evaluation.tasks:
        table(*report.grid(task))
        for note in task.notes:
            ui.label(note).classes("studio-muted")
        for guided in task.modes:
            for kind, failed in figures.failures(task, guided):
                title = report.kind_line(kind, failed)
                if guided:
                    title += f", {studio.say('guided')}"
                _folded(title, report.FAILURE_HEADER, [report.failure_row(each) for each in failed[: report.SHOWN]])


def draw_comparison(studio: Studio, one: Evaluation, two: Evaluation) -> None:
    """The differences with their intervals, and the questions that flipped. Raises ValueError without common tasks."""
    for found in results.compare(one, two):
        ui.label(report.flip_line(found)).classes("text-bold")
        table(*report.change_grid(found))
        for better, title in ((False, "became wrong"), (True, "became right")):
            flips = [flip for flip in found.flips if flip.better == better]
            if flips:
                name = f"{studio.say(title)} ({len(flips)})"
                _folded(name, report.FLIP_HEADER, [report.flip_row(each) for each in flips[: report.SHOWN]])


def _folded(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table that is made when it is opened: failures may be long."""
    box = ui.expansion(title).classes("full-width")

    def opened() -> None:
        if box.value and not box.default_slot.children:
            with box:
                table(header, rows)

    box.on_value_change(opened)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of texts; nothing in it is read as HTML."""
    with ui.element("table").classes("eval-table"):
        with ui.element("tr"):
            for cell in header:
                with ui.element("th").props("scope=col"):
                    ui.label(cell)
        for row in rows:
            with ui.element("tr"):
                for cell in row:
                    with ui.element("td"):
                        ui.label(cell)


def find(folders: Folders) -> list[Path]:
    """The folders with results of `swift eval`, the latest first."""
    found = {folder for root in folders.named.values() for folder in _search(root)}
    return sorted(found, key=lambda folder: (folder / results.FILE).stat().st_mtime, reverse=True)


def _search(root: Path) -> Iterator[Path]:
    for path, names, files in os.walk(root):
        folder = Path(path)
        if results.FILE in files and "answers.jsonl" in files:
            yield folder
        deep = len(folder.relative_to(root).parts) >= DEPTH
        names[:] = [] if deep else [name for name in names if name[0] != "." and not name.startswith("checkpoint-")]
