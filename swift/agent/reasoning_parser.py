"""Parses reasoning blocks in streamed replies. Knows no tool-call format and no token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from swift.agent import ReasoningTags

COMMENTARY = "<|channel|>commentary<|message|>"
"""The header of content before a call in OpenAI's harmony format, in which each part of a reply has a header."""
State = Literal["edge", "reasoning", "content"]
"""Within reasoning or content, or at an edge, where either may begin."""


@dataclass(frozen=True, slots=True)
class ReplyText:
    """Text of a reply, split into reasoning and content."""

    reasoning: str = ""
    content: str = ""

    def __add__(self, after: ReplyText) -> ReplyText:
        return ReplyText(self.reasoning + after.reasoning, self.content + after.content)


class _Border(NamedTuple):
    """The end of one part and the beginning of the next; the text between them is dropped."""

    start: int
    end: int
    state: State


class ReasoningParser:
    """Splits a streamed reply into reasoning and content. `thinking` None: all is content.

    `prefill`: the beginning of the reply that the prompt contains; it is not emitted. White space around reasoning is
    dropped, several blocks are joined by line breaks. If content has a header (`ReasoningTags.answer`), it is dropped,
    and a reply may have several contents, each up to a `close`.
    """

    def __init__(self, thinking: ReasoningTags | None, prefill: str = "") -> None:
        self.state: State = "edge" if thinking else "content"
        self.parted = False
        """Whether a tag was read: white space after it is not content."""
        self._openings: dict[str, State] = {thinking.open.strip(): "reasoning"} if thinking else {}
        self._close = thinking.close.strip() if thinking else ""
        self._has_messages = bool(thinking and thinking.answer)
        if thinking and thinking.answer:
            self._openings |= {thinking.answer.strip(): "content", COMMENTARY: "content"}
        self._text = ""  # held back: possibly the beginning of a tag, or white space at an edge
        self._fresh = False  # at the beginning of a part
        self._emitted: set[State] = set()
        self.push(prefill)
        if self.state == "edge" and self._text.strip():
            self.state = "content"
        self._text, self._emitted = "", set()

    def push(self, text: str) -> ReplyText:
        """Adds text and returns what can be emitted."""
        self._text += text
        emitted = ReplyText()
        while border := self._border():
            emitted += self._emit(self._text[: border.start])
            self._text = self._text[border.end :]
            self.parted = self.parted or border.end > 0
            self._fresh = self.parted
            self.state = border.state
        size = self._safe()
        piece, self._text = self._text[:size], self._text[size:]
        return emitted + self._emit(piece)

    def end(self) -> ReplyText:
        """Returns the text held back. A reply that ends within reasoning has no content."""
        if self.state == "edge":
            self.state, self._fresh = "content", self.parted
        held, self._text = self._text, ""
        return self._emit(held.rstrip() if self.state == "reasoning" else held)

    def _border(self) -> _Border | None:
        if self.state == "edge":
            begins = self._text.lstrip()
            for mark, state in self._openings.items():
                if begins.startswith(mark):
                    return _Border(0, len(self._text) - len(begins) + len(mark), state)
            undecided = any(mark.startswith(begins) for mark in self._openings)
            return None if undecided else _Border(0, 0, "content")
        ends = self.state == "reasoning" or self._has_messages
        at = self._text.find(self._close) if ends else -1
        if at < 0:
            return None
        end = at + len(self._close)
        return _Border(len(self._text[:at].rstrip()) if self.state == "reasoning" else at, end, "edge")

    def _safe(self) -> int:
        """The length of the buffer that cannot be part of a tag, nor of the white space before one."""
        if self.state == "edge":
            return 0
        if self.state == "content":
            return len(self._text) - (_overlap(self._text, self._close) if self._has_messages else 0)
        return len(self._text[: len(self._text) - _overlap(self._text, self._close)].rstrip())

    def _emit(self, piece: str) -> ReplyText:
        piece = piece.lstrip() if self._fresh else piece
        if not piece:
            return ReplyText()
        piece = f"\n{piece}" if self._fresh and self.state in self._emitted else piece
        self._fresh = False
        self._emitted.add(self.state)
        return ReplyText(piece) if self.state == "reasoning" else ReplyText("", piece)


def _overlap(text: str, mark: str) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of `mark`."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)
