"""The settings of a dialogue as a form: models, system prompt, tools, sampling. Saves each change at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui

from swift.infer.confirmation import Mode
from swift.studio import job_view, servers
from swift.studio.dialogues import SAMPLING, Served, Setup
from swift.studio.settings import Studio

URL = "url"
"""The choice of a server that the studio did not start."""
CONFIRM: dict[Mode, str] = {"none": "no call", "writes": "calls that may write", "all": "every call"}


class ModelField:
    """The choice of a model: one that a job serves, or one of another server."""

    def __init__(self, studio: Studio, served: Served, title: str, change: Callable[[], None], key: str) -> None:
        say = studio.say
        self._studio = studio
        with ui.row().classes("full-width items-end"):
            self.choice = ui.select(self.options(served), value=self._value(served), label=title, on_change=change)
            self.choice.classes("col").props("outlined dense options-dense").style("min-width: 14rem")
            with ui.row().classes("col items-end").bind_visibility_from(self.choice, "value", value=URL):
                given = served if self.choice.value == URL else Served()
                self.url = ui.input(
                    say("Address of the server"), value=given.url, placeholder="http://127.0.0.1:8000/v1"
                )
                self.model = ui.input(say("Model (empty: the first)"), value=given.model)
                self.key = ui.input(say("API key (kept in memory only)"), value=key, password=True)
                for each in (self.url, self.model, self.key):
                    each.props("outlined dense").on("blur", change)

    def options(self, served: Served) -> dict[str, str]:
        say = self._studio.say
        found = {"": say("none")}
        for each in servers.all_servers(self._studio.jobs):
            if each.job.is_active or each.served.url == served.url:
                state = "" if each.url else f" ({say('loading') if each.job.is_active else say(each.job.state)})"
                found[each.served.url] = f"{each.label}{state}"
        if served.url.startswith(servers.JOB):
            found.setdefault(served.url, served.url.removeprefix(servers.JOB))
        return {**found, URL: say("another server")}

    @staticmethod
    def _value(served: Served) -> str:
        return served.url if not served.url or served.url.startswith(servers.JOB) else URL

    @property
    def served(self) -> Served:
        value = self.choice.value or ""
        return Served(self.url.value.strip(), self.model.value.strip()) if value == URL else Served(value)


class SettingsForm:
    """`save` gets the setup with every change; what it raises as ValueError is shown.

    `keys`: API keys by URL. `model`: what to offer to serve.
    """

    def __init__(
        self, studio: Studio, setup: Setup, keys: dict[str, str], save: Callable[[Setup], None], model: str
    ) -> None:
        say = studio.say
        self._studio, self._save, self._keys = studio, save, keys
        models = [*setup.models, Served()][:2]
        titles = (say("Model"), say("Second model, side by side"))
        self.models = [
            ModelField(studio, served, title, self.changed, keys.get(served.url, ""))
            for served, title in zip(models, titles, strict=True)
        ]
        with ui.row().classes("full-width items-end"):
            self.start = ui.input(say("Serve a model or checkpoint"), value=model)
            job_view.offer_models(studio, self.start)
            self.start.classes("col").props("outlined dense")
            ui.button(say("Serve"), icon="play_arrow", on_click=self._serve).props("no-caps")
        self.system = self._area(say("System prompt (empty: the template's own)"), setup.system)
        with ui.row().classes("full-width"):
            self.tools = self._area(
                say("Tools: Python files, OpenAPI documents, JSON descriptions, one a line"), "\n".join(setup.tools)
            ).classes("col")
            self.mcp = self._area(say("MCP servers: commands or URLs, one a line"), "\n".join(setup.mcp)).classes("col")
        with ui.row().classes("full-width items-end"):
            choices = {mode: say(text) for mode, text in CONFIRM.items()}
            self.confirm = ui.select(choices, value=setup.confirm, label=say("Ask before"), on_change=self.changed)
            self.confirm.props("outlined dense").style("min-width: 11rem")
            self.numbers = {
                name: self._number(name, value)
                for name, value in {
                    "ask_below": setup.ask_below,
                    "max_turns": setup.max_turns,
                    **{name: setup.sampling.get(name) for name in SAMPLING},
                }.items()
            }
        self.fault = ui.label().classes("studio-error").props("role=alert")

    def _area(self, title: str, value: str) -> ui.textarea:
        area = ui.textarea(title, value=value).props("outlined dense autogrow rows=1").classes("full-width")
        area.on("blur", self.changed)
        return area

    def _number(self, name: str, value: float | None) -> ui.number:
        field = ui.number(name, value=value, format="%g").props("outlined dense").style("width: 9rem")
        field.on("blur", self.changed)
        return field

    def changed(self) -> None:
        """Saves what the form says now."""
        try:
            self._save(self.setup())
            self.fault.set_text("")
        except ValueError as error:
            self.fault.set_text(str(error))

    def setup(self) -> Setup:
        """Raises ValueError for values out of range."""
        first, second = (each.served for each in self.models)
        for each in self.models:
            if each.served.url and each.key.value:
                self._keys[each.served.url] = each.key.value
        numbers: dict[str, Any] = {name: field.value for name, field in self.numbers.items()}
        ask_below, turns = numbers.pop("ask_below"), numbers.pop("max_turns")
        return Setup(
            models=(first, second) if second.url else (first,),
            system=self.system.value,
            tools=_lines(self.tools.value),
            mcp=_lines(self.mcp.value),
            confirm=self.confirm.value,
            ask_below=ask_below,
            sampling={name: value for name, value in numbers.items() if value is not None},
            max_turns=Setup.max_turns if turns is None else int(turns),
        )

    def _serve(self) -> None:
        """Starts a server and chooses it where no model is chosen yet."""
        try:
            words = servers.model_words(self.start.value or "", self._studio.folders)
            job = job_view.start(self._studio, ["deploy", *words, "--port", "0"])
        except (ValueError, OSError) as error:
            self.fault.set_text(str(error))
            return
        url = servers.of(job).served.url
        for field in self.models:
            field.choice.set_options(field.options(Served(url)), value=field.choice.value)
        free = next((field for field in self.models if not field.served.url), self.models[-1])
        free.choice.set_value(url)
        self.start.set_value("")

    def refresh(self) -> None:
        """Shows the present states of servers."""
        for field in self.models:
            options = field.options(field.served)
            if options != field.choice.options:
                field.choice.set_options(options, value=field.choice.value)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())
