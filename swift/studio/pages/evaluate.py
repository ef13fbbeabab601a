"""Evaluations: `swift eval` as a job, its figures and failures, and what changed between two results."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from nicegui import ui

from swift.eval import figures, report, results
from swift.eval.figures import Comparison
from swift.eval.registry import TASKS
from swift.eval.results import Evaluation
from swift.pages import elements
from swift.studio import job_view, layout, servers
from swift.studio.folders import Folders
from swift.studio.job_view import JobList
from swift.studio.settings import Studio

DEPTH = 5
"""Levels below a folder where results are looked for."""


def content(studio: Studio) -> None:
    _start(studio)
    ui.separator().classes("q-my-md")
    layout.heading(studio.say("Results"), 2)
    layout.later(lambda found: _choices(studio, found), find, studio.folders)  # the search may take a second
    if named := [studio.query[name] for name in ("first", "second") if studio.query.get(name)]:
        layout.later(lambda loaded: _draw(studio, *loaded), _load, studio.folders, named)


def _start(studio: Studio) -> None:
    say = studio.say
    layout.heading(say("Evaluate a model"), 2)
    with ui.element("div").classes("studio-fields"):
        model = ui.input(say("Model or checkpoint"), value=studio.query.get("ckpt_dir", servers.BUNDLED[0]))
        compare = ui.input(say("Compare with (optional)"))
        tasks = ui.select([*TASKS], value=["calls"], multiple=True, label=say("Tasks"))
        dataset = ui.input(say("Held-out rows (optional)"))
        limit = ui.number(say("Questions of a task"), value=20, min=1, format="%d")
        guided = ui.select({"false": say("no"), "true": say("yes"), "both": say("both")}, value="false")
        guided.props(f'label="{say("Guided decoding")}"')
        more = ui.input(say("Other flags of swift eval"), placeholder="--seeds 1,2,3")
        job_view.offer_models(studio, model, compare)
        button = ui.button(say("Evaluate"), icon="play_arrow")

    def words() -> list[str]:
        found = ["eval", *servers.model_words(model.value or "", studio.folders), "--tasks", ",".join(tasks.value)]
        if compare.value:
            found += ["--compare", servers.model_words(compare.value, studio.folders)[1]]
        if dataset.value:
            file = studio.folders.inside(dataset.value)
            found += ["--dataset", str(file) if file.exists() else dataset.value]  # else a registered name
        if limit.value is not None:
            found += ["--limit", f"{limit.value:g}"]
        if guided.value != "false":
            found += ["--guided", guided.value]
        return [*found, *shlex.split(more.value or "")]

    JobList(studio, ("eval",), say("No evaluation has been started here"), button, words)


def _choices(studio: Studio, folders: Sequence[Path]) -> None:
    """The choice of one or two results, which the page's address names."""
    say, query = studio.say, studio.query
    found = {studio.folders.short(folder): f"{folder.parent.name}/{folder.name}" for folder in folders}
    found |= {path: path for name in ("first", "second") if (path := query.get(name)) and path not in found}
    if not found:
        layout.empty(say("No results yet: an evaluation writes them to output/eval"), "query_stats")
        return

    def go() -> None:
        ui.navigate.to(layout.address("/evaluate", {"first": first.value, "second": second.value}))

    with ui.element("div").classes("studio-fields"):
        first = ui.select(found, value=query.get("first"), label=say("Result"), on_change=go)
        second = ui.select({"": say("none"), **found}, value=query.get("second", ""), on_change=go)
        second.props(f'label="{say("Compare with")}"')


def _load(folders: Folders, named: Sequence[str]) -> tuple[Evaluation, list[Comparison]]:
    """The first result, and what changed to the second. Raises ValueError for what has no results, or other tasks."""
    loaded = [results.load(folders.inside(each)) for each in named]
    return loaded[0], list(results.compare(*loaded)) if len(loaded) > 1 else []


def _draw(studio: Studio, evaluation: Evaluation, compared: Sequence[Comparison]) -> None:
    """The figures of each task with their intervals and the failures by kind, or what changed between two results."""
    for found in compared:
        ui.label(report.flip_line(found)).classes("text-bold")
        _table(*report.change_grid(found))
        for better, title in ((False, "became wrong"), (True, "became right")):
            if flips := [flip for flip in found.flips if flip.better == better]:
                name = f"{studio.say(title)} ({len(flips)})"
                _folded(name, report.FLIP_HEADER, map(report.flip_row, flips[: report.SHOWN]))
    for task in () if compared else evaluation.tasks:
        _table(*report.grid(task))
        for note in task.notes:
            ui.label(note).classes("studio-muted")
        for guided in task.modes:
            for kind, failed in figures.failures(task, guided):
                title = report.kind_line(kind, failed) + (f", {studio.say('guided')}" if guided else "")
                _folded(title, report.FAILURE_HEADER, map(report.failure_row, failed[: report.SHOWN]))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    ui.html(elements.table(header, rows)).classes("studio-table")


def _folded(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    layout.folded(title, lambda: _table(header, rows))


def find(folders: Folders) -> list[Path]:
    """The folders with results of `swift eval`, the latest first."""
    found = {folder for folder, names in folders.below(DEPTH) if {results.FILE, "answers.jsonl"} <= set(names)}
    return sorted(found, key=lambda folder: (folder / results.FILE).stat().st_mtime, reverse=True)
