"""Messages -> the dicts that a chat template renders, paired as prompts and replies. Knows no token and no Jinja."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, groupby
from typing import Any, NamedTuple

from swift.agent.reply import write_reply
from swift.chat import Message, ToolCall
from swift.template.reply_spans import ReplySpans
from swift.template.template_probe import TemplateTraits, with_name_in_id
from swift.template.template_writer import ReplyPart

Wire = dict[str, Any]
"""A message or tool in OpenAI's format, which chat templates read."""


class Reply(NamedTuple):
    """A reply of the assistant.

    `parts`: its text, split by author; `reasoning` is separate, and so are `calls` if the template renders them.
    `history`: the whole reply as a dict for the template.
    """

    parts: tuple[ReplyPart, ...]
    reasoning: str
    history: Wire
    calls: list[Wire]
    tool_calls: tuple[ToolCall, ...]
    weight: float | None

    @property
    def text(self) -> str:
        return "".join(part for part, _, _ in self.parts)

    @property
    def has_tool_output(self) -> bool:
        """Whether it contains text that a tool returned."""
        return any(kind != "reply" for _, kind, _ in self.parts)


class Exchange(NamedTuple):
    """A prompt and its reply (None: to be generated). `query`: the text of the prompt; `last`: no user turn follows."""

    prompt: tuple[Wire, ...]
    prompt_messages: tuple[Message, ...]
    query: str
    reply: Reply | None
    last: bool = True


