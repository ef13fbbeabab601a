"""The settings of a dialogue as a form: models, system prompt, tools, sampling. Saves each change at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui

from swift.infer.confirmation import Mode
from swift.studio import job_view, layout, servers
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
        is_job = not served.url or served.url.startswith(servers.JOB)
        given = Served() if is_job else served
        with ui.element("div").classes("studio-fields"):
            value = served.url if is_job else URL
            self.choice = ui.select(self.options(served), value=value, label=title, on_change=change)
            self.choice.props("options-dense")
            with ui.row().classes("items-end").bind_visibility_from(self.choice, "value", value=URL):
                address = say("Address of the server")
                self.url = ui.input(address, value=given.url, placeholder="http://127.0.0.1:8000/v1")
                self.model = ui.input(say("Model (empty: the first)"), value=given.model)
                self.key = ui.input(say("API key (kept in memory only)"), value=key, password=True)
                for each in (self.url, self.model, self.key):
                    each.on("blur", change)

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

    def offer(self, served: Served) -> None:
        """Offers the servers as they are now, `served` among them."""
        options = self.options(served)
        if options != self.choice.options:
            self.choice.set_options(options, value=self.choice.value)

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
        self.models = [
            ModelField(studio, served, title, self.changed, keys.get(served.url, ""))
            for served, title in zip(
                [*setup.models, Served()], (say("Model"), say("Second model, side by side")), strict=False
            )
        ]
        with ui.element("div").classes("studio-fields"):
            self.start = ui.input(say("Serve a model or checkpoint"), value=model)
            job_view.offer_models(studio, self.start)
            ui.button(say("Serve"), icon="play_arrow", on_click=self._serve)
        self.system = self._area(say("System prompt (empty: the template's own)"), setup.system)
        with ui.element("div").classes("studio-fields"):
            files = say("Tools: Python files, OpenAPI documents, JSON descriptions, one a line")
            self.tools = self._area(files, "\n".join(setup.tools))
            self.mcp = self._area(say("MCP servers: commands or URLs, one a line"), "\n".join(setup.mcp))
        with ui.row().classes("full-width items-end"):
            choices = {mode: say(text) for mode, text in CONFIRM.items()}
            self.confirm = ui.select(choices, value=setup.confirm, label=say("Ask before"), on_change=self.changed)
            self.confirm.style("min-width: 11rem")
            values = {
                "ask_below": setup.ask_below,
                "max_turns": setup.max_turns,
                **dict.fromkeys(SAMPLING),
                **setup.sampling,
            }
            self.numbers = {name: self._number(name, value) for name, value in values.items()}
        self.fault = layout.error()

    def _area(self, title: str, value: str) -> ui.textarea:
        area = ui.textarea(title, value=value).props("autogrow rows=1").classes("full-width")
        return area.on("blur", self.changed)

    def _number(self, name: str, value: float | None) -> ui.number:
        return ui.number(name, value=value, format="%g").style("width: 9rem").on("blur", self.changed)

    def changed(self) -> None:
        """Saves what the form says now."""
        with layout.told(self.fault.set_text):
            self._save(self.setup())

    def setup(self) -> Setup:
        """Raises ValueError for values out of range."""
        first, second = (each.served for each in self.models)
        self._keys.update(
            {each.served.url: each.key.value for each in self.models if each.served.url and each.key.value}
        )
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
        with layout.told(self.fault.set_text):
            words = servers.model_words(self.start.value or "", self._studio.folders)
            served = servers.of(job_view.start(self._studio, ["deploy", *words, "--port", "0"])).served
            for field in self.models:
                field.offer(served)
            free = next((field for field in self.models if not field.served.url), self.models[-1])
            free.choice.set_value(served.url)
            self.start.set_value("")

    def refresh(self) -> None:
        """Shows the present states of servers."""
        for field in self.models:
            field.offer(field.served)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())
