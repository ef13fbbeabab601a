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
from swift.studio.layout import Part
from swift.studio.replies import Asked, Live
from swift.studio.settings import Studio

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
    "declined": "Doubtful call, not made",
    "observation": "Observation",
    "answer": "Answer",
    "text": "Text",
}
ANSWERS = {"yes": "Run", "no": "Do not run", "always": "Always run this tool"}


class Actions(NamedTuple):
    """What the user may do with a side. `change`: (number of a message); `observe`: (call id, text)."""

    change: Callable[[int], object]
    observe: Callable[[str, str], object]
    go_on: Callable[[], object]


class SideView:
    """The messages of a side, and the reply under way, whose text grows without drawing it anew."""

    def __init__(self, studio: Studio, actions: Actions) -> None:
        self._studio, self._actions = studio, actions
        self._messages = Part(ui.element("div"))
        self._live = Part(ui.element("div").classes("full-width").props("aria-live=polite"))
        self._labels: dict[str, ui.label] = {}

    def show(self, side: Side, live: Live | None) -> None:
        self._messages.show((side, live is None), lambda: self._draw(side, waits=live is None))
        if live is None:
            self._live.show(None, lambda: None)
            return
        said, asked, doing = live.message, live.asked, live.doing
        texts = {"thought": said.reasoning, "answer": said.content}
        shape = (live, [kind for kind, text in texts.items() if text], len(said.tool_calls), asked, doing)
        self._live.show(shape, lambda: self._draw_live(said, texts, asked, doing))
        for kind, label in self._labels.items():
            label.set_text(texts[kind])

    def _draw(self, side: Side, waits: bool) -> None:
        """All messages. `waits`: no reply is under way, so the user may act."""
        for number, message in enumerate(side.messages):
            self._message(message, partial(self._actions.change, number))
        if not waits:
            return
        say = self._studio.say
        waiting = dialogues.open_calls(side.messages)
        for call in waiting[:1]:
            self._ask_result(call)
        if side.note:
            layout.error(say(side.note[:1].upper() + side.note[1:]))
        if waiting or dialogues.awaits_reply(side.messages):
            ui.button(say("Go on"), icon="play_arrow", on_click=self._actions.go_on).props("outline")

    def _message(self, message: Message, change: Callable[[], object]) -> None:
        if message.role == "user":
            self._block("user", message.content, change=change)
        elif message.role == "tool":
            self._block("observation", message.content, message.name, change)
        else:
            if message.reasoning:
                self._block("thought", message.reasoning)
            if not message.tool_calls:
                self._block("answer", message.content, change=change)
            elif message.content:
                self._block("text", message.content)
            for place, call in enumerate(message.tool_calls):
                self._call(call, None if place else change)
            for call in message.declined:
                self._call(call, kind="declined")

    def _block(self, kind: str, text: str, name: str = "", change: Callable[[], object] | None = None) -> ui.label:
        """A part of a message; its label, whose text may change. `name`: of what it is about."""
        with ui.element("div").classes(f"chat-block chat-{kind}"):
            with ui.element("div").classes("chat-title"):
                ui.label(" · ".join(filter(None, (self._studio.say(TITLES[kind]), name))))
                if change:
                    named = self._studio.say("Change this")
                    button = ui.button(icon="edit", on_click=change)
                    button.props(f'flat round padding=xs size=xs aria-label="{named}"')
            return ui.label(text).classes("chat-text")

    def _call(self, call: ToolCall, change: Callable[[], object] | None = None, kind: str = "call") -> None:
        """A call, made or declined, and its confidence where it is known."""
        name = call.name
        if call.confidence is not None:
            name += f" · {self._studio.say('confidence {share}', share=f'{call.confidence:.0%}')}"
        self._block(kind, arguments_text(call), name, change)

    def _ask_result(self, call: ToolCall) -> None:
        say = self._studio.say
        with ui.row().classes("full-width items-end no-wrap"):
            typed = ui.textarea(say("What did {name} return?", name=call.name)).props("autogrow rows=1").classes("col")
            ui.button(say("Send"), on_click=lambda: self._actions.observe(call.id, typed.value))

    def _draw_live(self, said: Message, texts: dict[str, str], asked: Asked | None, doing: str) -> None:
        say = self._studio.say
        self._labels = {kind: self._block(kind, text) for kind, text in texts.items() if text}
        for call in said.tool_calls:
            self._call(call)
        if asked is None:
            with ui.row().classes("items-center studio-muted"):
                ui.spinner(size="1.2em").props("aria-hidden=true")
                ui.label(say(DOING[doing]))
            return
        with ui.element("div").classes("studio-card").props("role=alert"):
            writes = "" if asked.tool.read_only else say(", which may change something")
            ui.label(say("Run {name}{writes}?", name=asked.call.name, writes=writes)).classes("text-bold")
            ui.label(arguments_text(asked.call)).classes("chat-text studio-mono")
            with ui.row():
                for word, title in ANSWERS.items():
                    answer = ui.button(say(title), on_click=lambda word=word: asked.words.put(word))
                    answer.props("" if word == "yes" else "outline")


def arguments_text(call: ToolCall) -> str:
    """The arguments, an argument a line if they are a long JSON object."""
    try:
        value = json.loads(call.arguments)
    except ValueError:
        return call.arguments
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= SHORT else json.dumps(value, ensure_ascii=False, indent=1)
