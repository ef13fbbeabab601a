"""Tool calls and content out of a reply's text while it is generated. Knows no tokens and no prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

from swift.agent import CallIds, CallTemplate, Syntax, without_ids
from swift.agent.arguments import json_arguments
from swift.chat import Message, ToolCall
from swift.infer.reply_stream import partial_overlap


class ToolCallStream:
    """Splits a reply into content and tool calls while it is generated.

    Content ends at the marker of the first call; white space before it is held back, as it may belong to the marker.
    A call whose arguments are a JSON object streams: its name first, then its arguments piece by piece. Calls in other
    notations are left to `end`, which gets the whole reply as the format parses it.
    """

    def __init__(self, syntax: Syntax, template: CallTemplate) -> None:
        # A format without text before its first call begins with the name, alone on the first line.
        bare = not template.head
        self._markers = (*syntax.call, template.middle) if bare else syntax.call
        marker = "|".join(map(re.escape, self._markers)) or r"(?!)"
        marker = rf"^[ \t]*(?:{marker})" if syntax.opens_line else marker
        self._marker = re.compile(rf"\A{_NAME}\n\s*(?=\{{)|{marker}" if bare else marker, re.IGNORECASE | re.MULTILINE)
        self._bare_name = re.compile(rf"\A{_NAME}?(\n\s*)?\Z" if bare else r"(?!)")
        self._openings = None if syntax.tags else _openings(template, syntax)
        self.text = ""
        """The whole reply so far."""
        self.content_end = 0
        """The length of the content before the first call, without white space at its end."""
        self._at: int | None = None  # where the next call, or the rest of its arguments, begins
        self.calls: list[ToolCall] = []
        """The calls that `push` returned, joined."""
        self._arguments: JsonObjectScanner | None = None  # of the call that is being read

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """New content, and new parts of calls. The first part of a call has its name, later ones more arguments."""
        self.text += text
        content = ""
        if self._at is None:
            rest = self.text[self.content_end :]
            found = self._marker.search(self.text, self.content_end)
            held = max((partial_overlap(rest, marker) for marker in self._markers), default=0)
            if not found and self._bare_name.match(self.text):
                held = len(rest)
            content = rest[: found.start() - self.content_end if found else len(rest) - held].rstrip()
            self._at = found.start() if found else None
            self.content_end += len(content)
        return content, list(self._read())

    def end(self, message: Message) -> tuple[str, list[ToolCall]]:
        """The content and calls of the finished reply, parsed as `message`, that `push` has not returned."""
        streamed = self.calls
        calls = [replace(call, id=_new_id()) for call in message.tool_calls[len(streamed) :]]
        if streamed and len(message.tool_calls) >= len(streamed):
            sent, written = streamed[-1].arguments, message.tool_calls[len(streamed) - 1].arguments
            for text in (json_arguments(written).text, written):
                if text.startswith(sent) and text != sent:
                    calls.insert(0, ToolCall("", text[len(sent) :], streamed[-1].id))
                    break
        # A call that was streamed and cannot be parsed does not come again as content.
        return "" if streamed and not message.tool_calls else message.content[self.content_end :], calls

    @property
    def called(self) -> bool:
        """Whether a call was streamed, at least in part."""
        return bool(self.calls)

    def _read(self) -> Iterator[ToolCall]:
        while self._at is not None and self._openings is not None:
            if self._arguments is None:
                found = self._openings[bool(self.calls)].match(self.text, self._at)
                if not found or not self.text.startswith("{", found.end()):
                    return
                self._at, self._arguments = found.end(), JsonObjectScanner()
                self.calls.append(ToolCall(found["name"], "", _new_id()))
                yield self.calls[-1]
            size = self._arguments.push(self.text[self._at :])
            piece, self._at = self.text[self._at : self._at + size], self._at + size
            if piece:
                call = self.calls[-1]
                self.calls[-1] = replace(call, arguments=call.arguments + piece)
                yield ToolCall("", piece, call.id)
            if not self._arguments.complete:
                return
            self._arguments = None


_NAME = r"[\w.-]+"  # a tool's name alone on its line


def _openings(template: CallTemplate, syntax: Syntax) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of the text before the arguments, of the first call and of later ones; white space and ids may vary."""
    if syntax.opening:
        return re.compile(syntax.opening), re.compile(syntax.opening)
    ids = syntax.ids
    name = r"(?P<name>[^\s\"<>]+?)"
    between = _with_free_space(template.between, ids) if template.between.strip() else r"\s*\n\s*"
    middle = _with_free_space(template.middle, ids)
    head = _with_free_space(template.head, ids) if template.head else rf"(?:{middle})?"
    return re.compile(head + name + between, re.IGNORECASE), re.compile(middle + name + between, re.IGNORECASE)


def _with_free_space(text: str, ids: CallIds | None) -> str:
    parts = (r"\s*".join(re.escape(word) for word in re.split(r"\s+", part)) for part in without_ids(text, ids))
    return rf"\s*{ids.pattern}\s*".join(parts) if ids else next(parts)


def _new_id() -> str:
    return f"call_{uuid4().hex[:24]}"


class JsonObjectScanner:
    """Finds the end of a JSON object that arrives in pieces. Text that is not JSON (a Python literal) never ends."""

    _STRUCTURE = re.compile(r"[^\"'{}\[\]]*")
    _STRING = re.compile(r"(?:[^\"\\]|\\.)*", re.DOTALL)

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self.complete = False

    def push(self, text: str) -> int:
        """The number of characters of `text`, which continues the last piece, that belong to the object."""
        at = 0
        while at < len(text) and not self.complete:
            found = (self._STRING if self._in_string else self._STRUCTURE).match(text, at)
            assert found
            at = found.end()
            letter = text[at : at + 1]
            if letter in ("", "'", "\\"):  # the end of the piece; not JSON; half an escape
                break
            if letter == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if letter in "{[" else -1
            at += 1
            self.complete = self._depth == 0
        return at
