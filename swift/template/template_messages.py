"""Messages -> what a chat template is given: what the model is told, and its reply. Knows no token and no Jinja."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, groupby
from typing import Any, NamedTuple

from swift.agent.reply import write_reply
from swift.chat import Message, ToolCall
from swift.template.reply_spans import ReplySpans
from swift.template.template_probe import TemplateTraits, named
from swift.template.template_writer import ReplyPart

Wire = dict[str, Any]
"""A message as OpenAI's clients send it, which is what chat templates read."""


class Reply(NamedTuple):
    """What the model answers.

    `parts` are the text, by who wrote what; `thought` is apart from it, and so are the calls if the template writes
    them, as `calls`. `history` is the whole for the template.
    """

    parts: tuple[ReplyPart, ...]
    thought: str
    history: Wire
    calls: list[Wire]
    called: tuple[ToolCall, ...]
    weight: float | None

    @property
    def text(self) -> str:
        return "".join(part for part, _, _ in self.parts)

    @property
    def mixed(self) -> bool:
        """Whether the environment wrote a part of it."""
        return any(kind != "reply" for _, kind, _ in self.parts)


class Exchange(NamedTuple):
    """What the model is told, and its reply; None: that is to come. `query` is the text that it answers."""

    told: tuple[Wire, ...]
    told_messages: tuple[Message, ...]
    query: str
    reply: Reply | None
    last: bool = True


class TemplateMessages:
    """Makes exchanges of messages. `native`: the template writes calls, results and tools; else the form does."""

    def __init__(self, speech: ReplySpans, nature: TemplateTraits, native: bool) -> None:
        self._speech = speech
        self._format = speech.tool_format
        self._nature = nature
        self.native = native

    def of(self, messages: Sequence[Message], tools: bool) -> list[Exchange]:
        """Raises ValueError for messages that ask nothing."""
        if self.native and self._nature.calling.by_id:
            messages = list(_named(messages))
        if self.native and not self._nature.parallel:
            messages = list(_one_call_at_a_time(messages))
        found = list(self._exchanges(messages, tools))
        asks = [index for index, each in enumerate(found) if any(told.role == "user" for told in each.told_messages)]
        return [each._replace(last=index >= max(asks, default=0)) for index, each in enumerate(found)]

    def _exchanges(self, messages: Sequence[Message], tools: bool) -> Iterator[Exchange]:
        told: list[Message] = []
        said: list[Message] = []
        for role, group in groupby(messages, key=lambda message: message.role):
            run = list(group)
            if role == "assistant" or (role == "tool" and said and not self.native and self._inside):
                said += run
                continue
            if said:
                yield self._exchange(told, said, tools)
                told, said = [], []
            told += run
        if not told and not (messages and messages[0].role == "assistant"):
            raise ValueError("there is no user message")
        yield self._exchange(told, said, tools)

    @property
    def _inside(self) -> bool:
        """Whether the form tells results within the assistant's turn, or writes their turn itself."""
        return self._format.syntax.results != "turn"

    def _exchange(self, told: list[Message], said: list[Message], tools: bool) -> Exchange:
        wire = [self._nature.wire(message) for message in told] if self.native else list(self._told(told))
        query = "\n".join(str(each["content"]) for each in wire)
        after_result = bool(told) and told[-1].role == "tool"
        reply = self._reply(said, tools, after_result) if said else None
        return Exchange(tuple(wire), tuple(told), query, reply)

    def _told(self, told: Sequence[Message]) -> Iterator[Wire]:
        """The same where the form writes results: as a user's message."""
        for role, group in groupby(told, key=lambda message: message.role):
            run = list(group)
            if role == "tool":
                yield {"role": "user", "content": self._format.result([message.content for message in run])}
            else:
                yield from map(self._nature.wire, run)

    # Replies ---------------------------------------------------------------------------------------------------------

    def _reply(self, said: Sequence[Message], tools: bool, after_result: bool) -> Reply:
        parts: list[ReplyPart] = []
        thoughts: list[str] = []
        for role, group in groupby(said, key=lambda message: message.role):
            run = list(group)
            if role == "tool":
                results = self._speech.results([message.content for message in run], "environment")
                parts += [(self._nature.end, "stop", None)] if self._format.syntax.results == "raw" else []
                parts += [(piece.text, piece.kind, None) for piece in results]
                continue
            # one text where neighbours weigh the same: the second may be what the environment wrote
            for weight, texts in groupby(run, key=lambda message: message.weight):
                written = ""
                for message in texts:
                    thought, text = self._written(message, tools, after_result or bool(parts))
                    written += text
                    thoughts += [thought] if thought else []
                parts += self._speech.said(written, tools and not self.native, weight)
        calls = [call for message in said for call in message.tool_calls] if self.native else []
        thought = "\n".join(thoughts)
        own = [message for message in said if message.role == "assistant"]
        reply = Reply(tuple(part for part in parts if part[0]), thought, {}, [], tuple(calls), own[-1].weight)
        history = self._nature.calling.message(calls, reply.text) if calls else _said(reply.text)
        if thought and self._nature.key:
            history[self._nature.key] = thought
        elif thought and not any(message.reasoning for message in own):
            history["content"] = "".join(message.content for message in own)  # the template cuts it out itself
        return reply._replace(history=history, calls=history.get("tool_calls", []))

    def _written(self, message: Message, tools: bool, after_result: bool) -> tuple[str, str]:
        """The thought that is told apart, and the text."""
        thought, content = (message.reasoning, message.content) if message.reasoning else self._split(message.content)
        if self.native:
            return thought, content
        if tools and self._format.syntax.thought:
            given = replace(message, content=content, reasoning=message.reasoning)
            return ("" if message.reasoning else thought), write_reply(self._format, given, tools, after_result)
        bare = replace(message, content=content, reasoning="")
        return thought, write_reply(self._format, bare, tools, after_result)

    def _split(self, content: str) -> tuple[str, str]:
        """The thought that opens a content, and the rest; a template without thoughts takes them for text."""
        if not self._nature.thinks:
            return "", content
        opening, closing = (re.escape(each) for each in self._nature.thinking[:2])
        found = re.match(rf"(?s)\s*{opening}(.*?){closing}\s*", content)
        return (found[1].strip(), content[found.end() :]) if found else ("", content)


