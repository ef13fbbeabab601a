"""The page that starts a training: a form of the command's flags, its command line, an estimate, the start."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from nicegui import ui

from swift.runs import record
from swift.studio import layout
from swift.studio.fields import Fields
from swift.studio.forms import Form, joined
from swift.studio.jobs import Job
from swift.studio.presets import ESSENTIALS, PRESETS, VERBS, Preset
from swift.studio.settings import Studio

ROWS = (".jsonl", ".json", ".csv", ".parquet")
OFFERED, SEARCHED = 40, 5000
"""Files or folders that a menu offers, and that are looked at in a folder for it."""
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
        words, self.problem = _words(studio)
        verb = words[0] if words and words[0] in VERBS else studio.query.get("verb", "")
        verb = verb if verb in VERBS else VERBS[0]
        self.form = Form(verb, studio.config(verb))
        self.values: dict[str, str] = {}
        try:
            self.values = self.form.values(words) if words else {}
        except ValueError as error:
            self.problem = str(error)
        self.estimate = studio.query.get("estimate", "")
        self.failed = _failure(studio)
        self._draw()
        self._changed(keep=True)

    def _draw(self) -> None:
        say = self.studio.say
        with ui.row().classes("items-center full-width q-mb-sm"):
            ui.label(say("Train a model")).classes("text-h5").props("role=heading aria-level=1")
            ui.space()
            for verb in VERBS:
                shade = "" if verb == self.form.verb else " outline"
                link = ui.button(f"swift {verb}", on_click=lambda verb=verb: ui.navigate.to(f"/train?verb={verb}"))
                link.props(f"dense no-caps color=primary{shade}").props(
                    f"aria-pressed={str(verb == self.form.verb).lower()}"
                )
        if self.form.verb == "sft":
            with ui.element("div").classes("studio-grid").style("--least:250px"):
                for preset in PRESETS:
                    self._preset(preset)
        with ui.element("div").classes("studio-columns full-width"):
            with ui.element("div").classes("studio-form"):
                offers = {
                    "dataset": _files(self.studio),
                    "val_dataset": _files(self.studio),
                    "model_id_or_path": _models(self.studio),
                }
                self.fields = Fields(self.studio, self.form, self.values, self._changed, ESSENTIALS, offers)
            with ui.element("aside").classes("studio-side"):
                self._side()

    def _preset(self, preset: Preset) -> None:
        say = self.studio.say
        with ui.element("div").classes("studio-card"):
            ui.label(say(preset.title)).classes("text-weight-bold")
            ui.label(say(preset.about)).classes("text-caption studio-muted")
            with ui.row().classes("items-center q-mt-xs"):
                title = say(preset.title)
                use = ui.button(say("Use"), on_click=lambda: self._use(preset)).props(
                    "dense no-caps outline color=primary"
                )
                use.props(f'aria-label="{say("Use")}: {title}"')
                if preset.before:
                    before = ui.button(say("Make its rows"), on_click=lambda: self._before(preset))
                    before.props("dense no-caps flat color=primary")

    def _side(self) -> None:
        say = self.studio.say
        ui.label(say("The same on the command line")).classes("text-weight-bold")
        self.set_command = layout.command(self.studio, "")
        self.general = layout.error("")
        with ui.row().classes("q-mt-sm"):
            self.start_button = ui.button(say("Start training"), icon="play_arrow", on_click=self._start)
            self.start_button.props("no-caps color=primary")
            self.measure_button = ui.button(say("Estimate time and memory"), icon="timer", on_click=self._measure)
            self.measure_button.props("no-caps outline color=primary")
        with ui.column().classes("full-width q-mt-sm").props("role=status") as self.measured:
            pass
        self._show_estimate()
        ui.timer(1.0, self._show_estimate)

    # --- the form -----------------------------------------------------------------------------------------------------

    def _changed(self, keep: bool = False) -> None:
        """`keep`: whether the error of a failed start stays, which belongs to the values as they were."""
        if not keep:
            self.failed, self.problem = {}, ""
        faults = self.form.faults(self.values)
        try:
            self.words = self.form.words(self.values)
            self.set_command(joined(["swift", *self.words]))
        except ValueError:
            pass  # an open quote, which its field says
        shown = {**self.failed, **faults}
        self.fields.show({name: text for name, text in shown.items() if name})
        named = (text if text.startswith("--") or not name else f"--{name}: {text}" for name, text in shown.items())
        self.general.set_text(self.problem or next(named, ""))
        self.start_button.set_enabled(not faults)
        self.measure_button.set_enabled(not faults)
        self._remember()

    def _remember(self) -> None:
        query = {"words": joined(self.words)}
        if self.estimate:
            query["estimate"] = self.estimate
        ui.run_javascript(f"history.replaceState(null, '', '/train?' + {urlencode(query)!r})")

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
        if self.form.faults(self.values):
            return self._changed()
        job = self.studio.jobs.start(self.words)
        ui.navigate.to(f"/runs?{urlencode({'show': job.name})}")

    def _measure(self) -> None:
        if self.form.faults(self.values):
            return self._changed()
        self.estimate = self.studio.jobs.start([*self.words, "--dry_run", "true"]).name
        self._remember()
        self._show_estimate()

    def _show_estimate(self) -> None:
        job = _job(self.studio, self.estimate)
        if job is None:
            return
        state = (job.state, job.log(40), tuple(self.words) == job.words[:-2] if hasattr(self, "words") else True)
        if state == getattr(self, "_shown", None):
            return
        self._shown = state
        say = self.studio.say
        self.measured.clear()
        with self.measured, ui.element("div").classes("studio-card"):
            if job.is_active:
                with ui.row().classes("items-center"):
                    ui.spinner(size="sm")
                    ui.label(say("Measuring a few steps on the longest rows ..."))
                    ui.space()
                    ui.button(say("Cancel"), on_click=lambda: self.studio.jobs.stop(job.name, now=True)).props(
                        "flat dense no-caps"
                    )
                lines = [line for line in job.log(40).splitlines() if line.strip()]
                ui.label("\n".join(lines[-3:])).classes("studio-mono text-caption studio-muted").style(
                    "white-space:pre-wrap"
                )
                return
            lines = [line for line in job.log(400).splitlines() if line.startswith(FIGURES)]
            if job.state == "finished" and lines:
                ui.label(say("Estimate")).classes("text-weight-bold")
                for line in lines:
                    ui.label(line).classes("text-body2")
                if not state[2]:
                    ui.label(say("The settings have changed since.")).classes("text-caption studio-error")
            else:
                layout.error(f"{say(job.state)}: {job.reason}")


def _words(studio: Studio) -> tuple[list[str], str]:
    """The command line of the query, and what is wrong with it."""
    try:
        if folder := studio.query.get("run"):
            return list(record.read(studio.folders.inside(folder)).record.words), ""
        return shlex.split(studio.query.get("words", "")), ""
    except (ValueError, OSError) as error:
        return [], str(error)


def _failure(studio: Studio) -> dict[str, str]:
    """The error of a job that could not begin, by field."""
    job = _job(studio, studio.query.get("failed", ""))
    if job is None or job.state != "failed":
        return {}
    form = Form(job.verb, studio.config(job.verb)) if job.verb in VERBS else None
    return {form.field_of(job.reason) if form else "": job.reason}


def _job(studio: Studio, name: str) -> Job | None:
    try:
        return studio.jobs.named(name) if name else None
    except ValueError:
        return None


def _files(studio: Studio) -> list[str]:
    """Files that may have rows, near the top of the folders; the newest first."""
    return _near(studio, lambda path: path.suffix in ROWS and path.is_file() and path.name != "package.json")


def _models(studio: Studio) -> list[str]:
    """The bundled models, and folders with a model near the top of the folders."""
    return [
        "smollm2-135m-instruct",
        "smollm2-135m-agent",
        *_near(studio, lambda path: (path / "config.json").is_file()),
    ]


def _near(studio: Studio, wanted: Callable[[Path], bool]) -> list[str]:
    found: list[tuple[float, str]] = []
    for folder in studio.folders.named.values():
        for path in itertools.islice(itertools.chain(folder.glob("*"), folder.glob("*/*")), SEARCHED):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if not hidden and wanted(path) and studio.folders.contains(path):
                found.append((path.stat().st_mtime, joined([studio.folders.short(path)])))
    return [name for _, name in sorted(found, reverse=True)[:OFFERED]]
