"""The chat: one or two served models, tools that run when the user agrees, and corrections. Holds no model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

from nicegui import app, run, ui

from swift.assembly import tool_sources
from swift.chat import Message
from swift.flag_groups import ToolFlags
from swift.studio import chat_view, dialogues, layout, rows, servers
from swift.studio.chat_settings import SettingsForm
from swift.studio.dialogues import Dialogue, Dialogues, Served, Setup
from swift.studio.replies import Replies
from swift.studio.settings import Studio
from swift.tools.toolbox import Toolbox

CORRECTIONS, CHATS = "corrections.jsonl", "chats.jsonl"
POLL = 0.15
"""Seconds between two looks at a dialogue."""
SLOW = 20
"""Looks at a dialogue between two looks at the servers."""
LISTED = 30
AT_END = 300
"""Pixels from the page's end within which it follows a growing reply."""


class Service:
    """What all pages of a server share: the replies under way, and keys of servers, in memory only."""

    def __init__(self, studio: Studio) -> None:
        self.folder = studio.jobs.folder.parent
        self.keys: dict[str, str] = {}
        self.files = Dialogues(self.folder / "dialogues")
        self.replies = Replies(
            self.files,
            lambda served, left: servers.connect(served, studio.jobs, self.keys.get(served.url), left),
            lambda setup: _open_tools(studio, setup),
        )
        app.on_shutdown(self.replies.close)


_services: dict[Path, Service] = {}


def _service(studio: Studio) -> Service:
    if studio.jobs.folder not in _services:
        _services[studio.jobs.folder] = Service(studio)
    return _services[studio.jobs.folder]


def _open_tools(studio: Studio, setup: Setup) -> Toolbox:
    """Raises ValueError for a file outside the studio's folders, and as `open_tools` does."""
    words = [word if "://" in word else str(studio.folders.inside(word)) for word in setup.tools]
    for command in setup.mcp:
        shlex.split(command)
    return tool_sources.open_tools(ToolFlags(tools=tuple(words), mcp=setup.mcp))


def content(studio: Studio) -> None:
    service = _service(studio)
    ui.add_head_html(f"<style>{chat_view.STYLE}</style>")
    try:
        dialogue = _opened(studio, service)
    except ValueError as error:
        layout.error(str(error))
        ui.link(studio.say("New chat"), "/chat")
        return
    ui.run_javascript(f"history.replaceState(null, '', '?dialogue={dialogue.id}')")
    ChatPage(studio, service, dialogue)


def _opened(studio: Studio, service: Service) -> Dialogue:
    """The dialogue of the page's address. Raises ValueError for an unknown one.

    `server`, a job, `endpoint`, a URL, and `ckpt_dir`, a checkpoint, begin a new one with that model.
    """
    query = studio.query
    if "dialogue" in query:
        return service.files.read(query["dialogue"])
    if "server" in query:
        served = servers.of(studio.jobs.named(query["server"])).served
    elif "endpoint" in query:
        served = Served(query["endpoint"])
    elif "ckpt_dir" in query:
        serving = [each.served for each in servers.all_servers(studio.jobs) if each.serves(query["ckpt_dir"])]
        served = serving[0] if serving else Served()  # an address alone starts no process
    else:
        listed = service.files.list(1)
        if listed and "new" not in query:
            return service.files.read(listed[0].id)
        last = service.files.read(listed[0].id).setup if listed else Setup()
        if last.models[0].url:
            return _empty(service, last)
        ready = [each.served for each in servers.all_servers(studio.jobs) if each.job.is_active]
        served = ready[0] if ready else Served()
    return _empty(service, Setup((served,)))


def _empty(service: Service, setup: Setup) -> Dialogue:
    """A dialogue without messages and with this setup; reuses an earlier one that has no messages."""
    for each in service.files.list(1):
        found = service.files.read(each.id)
        if not any(side.messages for side in found.sides):
            return service.files.save(dialogues.with_setup(found, setup))
    return service.files.new(setup)


