"""Samples as chats: who wrote each piece, and its loss weight. Knows no output format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from swift.chat import PLACE, Conversation, Message

if TYPE_CHECKING:
    from swift.template import Rendered

ROLES = {"template": "template", "tool_output": "tool", "reply": "assistant", "stop": "assistant", "format": "format"}
"""The role of a text by its author. Other texts are part of a prompt, and their role follows from the messages."""


class Piece(NamedTuple):
    """A text of one author. `weight`: its loss weight; None: no renderer has read it."""

    text: str
    weight: float | None


class Turn(NamedTuple):
    """What one role says. `role`: system, user, assistant, tool, or template for text of the chat template."""

    role: str
    pieces: list[Piece]


def turns(conversation: Conversation, rendered: Rendered) -> list[Turn]:
    """A sample of a conversation turn by turn. The texts of all pieces join to the sample's text."""
    roles = _Roles(conversation.messages)
    found: list[Turn] = []
    pieces = _Pieces(rendered.pieces)
    for role, run in groupby(rendered.authors, key=lambda author: ROLES.get(author[1], "")):
        text = "".join(part for part, _ in run)
        if text:
            found.append(Turn(roles.next(role, text), list(pieces.take(len(text)))))
    return found


def plain_turns(conversation: Conversation) -> list[Turn]:
    """The messages of a conversation as they are in the row: nothing says yet how they are trained."""
    return [Turn(each.role, list(_plain(each))) for each in conversation.messages]


def _plain(message: Message) -> Iterator[Piece]:
    weight = message.weight
    if message.reasoning:
        yield Piece(f"<think>{message.reasoning}</think>\n", weight)
    if message.content:
        yield Piece(message.content.replace(PLACE, "<image>") if message.images else message.content, weight)
    for call in message.tool_calls:
        yield Piece(f"\n{call.name}({call.arguments})", weight)


class _Pieces:
    """The weighted pieces of a sample, taken from the beginning."""

    def __init__(self, pieces: Iterable[tuple[str, float]]) -> None:
        self._left = iter(pieces)
        self._text, self._weight, self._at = "", 0.0, 0

    def take(self, length: int) -> Iterator[Piece]:
        """The next `length` characters."""
        while length:
            if self._at == len(self._text):
                (self._text, self._weight), self._at = next(self._left), 0
            part = self._text[self._at : self._at + length]
            self._at += len(part)
            length -= len(part)
            if part:
                yield Piece(part, self._weight)


class _Roles:
    """Finds the messages of a dialogue in the texts of a sample, in order."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages, self._at = messages, 0

    def next(self, author: str, text: str) -> str:
        """The role of the next text. `author`: its role if it is known, "format" or ""."""
        if author not in ("", "format"):
            self._pass(author)
            return author
        text = text.strip()
        if not text:
            return "template"
        for at in range(self._at, len(self._messages)):
            message = self._messages[at]
            said = message.content.partition(PLACE)[0].strip()
            # a turn may begin with its role; a system prompt may go on with tools, and results are marked
            if said and (said in text if message.role in ("system", "tool") else text.endswith(said)):
                self._at = at
                self._pass(message.role)
                return message.role
        return "system" if not self._at else "template" if author else "user"

    def _pass(self, role: str) -> None:
        """Goes behind the next message of a role; behind all results that follow one another."""
        rest = self._messages[self._at :]
        first = next((at for at, message in enumerate(rest) if message.role == role), None)
        if first is None:
            return
        self._at += first + 1
        while role == "tool" and self._at < len(self._messages) and self._messages[self._at].role == "tool":
            self._at += 1
