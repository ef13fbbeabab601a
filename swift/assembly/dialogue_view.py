"""Messages of a dialogue as compact lines of a terminal. Knows no model, no file and no command."""

from __future__ import annotations

from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from swift.chat import Message

SHORT = 400
"""Characters of a message that are shown; the rest is counted."""
STYLES = {"system": "dim", "user": "cyan", "assistant": "green", "tool": "yellow", "thought": "dim", "call": "magenta"}


class Part(NamedTuple):
    """A part of a message: its kind, a key of STYLES, and its text."""

    kind: str
    text: str


def parts(message: Message) -> list[Part]:
    """The reasoning, the content and the calls of a message."""
    found = [Part("thought", message.reasoning)] if message.reasoning else []
    if message.content or not (message.tool_calls or found):
        found.append(Part(message.role, message.content))
    return [*found, *(Part("call", f"{call.name}({call.arguments})") for call in message.tool_calls)]


def show(console: Console, message: Message, label: str = "", full: bool = False) -> None:
    """`label`: before the role. Long texts are cut unless `full`."""
    name = message.name if message.role == "tool" and message.name else message.role
    for number, part in enumerate(parts(message)):
        head = f"{label}{name}" if not number else " " * len(f"{label}{name}")
        arrow = "-> " if part.kind == "call" else ""
        text = part.text.strip() if full else shortened(part.text.strip())
        indent = "\n" + " " * (len(head) + 2)
        console.print(
            f"[bold]{escape(head)}[/]  [{STYLES[part.kind]}]{arrow}{escape(text).replace(chr(10), indent)}[/]",
            soft_wrap=True,
            highlight=False,
        )


def shortened(text: str) -> str:
    left = len(text) - SHORT
    return text if left <= 0 else f"{text[:SHORT]} ... (+{left:,} characters)"
