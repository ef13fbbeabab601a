"""The jobs of some commands as a list with state, log and a button to stop, and what begins one. Knows no command."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial

from nicegui import run, ui

from swift import flags
from swift.studio import layout, servers
from swift.studio.jobs import Job
from swift.studio.layout import Part
from swift.studio.settings import Studio

POLL = 1.0
"""Seconds between two looks at the jobs."""
MOST = 20
"""Jobs that are listed."""
ICONS = {"starting": "hourglass_empty", "running": "play_arrow", "finished": "check", "stopped": "stop"}


class JobList:
    """The last jobs of `verbs`, with what `more` adds to each; a click on `button` starts the command of `words`.

    A card is drawn anew when the state of its job, or what `watched` gives for it, has changed. `words` may raise
    ValueError or OSError, which is shown.
    """

    def __init__(
        self,
        studio: Studio,
        verbs: Sequence[str],
        empty: str,
        button: ui.button,
        words: Callable[[], list[str]],
        more: Callable[[Job], None] = lambda job: None,
        watched: Callable[[Job], object] = lambda job: None,
    ) -> None:
        self._studio, self._verbs, self._empty, self._words = studio, verbs, empty, words
        self._more, self._watched = more, watched
        self._cards: dict[str, Part] = {}
        self._logs: dict[str, tuple[ui.expansion, ui.label]] = {}
        self._fault = layout.error()
        self._list = Part(ui.column().classes("full-width"))
        button.on_click(self._start)
        self._look()
        ui.timer(POLL, self._look)

    def _look(self) -> None:
        """Shows what has changed."""
        jobs = [job for job in self._studio.jobs.all() if job.verb in self._verbs][:MOST]
        self._list.show([job.name for job in jobs], lambda: self._draw_cards(jobs))
        for job in jobs:
            self._cards[job.name].show((job.state, job.reason, self._watched(job)), partial(self._draw, job))
            expansion, log = self._logs[job.name]
            if expansion.value:
                log.set_text(job.log())

    def _draw_cards(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            layout.empty(self._empty)
        self._cards = {job.name: Part(ui.element("section").classes("studio-card")) for job in jobs}

    def _draw(self, job: Job) -> None:
        say = self._studio.say
        with ui.row().classes("full-width items-center"):
            ui.icon(ICONS.get(job.state, "error_outline")).props("aria-hidden=true")
            ui.label(say(job.state)).classes("text-bold")
            ui.label(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started))).classes("studio-muted")
            ui.space()
            if job.is_active:
                ui.button(say("Stop"), icon="stop", on_click=lambda: self._stop(job)).props("outline")
        ui.label(f"swift {shlex.join(job.words)}").classes("studio-mono").style("overflow-wrap: anywhere")
        if job.reason:
            layout.error(job.reason)
        self._more(job)
        opened = job.name in self._logs and self._logs[job.name][0].value
        with ui.expansion(say("Log"), value=opened, on_value_change=self._look).classes("full-width") as expansion:
            self._logs[job.name] = (expansion, ui.label().classes("studio-log studio-mono"))

    def _stop(self, job: Job) -> None:
        with layout.told():
            self._studio.jobs.stop(job.name)
        self._look()

    def _start(self) -> None:
        with layout.told(self._fault.set_text):
            start(self._studio, self._words())
        self._look()


def start(studio: Studio, words: list[str]) -> Job:
    """Starts `swift WORDS` after its flags are checked. Raises ValueError or OSError for those that are wrong."""
    if {"-h", "--help"} & set(words):
        raise ValueError(f"swift {words[0]} --help shows its flags in a terminal")
    flags.parse(studio.config(words[0]), words[1:], prog=f"swift {words[0]}")
    return studio.jobs.start(words)


def offer_models(studio: Studio, *fields: ui.input) -> None:
    """Offers checkpoints and models in fields, once the page is there: the search for runs may take a second."""

    async def offer() -> None:
        found = await run.io_bound(servers.choices, studio.folders)
        for field in fields:
            field.set_autocomplete(found or [])

    ui.timer(0, offer, once=True)
