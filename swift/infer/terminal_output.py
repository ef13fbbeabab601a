"""What a dialogue shows, in colour on a terminal: thoughts dim, calls yellow, observations blue, answers plain.

Knows no chat and no form: parts of a reply come with their kind, or are told apart by the words that open their lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal, NamedTuple, TextIO

Kind = Literal["answer", "thought", "call", "observation"]
COLOURS: dict[Kind, str] = {"answer": "", "thought": "\x1b[2m", "call": "\x1b[33m", "observation": "\x1b[34m"}
RESET = "\x1b[0m"


class Word(NamedTuple):
    """What a word at the beginning of a line says of its own text and of what follows."""

    kind: Kind
    after: Kind


def _opens(kind: Kind) -> Word:
    return Word(kind, kind)


WORDS: dict[str, Word] = {
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
    "</think>": Word("thought", "answer"),
    "<tool_call>": _opens("call"),
    "</tool_call>": Word("call", "answer"),
}


def supports_colour(out: TextIO) -> bool:
    """True on a terminal that has colours, unless NO_COLOR (no-color.org) is set."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Highlighter:
    """Tells the parts of a reply apart while it is written; holds back what may be the beginning of a word."""

    def __init__(self) -> None:
        self._kind: Kind = "answer"
        self._line = ""  # of the line that is being written, what is not yet known to open with no word
        self._undecided = True

    def push(self, text: str) -> Iterator[tuple[str, Kind]]:
        for line in text.splitlines(keepends=True):
            if self._undecided:
                self._line += line
                yield from self._decided()
            else:
                yield line, self._kind
            if line.endswith("\n"):
                yield from self.flush()

    def flush(self) -> Iterator[tuple[str, Kind]]:
        """What is held back; then a line begins."""
        if self._line:
            yield self._line, self._kind
        self._line, self._undecided = "", True

    def _decided(self) -> Iterator[tuple[str, Kind]]:
        begun = self._line.lstrip(" \t")
        word = next((word for word in WORDS if begun.startswith(word)), None)
        if word is not None:
            cut = len(self._line) - len(begun) + len(word)
            said, rest = self._line[:cut], self._line[cut:]
            self._kind = WORDS[word].kind
            yield said, self._kind
            self._kind = WORDS[word].after
        elif any(word.startswith(begun) for word in WORDS):
            return
        else:
            rest = self._line
        self._line, self._undecided = "", False
        if rest:
            yield rest, self._kind


class TerminalOutput:
    """Writes to `out` as text comes; `colours` false writes it as it is and holds nothing back."""

    def __init__(self, out: TextIO, colours: bool = False) -> None:
        self._out = out
        self._colours = colours
        self._parts = Highlighter()
        self._last = "\n"

    def say(self, text: str) -> None:
        """More of a reply's own text."""
        if not self._colours:
            self._put(text, "answer")
            return
        for part, kind in self._parts.push(text):
            self._put(part, kind)

    def show(self, text: str, kind: Kind = "answer") -> None:
        """A text whose kind is known; ends what `say` has begun."""
        self.end()
        self._put(text, kind)

    def end(self) -> None:
        """The reply's own text is over."""
        for part, kind in self._parts.flush():
            self._put(part, kind)
        self._parts = Highlighter()

    def fresh(self) -> None:
        """Begins a line, unless one has just begun."""
        self.end()
        if self._last != "\n":
            self._put("\n", "answer")

    def _put(self, text: str, kind: Kind) -> None:
        colour = COLOURS[kind] if self._colours else ""
        self._out.write(f"{colour}{text}{RESET}" if colour and text else text)
        self._out.flush()
        self._last = text[-1:] or self._last
