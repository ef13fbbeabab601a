"""Output of the dialogue, with colours on a terminal: reasoning dim, calls yellow, observations blue, answers plain.

Knows no chat: the sections of a reply come with their kind, or are recognised by the labels at the start of lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, TextIO

from swift.system.terminal import has_colours

Kind = Literal["answer", "thought", "call", "observation"]
COLOURS: dict[Kind, str] = {"answer": "", "thought": "\x1b[2m", "call": "\x1b[33m", "observation": "\x1b[34m"}
RESET = "\x1b[0m"


class Label(NamedTuple):
    """The kinds of a label at the start of a line and of the text `after` it."""

    kind: Kind
    after: Kind


def _opens(kind: Kind) -> Label:
    return Label(kind, kind)


LABELS: dict[str, Label] = {
    "Thought:": _opens("thought"),
    "Action:": _opens("call"),
    "Action Input:": _opens("call"),
    "Observation:": _opens("observation"),
    "Final Answer:": _opens("answer"),
    "✿FUNCTION✿:": _opens("call"),
    "✿ARGS✿:": _opens("call"),
    "✿RESULT✿:": _opens("observation"),
    "✿RETURN✿:": _opens("answer"),
    "<think>": _opens("thought"),
    "</think>": Label("thought", "answer"),
    "<tool_call>": _opens("call"),
    "</tool_call>": Label("call", "answer"),
}


def supports_colour(out: TextIO) -> bool:
    """True for a terminal with colours, unless NO_COLOR is set; FORCE_COLOR gives them to any stream."""
    return has_colours(out)


class Highlighter:
    """Finds the kind of each part of a reply's text while it arrives; holds back the possible beginning of a label."""

    def __init__(self) -> None:
        self._kind: Kind = "answer"
        self._line = ""  # the beginning of the current line, while it may still become a label
        self._may_be_label = True

    def push(self, text: str) -> Iterator[tuple[str, Kind]]:
        for line in text.splitlines(keepends=True):
            if self._may_be_label:
                self._line += line
                yield from self._decide()
            else:
                yield line, self._kind
            if line.endswith("\n"):
                yield from self.flush()

    def flush(self) -> Iterator[tuple[str, Kind]]:
        """The text that is held back; a new line begins after it."""
        if self._line:
            yield self._line, self._kind
        self._line, self._may_be_label = "", True

    def _decide(self) -> Iterator[tuple[str, Kind]]:
        start = self._line.lstrip(" \t")
        label = next((label for label in LABELS if start.startswith(label)), None)
        if label is not None:
            cut = len(self._line) - len(start) + len(label)
            written, rest = self._line[:cut], self._line[cut:]
            self._kind = LABELS[label].kind
            yield written, self._kind
            self._kind = LABELS[label].after
        elif any(label.startswith(start) for label in LABELS):
            return
        else:
            rest = self._line
        self._line, self._may_be_label = "", False
        if rest:
            yield rest, self._kind


class TerminalOutput:
    """Writes to `out` without delay. Without `colours` it writes text as it is and holds nothing back."""

    def __init__(self, out: TextIO, colours: bool = False) -> None:
        self._out = out
        self._colours = colours
        self._highlighter = Highlighter()
        self._last = "\n"

    def write_reply(self, text: str) -> None:
        """The next part of a reply's text, whose kinds are found by labels."""
        if not self._colours:
            self._put(text, "answer")
            return
        for part, kind in self._highlighter.push(text):
            self._put(part, kind)

    def write(self, text: str, kind: Kind = "answer") -> None:
        """Text of a known kind; ends the text of `write_reply`."""
        self.end()
        self._put(text, kind)

    def end(self) -> None:
        """Ends the text of `write_reply`."""
        for part, kind in self._highlighter.flush():
            self._put(part, kind)
        self._highlighter = Highlighter()

    def start_line(self) -> None:
        """Starts a new line, unless the cursor is at the start of one."""
        self.end()
        if self._last != "\n":
            self._put("\n", "answer")

    def _put(self, text: str, kind: Kind) -> None:
        colour = COLOURS[kind] if self._colours else ""
        self._out.write(f"{colour}{text}{RESET}" if colour and text else text)
        self._out.flush()
        self._last = text[-1:] or self._last