class TemplateMessages:
    """Messages -> exchanges. `native`: the template renders calls, results and tools, not the tool-call format."""

    def __init__(self, reply_spans: ReplySpans, traits: TemplateTraits, native: bool) -> None:
        self._reply_spans = reply_spans
        self._format = reply_spans.tool_format
        self._traits = traits
        self.native = native

    def of(self, messages: Sequence[Message], tools: bool) -> list[Exchange]:
        """The exchanges of a dialogue. Raises ValueError for messages without a prompt."""
        if self.native and self._traits.convention.by_id:
            messages = list(_named(messages))
        if self.native and not self._traits.parallel:
            messages = list(_one_call_at_a_time(messages))
        found = list(self._exchanges(messages, tools))
        asks = [
            index for index, each in enumerate(found) if any(prompt.role == "user" for prompt in each.prompt_messages)
        ]
        return [each._replace(last=index >= max(asks, default=0)) for index, each in enumerate(found)]

    def _exchanges(self, messages: Sequence[Message], tools: bool) -> Iterator[Exchange]:
        prompt: list[Message] = []
        reply_messages: list[Message] = []
        for role, group in groupby(messages, key=lambda message: message.role):
            run = list(group)
            if role == "assistant" or (role == "tool" and reply_messages and not self.native and self._inside):
                reply_messages += run
                continue
            if reply_messages:
                yield self._exchange(prompt, reply_messages, tools)
                prompt, reply_messages = [], []
            prompt += run
        if not prompt and not (messages and messages[0].role == "assistant"):
            raise ValueError("there is no user message")
        yield self._exchange(prompt, reply_messages, tools)

    @property
    def _inside(self) -> bool:
        """Whether the format writes results within the assistant's turn, or as a raw turn."""
        return self._format.syntax.results != "turn"

    def _exchange(self, prompt: list[Message], reply_messages: list[Message], tools: bool) -> Exchange:
        wire = [self._traits.wire(message) for message in prompt] if self.native else list(self._prompt_dicts(prompt))
        query = "\n".join(str(each["content"]) for each in wire)
        after_result = bool(prompt) and prompt[-1].role == "tool"
        reply = self._reply(reply_messages, tools, after_result) if reply_messages else None
        return Exchange(tuple(wire), tuple(prompt), query, reply)

    def _prompt_dicts(self, prompt: Sequence[Message]) -> Iterator[Wire]:
        """The messages as dicts; results in the text of the format, as user messages."""
        for role, group in groupby(prompt, key=lambda message: message.role):
            run = list(group)
            if role == "tool":
                yield {"role": "user", "content": self._format.result([message.content for message in run])}
            else:
                yield from map(self._traits.wire, run)

    # Replies ---------------------------------------------------------------------------------------------------------

    def _reply(self, reply_messages: Sequence[Message], tools: bool, after_result: bool) -> Reply:
        parts: list[ReplyPart] = []
        thoughts: list[str] = []
        for role, group in groupby(reply_messages, key=lambda message: message.role):
            run = list(group)
            if role == "tool":
                results = self._reply_spans.result_spans([message.content for message in run], "tool_output")
                parts += [(self._traits.end, "stop", None)] if self._format.syntax.results == "raw" else []
                parts += [(span.text, span.kind, None) for span in results]
                continue
            # messages of equal weight are one text: the second may be a tool's result
            for weight, texts in groupby(run, key=lambda message: message.weight):
                written = ""
                for message in texts:
                    reasoning, text = self._written(message, tools, after_result or bool(parts))
                    written += text
                    thoughts += [reasoning] if reasoning else []
                parts += self._reply_spans.split_authors(written, tools and not self.native, weight)
        calls = [call for message in reply_messages for call in message.tool_calls] if self.native else []
        reasoning = "\n".join(thoughts)
        own = [message for message in reply_messages if message.role == "assistant"]
        reply = Reply(tuple(part for part in parts if part[0]), reasoning, {}, [], tuple(calls), own[-1].weight)
        history = self._traits.convention.message(calls, reply.text) if calls else _said(reply.text)
        if reasoning and self._traits.reasoning_key:
            history[self._traits.reasoning_key] = reasoning
        elif reasoning and not any(message.reasoning for message in own):
            history["content"] = "".join(message.content for message in own)  # the template splits it off itself
        return reply._replace(history=history, calls=history.get("tool_calls", []))

    def _written(self, message: Message, tools: bool, after_result: bool) -> tuple[str, str]:
        """(reasoning that is a separate field, text)."""
        reasoning, content = (message.reasoning, message.content) if message.reasoning else self._split(message.content)
        if self.native:
            return reasoning, content
        if tools and self._format.syntax.thought:
            given = replace(message, content=content, reasoning=message.reasoning)
            return ("" if message.reasoning else reasoning), write_reply(self._format, given, tools, after_result)
        bare = replace(message, content=content, reasoning="")
        return reasoning, write_reply(self._format, bare, tools, after_result)

    def _split(self, content: str) -> tuple[str, str]:
        """(reasoning at the beginning of a content, the rest). For a template without reasoning all is text."""
        if not self._traits.has_reasoning:
            return "", content
        opening, closing = (re.escape(each) for each in self._traits.thinking[:2])
        found = re.match(rf"(?s)\s*{opening}(.*?){closing}\s*", content)
        return (found[1].strip(), content[found.end() :]) if found else ("", content)


def _said(text: str) -> Wire:
    return {"role": "assistant", "content": text}


def _named(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages with call ids that contain the tool's name, also in results."""
    numbers = count()
    ids: dict[str, str] = {}
    waiting: list[str] = []
    for message in messages:
        calls = tuple(with_name_in_id(call, next(numbers)) for call in message.tool_calls)
        ids |= {old.id: new.id for old, new in zip(message.tool_calls, calls, strict=True) if old.id}
        waiting = [call.id for call in calls] or waiting
        if message.role == "tool":
            own = ids.get(message.tool_call_id) or next(iter(waiting), "")
            waiting = [each for each in waiting if each != own]
            message = replace(message, tool_call_id=own)
        yield replace(message, tool_calls=calls)


def _one_call_at_a_time(messages: Sequence[Message]) -> Iterator[Message]:
    """Splits parallel calls into messages with one call each, followed by its result."""
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