def _said(text: str) -> Wire:
    return {"role": "assistant", "content": text}


def _named(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages with ids that tell the names of the tools, for the results too."""
    numbers = count()
    ids: dict[str, str] = {}
    waiting: list[str] = []
    for message in messages:
        calls = tuple(named(call, next(numbers)) for call in message.tool_calls)
        ids |= {old.id: new.id for old, new in zip(message.tool_calls, calls, strict=True) if old.id}
        waiting = [call.id for call in calls] or waiting
        if message.role == "tool":
            own = ids.get(message.tool_call_id) or next(iter(waiting), "")
            waiting = [each for each in waiting if each != own]
            message = replace(message, tool_call_id=own)
        yield replace(message, tool_calls=calls)


def _one_call_at_a_time(messages: Sequence[Message]) -> Iterator[Message]:
    """Each of several calls as a message of its own, its result behind it."""
    waiting: list[Message] = []
    for message in messages:
        if message.role == "tool" and waiting:
            wanted = message.tool_call_id
            at = next((n for n, each in enumerate(waiting) if wanted and each.tool_calls[0].id == wanted), 0)
            yield waiting.pop(at)
            yield message
            continue
        yield from waiting
        waiting = []
        if len(message.tool_calls) > 1:
            first, *others = message.tool_calls
            bare = replace(message, content="", reasoning="")
            waiting = [replace(message, tool_calls=(first,)), *(replace(bare, tool_calls=(call,)) for call in others)]
        else:
            yield message
    yield from waiting
