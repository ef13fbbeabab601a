"""Draws a dialogue: thought, call, observation and answer apart. Text is shown as text, never as HTML."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from nicegui import ui

from swift.chat import Message, ToolCall
from swift.studio import dialogues, layout
from swift.studio.dialogues import Side
from swift.studio.replies import Live
from swift.studio.settings import Studio

STYLE = """
.chat-sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 14px;
  width: 100%; align-items: start; }
.chat-block { border-left: 3px solid var(--studio-line); padding: 4px 10px; margin: 6px 0; width: 100%; }
.chat-title { font-size: 12px; opacity: .72; display: flex; gap: 8px; align-items: center; }
.chat-text { white-space: pre-wrap; overflow-wrap: anywhere; }
.chat-user { background: var(--studio-soft); border-radius: 8px; border-left-color: transparent; }
.chat-thought { border-left-style: dashed; } .chat-thought .chat-text { font-style: italic; opacity: .85; }
.chat-call { border-left-color: #2f7dd1; } .chat-observation { border-left-color: #3a8f5c; }
.chat-call .chat-text, .chat-observation .chat-text { font-family: ui-monospace, "DejaVu Sans Mono", monospace;
  font-size: 13px; max-height: 18rem; overflow-y: auto; }
.chat-answer { border-left-color: #c47f17; }
.chat-composer { position: sticky; bottom: 0; background: var(--q-dark-page, #fff); padding: 8px 0; width: 100%; }
body:not(.body--dark) .chat-composer { background: #fff; }
"""
DOING = {
    "connecting": "waiting for the server, which may load the model",
    "replying": "the model replies",
    "calling": "a tool runs",
}
SHORT = 80
"""Characters of arguments on one line."""
TITLES = {
    "user": "Question",
    "thought": "Thought",
    "call": "Call",
    "observation": "Observation",
    "answer": "Answer",
    "text": "Text",
}


class Actions(NamedTuple):
    """What the user may do with a side. `change`: (number of a message); `observe`: (call id, text)."""

    change: Callable[[int], object]
    observe: Callable[[str, str], object]
    go_on: Callable[[], object]


def block(
    studio: Studio, kind: str, text: str, title: str = "", change: Callable[[], object] | None = None
) -> ui.label:
    """A part of a message; its label, whose text may change."""
    with ui.element("div").classes(f"chat-block chat-{kind}"):
        with ui.element("div").classes("chat-title"):
            ui.label(title or studio.say(TITLES[kind]))
            if change:
                named = studio.say("Change this")
                ui.button(icon="edit", on_click=change).props(f'flat dense round size=xs aria-label="{named}"')
        return ui.label(text).classes("chat-text")


def draw(studio: Studio, side: Side, actions: Actions, waits: bool) -> None:
    """All messages of a side. `waits`: no reply is under way, so the user may act."""
    for number, message in enumerate(side.messages):
        _draw_message(studio, message, partial(actions.change, number))
    if not waits:
        return
    waiting = dialogues.open_calls(side.messages)
    for call in waiting[:1]:
        _ask_result(studio, call, actions)
    if side.note:
        layout.error(studio.say(side.note[:1].upper() + side.note[1:]))
    if waiting or dialogues.awaits_reply(side.messages):
        ui.button(studio.say("Go on"), icon="play_arrow", on_click=actions.go_on).props("outline dense no-caps")


def _draw_message(studio: Studio, message: Message, change: Callable[[], object]) -> None:
    if message.role == "user":
        block(studio, "user", message.content, change=change)
    elif message.role == "tool":
        named = f"{studio.say(TITLES['observation'])} · {message.name}" if message.name else ""
        block(studio, "observation", message.content, named, change)
    else:
        if message.reasoning:
            block(studio, "thought", message.reasoning)
        if message.content or not message.tool_calls:
            kind = "text" if message.tool_calls else "answer"
            block(studio, kind, message.content, change=None if message.tool_calls else change)
        for place, call in enumerate(message.tool_calls):
            draw_call(studio, call, None if place else change)


def draw_call(studio: Studio, call: ToolCall, change: Callable[[], object] | None = None) -> None:
    """A call, and its confidence where it is known."""
    title = f"{studio.say(TITLES['call'])} · {call.name}"
    if call.confidence is not None:
        title += f" · {studio.say('confidence {share}', share=f'{call.confidence:.0%}')}"
    block(studio, "call", arguments_text(call), title, change)


def arguments_text(call: ToolCall) -> str:
    """The arguments, an argument a line if they are a long JSON object."""
    try:
        value = json.loads(call.arguments)
    except ValueError:
        return call.arguments
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= SHORT else json.dumps(value, ensure_ascii=False, indent=1)


def _ask_result(studio: Studio, call: ToolCall, actions: Actions) -> None:
    asks = studio.say("What did {name} return?", name=call.name)
    with ui.row().classes("full-width items-end no-wrap"):
        typed = ui.textarea(asks).props("autogrow outlined dense rows=1").classes("col")
        ui.button(studio.say("Send"), on_click=lambda: actions.observe(call.id, typed.value)).props("no-caps")


class LiveView:
    """The reply under way: its text grows without drawing it anew. `stop` and `answer` are in the page."""

    def __init__(self, studio: Studio, live: Live, asked: Callable[[str], None]) -> None:
        self._studio, self.live, self._asked = studio, live, asked
        self._shape: object = None
        self._labels: dict[str, ui.label] = {}
        self._version = -1
        self._box = ui.element("div").classes("full-width").props("aria-live=polite")

    def update(self) -> None:
        if self._version == self.live.version:
            return
        self._version = self.live.version
        said, pending = self.live.message, self.live.asked
        texts = {"thought": said.reasoning, "answer": said.content}
        shape = (bool(said.reasoning), bool(said.content), len(said.tool_calls), pending, self.live.doing)
        if shape != self._shape:
            self._shape = shape
            self._box.clear()
            with self._box:
                self._draw(said, texts)
        for kind, label in self._labels.items():
            label.set_text(texts[kind])

    def _draw(self, said: Message, texts: dict[str, str]) -> None:
        say, pending = self._studio.say, self.live.asked
        self._labels = {kind: block(self._studio, kind, text) for kind, text in texts.items() if text}
        for call in said.tool_calls:
            draw_call(self._studio, call)
        if pending is None:
            with ui.row().classes("items-center studio-muted"):
                ui.spinner(size="1.2em").props("aria-hidden=true")
                ui.label(say(DOING[self.live.doing]))
            return
        with ui.element("div").classes("studio-card").props("role=alert"):
            writes = "" if pending.tool.read_only else say(", which may change something")
            ui.label(say("Run {name}{writes}?", name=pending.call.name, writes=writes)).classes("text-bold")
            ui.label(arguments_text(pending.call)).classes("chat-text studio-mono")
            with ui.row():
                for word, title in (("yes", "Run"), ("no", "Do not run"), ("always", "Always run this tool")):
                    ui.button(say(title), on_click=lambda word=word: self._asked(word)).props(
                        "no-caps padding='xs md'" if word == "yes" else "no-caps outline padding='xs md'"
                    )
