"""The page that starts a training: a form of the command's flags, its command line, an estimate, the start."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from nicegui import ui

from swift.runs import record
from swift.studio import data_files, layout, servers
from swift.studio.fields import Fields
from swift.studio.forms import Form, joined
from swift.studio.jobs import Job
from swift.studio.layout import Part
from swift.studio.presets import ESSENTIALS, PRESETS, VERBS, Preset
from swift.studio.settings import Studio

OFFERED = 40
"""Files or folders that a menu offers."""
FIGURES = ("memory: ", "time: ")
"""Beginnings of the lines of `--dry_run` with its figures."""


def content(studio: Studio) -> None:
    Page(studio)


class Page:
    """The query has all of the form: `words`, a command line, or `run`, a run whose command is changed.

    `failed` and `estimate` are jobs: one whose error belongs to a field, one that measures.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.problem, words = "", list[str]()
        self.values: dict[str, str] = {}
        with layout.told(self._set_problem):
            words = _words(studio)
        verb = words[0] if words else studio.query.get("verb", "")
        verb = verb if verb in VERBS else VERBS[0]
        self.form = Form(verb, studio.config(verb))
        if words:
            with layout.told(self._set_problem):
                self.values = self.form.values(words)
        self.estimate = studio.query.get("estimate", "")
        failed = self._job(studio.query.get("failed", ""))
        self.failed = {self.form.field_of(failed.reason): failed.reason} if failed and failed.state == "failed" else {}
        self._draw()
        self._changed(keep=True)

    def _set_problem(self, text: str) -> None:
        self.problem = text or self.problem

    def _draw(self) -> None:
        say = self.studio.say
        with ui.row().classes("items-center full-width q-mb-sm"):
            layout.heading(say("Train a model"))
            ui.space()
            for verb in VERBS:
                here = verb == self.form.verb
                link = ui.button(f"swift {verb}", on_click=lambda verb=verb: ui.navigate.to(f"/train?verb={verb}"))
                link.props(f"{'' if here else 'outline'} aria-pressed={str(here).lower()}")
        if self.form.verb == "sft":
            with ui.element("div").classes("studio-grid").style("--least:250px"):
                for preset in PRESETS:
                    self._preset(preset)
        with ui.element("div").classes("studio-columns full-width"):
            with ui.element("div").classes("studio-form"):
                files, models = _files(self.studio), _models(self.studio)
                offers = {"dataset": files, "val_dataset": files, "model_id_or_path": models}
                self.fields = Fields(self.studio, self.form, self.values, self._changed, ESSENTIALS, offers)
            with ui.element("aside").classes("studio-side"):
                self._side()

    def _preset(self, preset: Preset) -> None:
        say = self.studio.say
        title = say(preset.title)
        with ui.element("div").classes("studio-card"):
            ui.label(title).classes("text-weight-bold")
            ui.label(say(preset.about)).classes("text-caption studio-muted")
            with ui.row().classes("items-center q-mt-xs"):
                use = ui.button(say("Use"), on_click=lambda: self._use(preset))
                use.props(f'outline aria-label="{say("Use")}: {title}"')
                if preset.before:
                    ui.button(say("Make its rows"), on_click=lambda: self._before(preset)).props("flat")

    def _side(self) -> None:
        say = self.studio.say
        ui.label(say("The same on the command line")).classes("text-weight-bold")
        self.set_command = layout.command(self.studio, "")
        self.general = layout.error()
        with ui.row().classes("q-mt-sm"):
            start = ui.button(say("Start training"), icon="play_arrow", on_click=self._start)
            measure = ui.button(say("Estimate time and memory"), icon="timer", on_click=self._measure).props("outline")
            self.buttons = (start, measure)
        self.measured = Part(ui.column().classes("full-width q-mt-sm").props("role=status"))
        ui.timer(1.0, self._show_estimate)

    # --- the form -----------------------------------------------------------------------------------------------------

    def _changed(self, keep: bool = False) -> None:
        """`keep`: whether the error of a failed start stays, which belongs to the values as they were."""
        if not keep:
            self.failed, self.problem = {}, ""
        faults = self.form.faults(self.values)
        with contextlib.suppress(ValueError):  # an open quote, which its field says
            self.words = self.form.words(self.values)
            self.set_command(joined(["swift", *self.words]))
        shown = {**self.failed, **faults}
        self.fields.show({name: text for name, text in shown.items() if name})
        named = (text if text.startswith("--") or not name else f"--{name}: {text}" for name, text in shown.items())
        self.general.set_text(self.problem or next(named, ""))
        for button in self.buttons:
            button.set_enabled(not faults)
        self._remember()

    def _remember(self) -> None:
        query = {"words": joined(self.words), "estimate": self.estimate}
        ui.navigate.history.replace(layout.address("/train", query))

    def _use(self, preset: Preset) -> None:
        self.values.update(self.form.values(preset.words))
        self._changed()
        self.fields.draw()
        ui.notify(self.studio.say("Settings filled in"))

    def _before(self, preset: Preset) -> None:
        job = self.studio.jobs.start(preset.before)
        ui.notify(self.studio.say("Started: {command}", command=joined(["swift", *preset.before])))

        def look() -> None:
            now = self.studio.jobs.named(job.name)
            if not now.is_active:
                timer.deactivate()
                done = self.studio.say("The rows are ready") if now.state == "finished" else now.reason
                ui.notify(done, type="positive" if now.state == "finished" else "negative")

        timer = ui.timer(1.0, look)

    # --- start and estimate -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self.form.faults(self.values):
            job = self.studio.jobs.start(self.words)
            ui.navigate.to(layout.address("/runs", {"show": job.name}))

    def _measure(self) -> None:
        if not self.form.faults(self.values):
            self.estimate = self.studio.jobs.start([*self.words, "--dry_run", "true"]).name
            self._remember()
            self._show_estimate()

    def _show_estimate(self) -> None:
        if job := self._job(self.estimate):
            lines = [line for line in job.log(400).splitlines() if line.strip()]
            current = tuple(self.words) == job.words[:-2]
            self.measured.show((job.state, lines, current), lambda: self._draw_estimate(job, lines, current))

    def _draw_estimate(self, job: Job, lines: list[str], current: bool) -> None:
        say = self.studio.say
        figures = [line for line in lines if line.startswith(FIGURES)]
        with ui.element("div").classes("studio-card"):
            if job.is_active:
                with ui.row().classes("items-center"):
                    ui.spinner(size="sm")
                    ui.label(say("Measuring a few steps on the longest rows ..."))
                    ui.space()
                    cancel = ui.button(say("Cancel"), on_click=lambda: self.studio.jobs.stop(job.name, now=True))
                    cancel.props("flat")
                last = ui.label("\n".join(lines[-3:])).classes("studio-mono text-caption studio-muted")
                last.style("white-space:pre-wrap")
            elif job.state == "finished" and figures:
                ui.label(say("Estimate")).classes("text-weight-bold")
                for line in figures:
                    ui.label(line).classes("text-body2")
                if not current:
                    ui.label(say("The settings have changed since.")).classes("text-caption studio-error")
            else:
                layout.error(f"{say(job.state)}: {job.reason}")

    def _job(self, name: str) -> Job | None:
        with contextlib.suppress(ValueError):
            return self.studio.jobs.named(name)
        return None


def _words(studio: Studio) -> list[str]:
    """The command line of the query. Raises ValueError or OSError for a wrong one."""
    if folder := studio.query.get("run"):
        return list(record.read(studio.folders.inside(folder)).record.words)
    return shlex.split(studio.query.get("words", ""))


def _files(studio: Studio) -> list[str]:
    """Files that may have rows, near the top of the folders."""
    return _offered(studio, [path for path in data_files.data_files(studio.folders, 1) if path.name != "package.json"])


def _models(studio: Studio) -> list[str]:
    """The bundled models, and folders with a model near the top of the folders."""
    found = [folder for folder, names in studio.folders.below(2) if "config.json" in names]
    return [*reversed(servers.BUNDLED), *_offered(studio, found)]


def _offered(studio: Studio, found: list[Path]) -> list[str]:
    """The newest first, as words."""
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [joined([studio.folders.short(path)]) for path in found[:OFFERED]]
