"""Messages of a dialogue as compact lines of a terminal. Knows no model, no file and no command."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from swift.chat import Message, ToolCall
from swift.infer.confirmation import printable

SHORT = 400
"""Characters of a message that are shown; the rest is counted."""
STYLES = {"system": "dim", "user": "cyan", "assistant": "green", "tool": "yellow", "thought": "dim", "call": "magenta"}


class Part(NamedTuple):
    """A part of a message: its kind, a key of STYLES, and its text."""

    kind: str
    text: str


def parts(message: Message, notes: Sequence[str] = ()) -> list[Part]:
    """The reasoning, the content and the calls of a message. `notes`: for each call, what is said of it."""
    found = [Part("thought", message.reasoning)] if message.reasoning else []
    if message.content or not (message.tool_calls or found):
        found.append(Part(message.role, message.content))
    for call, note in zip_longest(message.tool_calls, notes[: len(message.tool_calls)], fillvalue=""):
        assert isinstance(call, ToolCall), message
        found.append(Part("call", f"-> {call.name}({call.arguments})" + (f"  {note}" if note else "")))
    if message.declined:
        names = ", ".join(call.name for call in message.declined)
        found.append(Part("thought", f"not called, since it was doubtful: {names}"))
    return found


def show(console: Console, message: Message, label: str = "", full: bool = False, notes: Sequence[str] = ()) -> None:
    """`label`: before the role. Long texts are cut unless `full`. `notes`: see `parts`."""
    name = message.name if message.role == "tool" and message.name else message.role
    for number, part in enumerate(parts(message, notes)):
        head = f"{label}{name}" if not number else " " * len(f"{label}{name}")
        text = visible(part.text.strip())
        text = text if full else shortened(text)
        indent = "\n" + " " * (len(head) + 2)
        console.print(
            f"[bold]{escape(head)}[/]  [{STYLES[part.kind]}]{escape(text).replace(chr(10), indent)}[/]",
            soft_wrap=True,
            highlight=False,
        )


def shortened(text: str) -> str:
    left = len(text) - SHORT
    return text if left <= 0 else f"{text[:SHORT]} ... (+{left:,} characters)"


def visible(text: str) -> str:
    """The text with escapes for characters that would act on a terminal."""
    return "\n".join(printable(line.replace("\t", "    ")) for line in text.splitlines())