class ChatPage:
    """A page that shows a dialogue's file and the replies under way, and looks at both several times a second."""

    def __init__(self, studio: Studio, service: Service, dialogue: Dialogue) -> None:
        self.studio, self.service, self.id = studio, service, dialogue.id
        self.files, self.replies = service.files, service.replies
        self.dialogue = dialogue
        self._drawn: list[object] = []
        self._stamp = 0
        self._looks = 0
        self._lives: dict[int, chat_view.LiveView] = {}
        self._build()
        self._look()
        ui.timer(POLL, self._look)

    # What the page consists of ---------------------------------------------------------------------------------------

    def _build(self) -> None:
        say = self.studio.say
        with ui.row().classes("full-width items-center"):
            ui.button(say("New chat"), icon="add", on_click=lambda: ui.navigate.to("/chat?new=1")).props(
                "outline dense no-caps"
            )
            with ui.button(say("Earlier chats"), icon="history").props("outline dense no-caps"), ui.menu():
                for each in self.files.list(LISTED):
                    ui.menu_item(
                        each.title or say("(empty)"), lambda id=each.id: ui.navigate.to(f"/chat?dialogue={id}")
                    )
            ui.space()
            if "data" in self.studio.pages:
                file = self.studio.folders.short(self.service.folder / CORRECTIONS)
                ui.link(say("Right answers"), f"/data?{urlencode({'file': file})}")
            ui.button(say("Save as training rows"), icon="save_alt", on_click=self._export).props("flat dense no-caps")
            ui.button(say("Delete"), icon="delete", on_click=self._delete).props("flat dense no-caps")
        empty = not self.dialogue.setup.models[0].url
        self.settings = ui.expansion(icon="tune", value=empty).classes("full-width studio-card q-mt-sm")
        with self.settings:
            model = self.studio.query.get("ckpt_dir", servers.BUNDLED[0] if empty else "")
            self.form = SettingsForm(self.studio, self.dialogue.setup, self.service.keys, self._set, model)
            ui.button(say("Show the tools"), icon="build", on_click=self._show_tools).props("outline dense no-caps")
            self.tools = ui.column()
        self.sides = ui.element("div").classes("chat-sides").props(f'role=log aria-label="{say("Dialogue")}"')
        with ui.row().classes("chat-composer items-end no-wrap"):
            self.entry = ui.textarea(say("Message (Enter sends, Shift+Enter begins a line)"))
            self.entry.props("outlined dense autogrow rows=1 autofocus").classes("col")
            self.entry.on("keydown.enter.exact.prevent", self._ask)
            self.send = ui.button(say("Send"), icon="send", on_click=self._ask).props("no-caps")
            self.stop = ui.button(say("Stop"), icon="stop", on_click=self._stop).props("no-caps color=negative")
        self.fault = layout.error("")

    def _look(self) -> None:
        stamp = self.files.stamp(self.id)
        if stamp and stamp != self._stamp:
            self._stamp = stamp
            self._try(self._read)
        lives = [self.replies.live(self.id, number) for number in range(len(self.dialogue.sides))]
        wanted: list[object] = [(side, live is not None) for side, live in zip(self.dialogue.sides, lives, strict=True)]
        if len(wanted) != len(self._drawn):
            self._draw_columns()
        for number, (side, live) in enumerate(zip(self.dialogue.sides, lives, strict=True)):
            if wanted[number] != self._drawn[number]:
                self._drawn[number] = wanted[number]
                box, foot = self._boxes[number]
                box.clear()
                with box:
                    chat_view.draw(self.studio, side, self._actions(number), live is None)
                self._follow()
            view = self._lives.get(number)
            if (view.live if view else None) is not live:
                _, foot = self._boxes[number]
                foot.clear()
                self._lives.pop(number, None)
                if live:
                    with foot:
                        self._lives[number] = chat_view.LiveView(self.studio, live, self._answered(number))
            if number in self._lives:
                self._lives[number].update()
                self._follow()
        busy = any(lives)
        self.stop.set_visibility(busy)
        self.send.set_enabled(not busy)
        if self._looks % SLOW == 0:
            self.form.refresh()
            names = [servers.shown(served, self.studio.jobs) for served in self.dialogue.setup.models]
            tools = [*self.dialogue.setup.tools, *self.dialogue.setup.mcp]
            self.settings.set_text(" · ".join([self.studio.say("Settings"), *names, *tools]))
        self._looks += 1

    def _read(self) -> None:
        self.dialogue = self.files.read(self.id)

    def _draw_columns(self) -> None:
        self.sides.clear()
        self._boxes: list[tuple[ui.element, ui.element]] = []
        self._lives.clear()
        self._drawn = [None] * len(self.dialogue.sides)
        with self.sides:
            for served in self.dialogue.setup.models:
                with ui.element("section"):
                    if len(self._drawn) > 1:
                        ui.label(servers.shown(served, self.studio.jobs)).classes("text-bold")
                    self._boxes.append((ui.element("div"), ui.element("div")))

    def _follow(self) -> None:
        end = "document.documentElement.scrollHeight"
        ui.run_javascript(f"if (innerHeight + scrollY > {end} - {AT_END}) scrollTo(0, {end})")

    # What the user does ----------------------------------------------------------------------------------------------

    def _try(self, action: Callable[[], object]) -> bool:
        """Whether an action was possible; if not, the page says why."""
        try:
            action()
        except (ValueError, OSError) as error:
            self.fault.set_text(str(error))
            return False
        self.fault.set_text("")
        return True

    def _ask(self) -> None:
        text = self.entry.value
        if self._try(lambda: self.replies.ask(self.id, text)):
            self.entry.set_value("")
        self._look()

    def _stop(self) -> None:
        self._try(lambda: self.replies.stop(self.id))
        self._look()

    def _answered(self, side: int) -> Callable[[str], None]:
        def answer(word: str) -> None:
            if live := self.replies.live(self.id, side):
                live.answer(word)

        return answer

    def _set(self, setup: Setup) -> None:
        if setup != self.dialogue.setup:
            renamed = setup.models != self.dialogue.setup.models and len(setup.models) > 1
            self.dialogue = self.files.change(self.id, lambda each: dialogues.with_setup(each, setup))
            if renamed:
                self._drawn = []

    def _actions(self, side: int) -> chat_view.Actions:
        return chat_view.Actions(
            lambda number: self._change(side, number),
            lambda call, text: self._try(lambda: self.replies.observe(self.id, side, call, text)),
            lambda: self._try(lambda: self.replies.go_on(self.id)),
        )

    async def _show_tools(self) -> None:
        say = self.studio.say
        self.tools.clear()
        try:
            found = await run.io_bound(self.replies.tools, self.id)
        except (ValueError, OSError) as error:
            with self.tools:
                layout.error(str(error))
            return
        with self.tools:
            for tool in found or ():
                kind = say("described only") if tool.described else "" if tool.read_only else say("may write")
                ui.label(" · ".join(filter(None, (tool.name, kind, tool.tool.description)))).classes("studio-mono")
            if not found:
                ui.label(say("no tools"))

    def _export(self) -> None:
        file = self.service.folder / CHATS

        def save() -> None:
            made = [dialogues.row(self.dialogue, side) for side in range(len(self.dialogue.sides))]
            lines = [rows.add(file, row) for row in made]
            ui.notify(f"{self.studio.folders.short(file)}: {', '.join(map(str, lines))}")

        self._try(save)

    def _delete(self) -> None:
        self.replies.forget(self.id)
        self.files.delete(self.id)
        ui.navigate.to("/chat")

    def _change(self, side: int, number: int) -> None:
        """A window in which a message is changed: to go on from it, or to save the right answer as a row."""
        say = self.studio.say
        message = self.dialogue.sides[side].messages[number]
        is_reply = message.role == "assistant"
        with ui.dialog() as window, ui.card().style("min-width: min(40rem, 92vw)"):
            ui.label(say("Change this")).classes("text-h6")
            thought = ui.textarea(say("Thought"), value=message.reasoning).classes("full-width")
            text = ui.textarea(say("Text"), value=message.content).classes("full-width")
            calls = ui.textarea(say("Calls, as JSON"), value=_calls_text(message)).classes("full-width studio-mono")
            for each in (thought, text, calls):
                each.props("outlined dense autogrow").set_visibility(each is text or is_reply)
            fault = layout.error("")

            def changed() -> Message:
                if not is_reply:
                    return replace(message, content=text.value)
                made = dialogues.written_calls(calls.value)
                return Message("assistant", text.value, made, reasoning=thought.value)

            def go_on() -> None:
                cut = self.files.save(dialogues.edited(self.dialogue, side, number, changed()))
                self.replies.go_on(cut.id)
                ui.navigate.to(f"/chat?dialogue={cut.id}")

            def correct() -> None:
                file = self.service.folder / CORRECTIONS
                line = rows.add(file, dialogues.corrected(self.dialogue, side, number, changed()))
                ui.notify(say("Saved: {file}, line {line}", file=self.studio.folders.short(file), line=line))
                window.close()

            def attempt(action: Callable[[], None]) -> None:
                try:
                    action()
                except (ValueError, OSError) as error:
                    fault.set_text(str(error))

            with ui.row():
                if is_reply:
                    ui.button(say("Save as the right answer"), on_click=lambda: attempt(correct)).props("no-caps")
                ui.button(say("Go on from here"), on_click=lambda: attempt(go_on)).props("no-caps outline")
                ui.button(say("Cancel"), on_click=window.close).props("no-caps flat")
        window.open()


def _calls_text(message: Message) -> str:
    calls = [{"name": call.name, "arguments": _parsed(call.arguments)} for call in message.tool_calls]
    return json.dumps(calls, ensure_ascii=False, indent=1) if calls else ""


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments
