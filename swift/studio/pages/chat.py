"""The chat: one or two served models, tools that run when the user agrees, and corrections. Holds no model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import app, ui

from swift.agent.jsontext import loads
from swift.assembly import tool_sources
from swift.chat import Message
from swift.flag_groups import ToolFlags
from swift.studio import dialogues, layout, rows, servers
from swift.studio.chat_settings import SettingsForm
from swift.studio.chat_view import Actions, SideView
from swift.studio.dialogues import Dialogue, Dialogues, Served, Setup
from swift.studio.replies import Replies
from swift.studio.settings import Studio
from swift.tools.bound_tool import BoundTool
from swift.tools.toolbox import Toolbox

CORRECTIONS, CHATS = "corrections.jsonl", "chats.jsonl"
POLL = 0.15
"""Seconds between two looks at a dialogue."""
SLOW = 3.0
"""Seconds between two looks at the servers."""
LISTED = 30
AT_END = 300
"""Pixels from the page's end within which it follows a growing reply."""
NARROW = 640
"""Pixels of a window in which the settings close with a question, since they would cover the dialogue."""


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


def _open_tools(studio: Studio, setup: Setup) -> Toolbox:
    """Raises ValueError for a file outside the studio's folders, and as `open_tools` does."""
    words = [word if "://" in word else str(studio.folders.inside(word)) for word in setup.tools]
    for command in setup.mcp:
        shlex.split(command)
    return tool_sources.open_tools(ToolFlags(tools=tuple(words), mcp=setup.mcp))


def content(studio: Studio) -> None:
    if studio.jobs.folder not in _services:
        _services[studio.jobs.folder] = Service(studio)
    service = _services[studio.jobs.folder]
    try:
        dialogue = _opened(studio, service)
    except ValueError as error:
        layout.error(str(error))
        ui.link(studio.say("New chat"), "/chat")
        return
    ui.navigate.history.replace(layout.address("", {"dialogue": dialogue.id}))
    ChatPage(studio, service, dialogue)


def _opened(studio: Studio, service: Service) -> Dialogue:
    """The dialogue of the page's address. Raises ValueError for an unknown one.

    `server`, a job, `endpoint`, a URL, and `ckpt_dir`, a checkpoint, begin a new one with that model.
    """
    query = studio.query
    if "dialogue" in query:
        return service.files.read(query["dialogue"])
    last = next(iter(service.files.list(1)), None)
    running = [each for each in servers.all_servers(studio.jobs) if each.job.is_active]
    if "server" in query:
        served = servers.of(studio.jobs.named(query["server"])).served
    elif "endpoint" in query:
        served = Served(query["endpoint"])
    elif "ckpt_dir" in query:  # an address alone starts no process
        serving = [each.served for each in running if query["ckpt_dir"] in each.job.words]
        served = serving[0] if serving else Served()
    elif last and "new" not in query:
        return last
    else:
        served = running[0].served if running else Served()
    keeps = last and last.setup.models[0].url and not query.keys() & {"server", "endpoint", "ckpt_dir"}
    setup = last.setup if last and keeps else Setup((served,))
    if last and not any(side.messages for side in last.sides):  # an empty one is used again
        return service.files.save(dialogues.with_setup(last, setup))
    return service.files.new(setup)


class ChatPage:
    """A page that shows a dialogue's file and the replies under way, and looks at both several times a second."""

    def __init__(self, studio: Studio, service: Service, dialogue: Dialogue) -> None:
        self.studio, self.service, self.id = studio, service, dialogue.id
        self.files, self.replies = service.files, service.replies
        self.dialogue = dialogue
        self.client = ui.context.client  # what is clicked may be drawn anew, and be no place for more
        self._stamp = 0
        self._build()
        self._look()
        self._look_at_servers()
        ui.timer(POLL, self._look)
        ui.timer(SLOW, self._look_at_servers)

    # What the page consists of ---------------------------------------------------------------------------------------

    def _build(self) -> None:
        say = self.studio.say
        with ui.row().classes("full-width items-center"):
            new = ui.button(say("New chat"), icon="add", on_click=lambda: ui.navigate.to("/chat?new=1"))
            new.props("outline")
            with ui.button(say("Earlier chats"), icon="history").props("outline"), ui.menu():
                for each in self.files.list(LISTED):
                    address = layout.address("/chat", {"dialogue": each.id})
                    ui.menu_item(each.title or say("(empty)"), partial(ui.navigate.to, address))
            ui.space()
            if "data" in self.studio.pages:
                file = self.studio.folders.short(self.service.folder / CORRECTIONS)
                ui.link(say("Right answers"), layout.address("/data", {"file": file}))
            save = partial(self._try, self._save_rows)
            ui.button(say("Save as training rows"), icon="save_alt", on_click=save).props("flat")
            ui.button(say("Delete"), icon="delete", on_click=self._delete).props("flat")
        empty = not self.dialogue.setup.models[0].url
        self.settings = ui.expansion(icon="tune", value=empty).classes("full-width studio-card q-mt-sm")
        with self.settings:
            model = self.studio.query.get("ckpt_dir", servers.BUNDLED[0] if empty else "")
            self.form = SettingsForm(self.studio, self.dialogue.setup, self.service.keys, self._set, model)
            ui.button(say("Show the tools"), icon="build", on_click=self._show_tools).props("outline")
            self.tools = ui.column()
        sides = ui.element("div").classes("chat-sides").props(f'role=log aria-label="{say("Dialogue")}"')
        self.sides = layout.Part(sides)
        with ui.row().classes("chat-composer items-end no-wrap"):
            self.entry = ui.textarea(say("Message (Enter sends, Shift+Enter begins a line)"))
            self.entry.props("autogrow rows=1 autofocus").classes("col")
            ask, stop = partial(self._try, self._ask), partial(self._try, self.replies.stop, self.id)
            self.entry.on("keydown.enter.exact.prevent", ask)
            self.send = ui.button(say("Send"), icon="send", on_click=ask)
            self.stop = ui.button(say("Stop"), icon="stop", on_click=stop).props("color=negative")
        self.fault = layout.error()

    def _look(self) -> None:
        stamp = self.files.stamp(self.id)
        changed = stamp not in (0, self._stamp)
        self._stamp = stamp
        if changed:
            with layout.told(self.fault.set_text):
                self.dialogue = self.files.read(self.id)
        models = self.dialogue.setup.models
        # one side shows no model: drawn anew after each letter of an address, its buttons would lose clicks
        self.sides.show(models if len(models) > 1 else None, self._draw_sides)
        lives = [self.replies.live(self.id, number) for number in range(len(self.views))]
        for view, side, live in zip(self.views, self.dialogue.sides, lives, strict=True):
            view.show(side, live)
        if any(lives) or (changed and self.dialogue.title):
            end = "document.documentElement.scrollHeight"
            self.client.run_javascript(f"if (innerHeight + scrollY > {end} - {AT_END}) scrollTo(0, {end})")
        self.stop.set_visibility(any(lives))
        self.send.set_enabled(not any(lives))

    def _draw_sides(self) -> None:
        self.views: list[SideView] = []
        models = self.dialogue.setup.models
        for number, served in enumerate(models):
            with ui.element("section"):
                if len(models) > 1:
                    ui.label(servers.shown(served, self.studio.jobs)).classes("text-bold")
                self.views.append(SideView(self.studio, self._actions(number)))

    def _look_at_servers(self) -> None:
        self.form.refresh()
        setup = self.dialogue.setup
        names = [servers.shown(served, self.studio.jobs) for served in setup.models]
        self.settings.set_text(" · ".join([self.studio.say("Settings"), *names, *setup.tools, *setup.mcp]))

    # What the user does ----------------------------------------------------------------------------------------------

    def _try(self, action: Callable[..., object], *values: Any) -> None:
        """Does what may be impossible; then the page says why."""
        with self.client:
            with layout.told(self.fault.set_text):
                action(*values)
            self._look()

    def _ask(self) -> None:
        self.replies.ask(self.id, self.entry.value)
        self.entry.set_value("")
        self.client.run_javascript(f"if (innerWidth <= {NARROW}) getElement({self.settings.id}).$refs.qRef.hide()")

    def _set(self, setup: Setup) -> None:
        if setup != self.dialogue.setup:
            self.dialogue = self.files.change(self.id, lambda each: dialogues.with_setup(each, setup))

    def _actions(self, side: int) -> Actions:
        return Actions(
            partial(self._change, side),
            partial(self._try, self.replies.observe, self.id, side),
            partial(self._try, self.replies.go_on, self.id),
        )

    def _show_tools(self) -> None:
        self.tools.clear()
        with self.tools:
            layout.later(self._draw_tools, self.replies.tools, self.id)

    def _draw_tools(self, found: list[BoundTool]) -> None:
        say = self.studio.say
        for tool in found:
            kind = say("described only") if tool.described else "" if tool.read_only else say("may write")
            ui.label(" · ".join(filter(None, (tool.name, kind, tool.tool.description)))).classes("studio-mono")
        if not found:
            ui.label(say("no tools"))

    def _save_rows(self) -> None:
        file = self.service.folder / CHATS
        made = [dialogues.row(self.dialogue, side) for side in range(len(self.dialogue.sides))]
        lines = [rows.add(file, row) for row in made]
        ui.notify(f"{self.studio.folders.short(file)}: {', '.join(map(str, lines))}")

    def _delete(self) -> None:
        self.replies.forget(self.id)
        self.files.delete(self.id)
        ui.navigate.to("/chat")

    def _change(self, side: int, number: int) -> None:
        """A window in which a message is changed: to go on from it, or to save the right answer as a row."""
        say = self.studio.say
        message = self.dialogue.sides[side].messages[number]
        is_reply = message.role == "assistant"
        with self.client, ui.dialog() as window, ui.card().style("min-width: min(40rem, 92vw)"):
            layout.heading(say("Change this"), 2)
            thought = ui.textarea(say("Thought"), value=message.reasoning)
            text = ui.textarea(say("Text"), value=message.content)
            calls = ui.textarea(say("Calls, as JSON"), value=_calls_text(message)).classes("studio-mono")
            for each in (thought, text, calls):
                each.props("autogrow").classes("full-width").set_visibility(each is text or is_reply)
            fault = layout.error()

            def changed() -> Message:
                if not is_reply:
                    return replace(message, content=text.value)
                made = dialogues.written_calls(calls.value)
                return Message("assistant", text.value, made, reasoning=thought.value)

            def go_on() -> None:
                with layout.told(fault.set_text):
                    cut = self.files.save(dialogues.edited(self.dialogue, side, number, changed()))
                    self.replies.go_on(cut.id)
                    ui.navigate.to(layout.address("/chat", {"dialogue": cut.id}))

            def correct() -> None:
                file = self.service.folder / CORRECTIONS
                with layout.told(fault.set_text):
                    line = rows.add(file, dialogues.corrected(self.dialogue, side, number, changed()))
                    ui.notify(say("Saved: {file}, line {line}", file=self.studio.folders.short(file), line=line))
                    window.close()

            with ui.row():
                if is_reply:
                    ui.button(say("Save as the right answer"), on_click=correct)
                ui.button(say("Go on from here"), on_click=go_on).props("outline")
                ui.button(say("Cancel"), on_click=window.close).props("flat")
        window.open()


def _calls_text(message: Message) -> str:
    calls: list[dict[str, object]] = []
    for call in message.tool_calls:
        calls.append({"name": call.name, "arguments": call.arguments})
        with suppress(ValueError):
            calls[-1]["arguments"] = loads(call.arguments)
    return json.dumps(calls, ensure_ascii=False, indent=1) if calls else ""
