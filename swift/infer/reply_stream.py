"""A token stream -> text that is safe to show, and calls while they are written. Knows no engine and no prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import uuid4

from swift.agent import CallIds, CallTemplate, Syntax, without_ids
from swift.agent.reasoning_parser import ReasoningParser, ReplyText
from swift.agent.tools import json_arguments
from swift.chat import Message, ToolCall

BROKEN = "\ufffd"
"""What a decoder writes for bytes that do not make a character (yet)."""


class StopString(NamedTuple):
    """A text that ends a reply, and whether it stays in it."""

    text: str
    keep: bool


class Detokenizer:
    """Turns tokens into text one by one, never half a character.

    `before`: the last tokens of the prompt. Some decoders drop the space before the first word they see.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._shown = list(before)  # tokens whose text is out, kept as context
        self._new: list[int] = []

    def push(self, token: int) -> str:
        self._new.append(token)
        return self._text(final=False)

    def flush(self) -> str:
        """What is still held: at the end of a reply even a broken character is shown."""
        return self._text(final=True) if self._new else ""

    def _text(self, final: bool) -> str:
        before, whole = self._decode(self._shown), self._decode(self._shown + self._new)
        if not final and (len(whole) <= len(before) or whole.endswith(BROKEN)):
            return ""
        self._shown, self._new = self._new, []
        return whole[len(before) :]


class StopChecker:
    """Lets text through up to the first of `stop_strings`; holds back what may be the beginning of one."""

    def __init__(self, stop_strings: Sequence[StopString]) -> None:
        self._endings = tuple(stop_strings)
        self._held = ""
        self.ended: StopString | None = None

    def push(self, text: str) -> str:
        if self.ended is not None:
            return ""
        self._held += text
        # The first to begin wins, and of those the longest.
        found = [
            (at, -len(ending.text), ending) for ending in self._endings if (at := self._held.find(ending.text)) >= 0
        ]
        if found:
            at, _, self.ended = min(found)
            passed = self._held[: at + len(self.ended.text) * self.ended.keep]
            self._held = ""
            return passed
        hold = max((partial_overlap(self._held, ending.text) for ending in self._endings), default=0)
        cut = len(self._held) - hold
        passed, self._held = self._held[:cut], self._held[cut:]
        return passed

    def flush(self) -> str:
        """What is still held: the reply is over, so it was no ending."""
        passed, self._held = self._held, ""
        return passed


class ReplyStream:
    """Tokens -> what is thought and what is said: a Detokenizer, then Thoughts and Gates. `ended` is the ending that
    was met, if any: one of the `turn`'s anywhere, one of the others in what is said alone."""

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stop_strings: Sequence[StopString] = (),
        before: Sequence[int] = (),
        thoughts: ReasoningParser | None = None,
        turn: Sequence[StopString] = (),
    ) -> None:
        self._characters = Detokenizer(decode, before)
        self._turn, self._content = StopChecker(turn), StopChecker(stop_strings)
        self._thoughts = thoughts or ReasoningParser(None)

    @property
    def ended(self) -> StopString | None:
        return self._content.ended or self._turn.ended

    def push(self, token: int) -> ReplyText:
        return self._told(self._turn.push(self._characters.push(token)))

    def flush(self) -> ReplyText:
        told = self._told(self._turn.push(self._characters.flush()) + self._turn.flush())
        rest = self._thoughts.end()
        return told + ReplyText(rest.reasoning, self._content.push(rest.content) + self._content.flush())

    def _told(self, text: str) -> ReplyText:
        told = self._thoughts.push(text)
        return ReplyText(told.reasoning, self._content.push(told.content))


