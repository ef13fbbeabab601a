"""Blocks of thought in a reply's text, cut off while it is made. Knows no form and no token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from swift.agent import ReasoningTags

COMMENTARY = "<|channel|>commentary<|message|>"
"""What opens the words before a call in OpenAI's harmony format, which has an opening for each part of a reply."""
Place = Literal["edge", "thought", "content"]
"""Where a reply stands: where a thought or content may begin, or within one."""


@dataclass(frozen=True, slots=True)
class ReplyText:
    """A part of a reply, thought and content apart."""

    reasoning: str = ""
    content: str = ""

    def __add__(self, after: ReplyText) -> ReplyText:
        return ReplyText(self.reasoning + after.reasoning, self.content + after.content)


class _Border(NamedTuple):
    """A place in the text where one part ends and the next begins; what is between belongs to neither."""

    start: int
    end: int
    place: Place


class ReasoningParser:
    """Cuts blocks of thought off a reply's text while it is made; what is left is content. None: all of it is.

    `prefill`: what of the reply the prompt holds already, which is not told again. White space around a thought and
    before the content behind it belongs to neither. A line break joins blocks. Where content has an opening of its
    own (`Thinking.answer`), that is dropped, and a reply may say several things, each up to a `close`.
    """

    def __init__(self, thinking: ReasoningTags | None, prefill: str = "") -> None:
        self.place: Place = "edge" if thinking else "content"
        self.parted = False
        """Whether a mark was read: white space behind it is no content."""
        self._openings: dict[str, Place] = {thinking.open.strip(): "thought"} if thinking else {}
        self._close = thinking.close.strip() if thinking else ""
        self._has_messages = bool(thinking and thinking.answer)
        if thinking and thinking.answer:
            self._openings |= {thinking.answer.strip(): "content", COMMENTARY: "content"}
        self._text = ""  # what is held back: it may be the beginning of a mark, or white space at an edge
        self._fresh = False  # a part begins
        self._told: set[Place] = set()
        self.push(prefill)
        if self.place == "edge" and self._text.strip():
            self.place = "content"
        self._text, self._told = "", set()

    def push(self, text: str) -> ReplyText:
        """What of the reply so far can be told."""
        self._text += text
        told = ReplyText()
        while border := self._border():
            told += self._tell(self._text[: border.start])
            self._text = self._text[border.end :]
            self.parted = self.parted or border.end > 0
            self._fresh = self.parted
            self.place = border.place
        size = self._safe()
        piece, self._text = self._text[:size], self._text[size:]
        return told + self._tell(piece)

    def end(self) -> ReplyText:
        """What is still held. A reply that ends within a thought has no content."""
        if self.place == "edge":
            self.place, self._fresh = "content", self.parted
        held, self._text = self._text, ""
        return self._tell(held.rstrip() if self.place == "thought" else held)

    def _border(self) -> _Border | None:
        if self.place == "edge":
            begins = self._text.lstrip()
            for mark, place in self._openings.items():
                if begins.startswith(mark):
                    return _Border(0, len(self._text) - len(begins) + len(mark), place)
            undecided = any(mark.startswith(begins) for mark in self._openings)
            return None if undecided else _Border(0, 0, "content")
        ends = self.place == "thought" or self._has_messages
        at = self._text.find(self._close) if ends else -1
        if at < 0:
            return None
        end = at + len(self._close)
        return _Border(len(self._text[:at].rstrip()) if self.place == "thought" else at, end, "edge")

    def _safe(self) -> int:
        """How much of the text can be no part of a mark to come, nor of the white space before it."""
        if self.place == "edge":
            return 0
        if self.place == "content":
            return len(self._text) - (_beginning(self._text, self._close) if self._has_messages else 0)
        return len(self._text[: len(self._text) - _beginning(self._text, self._close)].rstrip())

    def _tell(self, piece: str) -> ReplyText:
        piece = piece.lstrip() if self._fresh else piece
        if not piece:
            return ReplyText()
        piece = f"\n{piece}" if self._fresh and self.place in self._told else piece
        self._fresh = False
        self._told.add(self.place)
        return ReplyText(piece) if self.place == "thought" else ReplyText("", piece)


def _beginning(text: str, mark: str) -> int:
    """The length of the longest end of `text` that `mark` begins with."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)