class ToolCallStream:
    """Splits a reply that may call tools into what it says and its calls, both as they are made.

    From a call mark on nothing is said any more, and white space before it waits: it may belong to the mark. Of a call
    whose arguments are a JSON object the name comes first, then the arguments piece by piece; what is written in
    another way is left to `end`, which gets the whole reply as its form reads it.
    """

    def __init__(self, marks: Syntax, shape: CallTemplate) -> None:
        # A form without a text before its first call opens with the name: such a call has the first line for itself.
        bare = not shape.head
        self._marks = (*marks.call, shape.middle) if bare else marks.call
        mark = "|".join(map(re.escape, self._marks)) or r"(?!)"
        mark = rf"^[ \t]*(?:{mark})" if marks.opens_line else mark
        self._mark = re.compile(rf"\A{_BARE}\n\s*(?=\{{)|{mark}" if bare else mark, re.IGNORECASE | re.MULTILINE)
        self._bare = re.compile(rf"\A{_BARE}?(\n\s*)?\Z" if bare else r"(?!)")
        self._openings = None if marks.tags else _openings(shape, marks)
        self.whole = ""
        self._said = 0
        self._at: int | None = None  # where the call that comes next, or its arguments, go on
        self._begun: list[ToolCall] = []
        self._value: JsonObjectScanner | None = None  # the arguments that are being read

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """What can be said now, and what there is of calls: each begins with a part that has a name."""
        self.whole += text
        said = ""
        if self._at is None:
            rest = self.whole[self._said :]
            found = self._mark.search(self.whole, self._said)
            held = max((partial_overlap(rest, mark) for mark in self._marks), default=0)
            if not found and self._bare.match(self.whole):
                held = len(rest)
            said = rest[: found.start() - self._said if found else len(rest) - held].rstrip()
            self._at = found.start() if found else None
            self._said += len(said)
        return said, list(self._read())

    def end(self, message: Message) -> tuple[str, list[ToolCall]]:
        """What of the finished reply, read as `message`, has not been given yet."""
        begun = self._begun
        calls = [replace(call, id=_new_id()) for call in message.tool_calls[len(begun) :]]
        if begun and len(message.tool_calls) >= len(begun):
            given, written = begun[-1].arguments, message.tool_calls[len(begun) - 1].arguments
            for text in (json_arguments(written).text, written):
                if text.startswith(given) and text != given:
                    calls.insert(0, ToolCall("", text[len(given) :], begun[-1].id))
                    break
        # A call that was begun and cannot be read is not said as text too.
        return "" if begun and not message.tool_calls else message.content[self._said :], calls

    @property
    def called(self) -> bool:
        return bool(self._begun)

    def _read(self) -> Iterator[ToolCall]:
        while self._at is not None and self._openings is not None:
            if self._value is None:
                found = self._openings[bool(self._begun)].match(self.whole, self._at)
                if not found or not self.whole.startswith("{", found.end()):
                    return
                self._at, self._value = found.end(), JsonObjectScanner()
                self._begun.append(ToolCall(found["name"], "", _new_id()))
                yield self._begun[-1]
            size = self._value.push(self.whole[self._at :])
            piece, self._at = self.whole[self._at : self._at + size], self._at + size
            if piece:
                begun = self._begun[-1]
                self._begun[-1] = replace(begun, arguments=begun.arguments + piece)
                yield ToolCall("", piece, begun.id)
            if not self._value.whole:
                return
            self._value = None


_BARE = r"[\w.-]+"  # a name alone on its line


def _openings(shape: CallTemplate, marks: Syntax) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What comes before the arguments of the first call, and of the others: white space and ids may differ."""
    if marks.opening:
        return re.compile(marks.opening), re.compile(marks.opening)
    ids = marks.ids
    name = r"(?P<name>[^\s\"<>]+?)"
    between = _loosely(shape.between, ids) if shape.between.strip() else r"\s*\n\s*"
    middle = _loosely(shape.middle, ids)
    head = _loosely(shape.head, ids) if shape.head else rf"(?:{middle})?"
    return re.compile(head + name + between, re.IGNORECASE), re.compile(middle + name + between, re.IGNORECASE)


def _loosely(text: str, ids: CallIds | None) -> str:
    parts = (r"\s*".join(re.escape(word) for word in re.split(r"\s+", part)) for part in without_ids(text, ids))
    return rf"\s*{ids.pattern}\s*".join(parts) if ids else next(parts)


def _new_id() -> str:
    return f"call_{uuid4().hex[:24]}"


class JsonObjectScanner:
    """Finds the end of a JSON object that comes piece by piece. What is no JSON (a Python literal) never ends."""

    _NEXT = re.compile(r"[^\"'{}\[\]]*")
    _IN_TEXT = re.compile(r"(?:[^\"\\]|\\.)*", re.DOTALL)

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self.whole = False

    def push(self, text: str) -> int:
        """How much of `text`, which begins where the last piece ended, belongs to the object."""
        at = 0
        while at < len(text) and not self.whole:
            found = (self._IN_TEXT if self._in_text else self._NEXT).match(text, at)
            assert found
            at = found.end()
            letter = text[at : at + 1]
            if letter in ("", "'", "\\"):  # more to come; or no JSON; or half an escape
                break
            if letter == '"':
                self._in_text = not self._in_text
            else:
                self._depth += 1 if letter in "{[" else -1
            at += 1
            self.whole = self._depth == 0
        return at


def partial_overlap(text: str, mark: str) -> int:
    """The length of the longest end of `text` that may be a beginning of `mark`, in any letter case."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    return next((size for size in sizes if text[-size:].lower() == mark[:size].lower()), 0)
