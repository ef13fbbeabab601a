"""Deltas -> Anthropic's message, or the events of its stream. Knows no HTTP and no model."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic_core import from_json

from swift.agent.arguments import json_arguments
from swift.agent.jsontext import dumps, loads
from swift.chat import Delta, Draft, ToolCall, Usage
from swift.serve.error_bodies import anthropic_error
from swift.serve.formats.messages_dialogue import INVALID_JSON
from swift.serve.response_builder import as_json

PING_SECONDS = 5.0
"""Seconds after which a stream that waits for the end of a call's input sends a ping."""

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class TextBlock(BaseModel):
    type: Literal["text"] = "text"
    text: str


class ThinkingBlock(BaseModel):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class ToolUseBlock(BaseModel):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class ReasoningTokens(BaseModel):
    thinking_tokens: int


class MessageUsage(BaseModel):
    """The prompt has the sum of the first three. `cache_read_input_tokens` None: the engine does not know, and
    `input_tokens` is the whole prompt."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int | None
    output_tokens: int
    output_tokens_details: ReasoningTokens


class MessageResponse(BaseModel):
    """The whole response of POST /v1/messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(BaseModel):
    """The response of POST /v1/messages/count_tokens."""

    input_tokens: int


class _Event(BaseModel):
    type: str


class _MessageStart(_Event):
    message: MessageResponse


class _BlockStart(_Event):
    index: int
    content_block: ContentBlock


class _BlockDelta(_Event):
    index: int
    delta: dict[str, str]


class _BlockStop(_Event):
    index: int


class _End(BaseModel):
    stop_reason: StopReason
    stop_sequence: str | None


class _MessageDelta(_Event):
    delta: _End
    usage: MessageUsage


class MessageOptions(NamedTuple):
    """The parts of a request that shape its response. `omits_thinking`: blocks of reasoning have no text.

    `eager`: the tools whose input is streamed as it is generated. The input of other tools is streamed in one piece,
    when it is complete, and is a JSON object in any case.
    """

    model: str
    max_tokens: int
    request_id: str
    stop_sequences: Sequence[str] = ()
    omits_thinking: bool = False
    eager: frozenset[str] = frozenset()


@dataclass
class _Block:
    kind: Literal["text", "thinking", "tool_use"]
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    input: dict[str, Any] = field(default_factory=dict)

    def model(self) -> ContentBlock:
        text = "".join(self.pieces)
        if self.kind == "text":
            return TextBlock(type="text", text=text)
        if self.kind == "thinking":
            return ThinkingBlock(type="thinking", thinking=text, signature="")
        return ToolUseBlock(type="tool_use", id=self.id, name=self.name, input=self.input)


class MessageBuilder:
    """Deltas of one reply -> a MessageResponse or its events.

    White space alone is no block of text: Anthropic's API refuses such a block when it is sent back.
    """

    def __init__(self, options: MessageOptions) -> None:
        self.options = options
        self.drafts = [Draft()]
        self._id = f"msg_{uuid.uuid4().hex[:24]}"
        self._blocks: list[_Block] = []
        self._is_open = self._has_begun = False  # the last block, and the message
        self._space = ""  # white space that may begin a block of text
        self._quiet_since = time.monotonic()
        self._stop_text = ""

    @property
    def usage(self) -> Usage:
        return self.drafts[0].usage

    def start(self) -> list[BaseModel]:
        """Nothing: the first event has the number of the prompt's tokens, which comes with the first delta."""
        return []

    def add(self, index: int, delta: Delta) -> list[BaseModel]:
        self.drafts[index].add(delta)
        self._stop_text = delta.stop or self._stop_text
        events = self._begin()
        if delta.reasoning:
            events += self._more("thinking", "" if self.options.omits_thinking else delta.reasoning)
        if delta.text:
            self._space += delta.text
            if self._at("text") or not self._space.isspace():
                text, self._space = self._space, ""
                events += self._more("text", text)
        if delta.tool_call is not None:
            events += self._call(delta.tool_call)
        if delta.finish is not None:
            events += self._close()
        return events

    def frame(self, event: BaseModel) -> str:
        assert isinstance(event, _Event), event
        return f"event: {event.type}\ndata: {as_json(event)}\n\n"

    def failed(self, message: str) -> str:
        return f"event: error\ndata: {anthropic_error(message, 500, self.options.request_id)}\n\n"

    def end(self) -> str:
        end = _End(stop_reason=self._stop_reason, stop_sequence=self._stop_sequence)
        last = [_MessageDelta(type="message_delta", delta=end, usage=self._usage()), _Event(type="message_stop")]
        return "".join(map(self.frame, [*self._begin(), *last]))

    def response(self) -> MessageResponse:
        content = [block.model() for block in self._blocks]
        return self._message(content, self._stop_reason, self._stop_sequence)

    def _message(self, content: list[ContentBlock], reason: StopReason | None, sequence: str | None) -> MessageResponse:
        return MessageResponse(
            id=self._id,
            type="message",
            role="assistant",
            model=self.options.model,
            content=content,
            stop_reason=reason,
            stop_sequence=sequence,
            usage=self._usage(),
        )

    def _usage(self) -> MessageUsage:
        (prompt, completion), (cached, reasoning) = self.usage, self.drafts[0].details
        return MessageUsage(
            input_tokens=prompt - (cached or 0),
            cache_creation_input_tokens=0,  # the prefix cache keeps every prompt, whatever the request says
            cache_read_input_tokens=cached,
            output_tokens=completion,
            output_tokens_details=ReasoningTokens(thinking_tokens=reasoning),
        )

    def _begin(self) -> list[BaseModel]:
        if self._has_begun:
            return []
        self._has_begun = True
        return [_MessageStart(type="message_start", message=self._message([], None, None)), _Event(type="ping")]

    def _at(self, kind: str) -> bool:
        """Whether the last block is open and of this kind."""
        return self._is_open and self._blocks[-1].kind == kind

    def _open(self, block: _Block) -> list[BaseModel]:
        events = self._close()
        self._blocks.append(block)
        self._is_open, self._space, self._quiet_since = True, "", time.monotonic()
        index = len(self._blocks) - 1
        return [*events, _BlockStart(type="content_block_start", index=index, content_block=block.model())]

    def _close(self) -> list[BaseModel]:
        if not self._is_open:
            return []
        self._is_open = False
        events: list[BaseModel] = []
        block = self._blocks[-1]
        if block.kind == "tool_use":
            written = "".join(block.pieces)
            text, block.input = _input(written, self.drafts[0].finish == "length")
            if block.name not in self.options.eager:
                events.append(self._delta("input_json_delta", "partial_json", text))
        return [*events, _BlockStop(type="content_block_stop", index=len(self._blocks) - 1)]

    def _more(self, kind: Literal["text", "thinking"], text: str) -> list[BaseModel]:
        events = [] if self._at(kind) else self._open(_Block(kind))
        self._blocks[-1].pieces.append(text)
        return [*events, self._delta(f"{kind}_delta", kind, text)] if text else events

    def _call(self, call: ToolCall) -> list[BaseModel]:
        """A part of a call; the first has its name. A part without arguments may have the call's confidence alone."""
        events: list[BaseModel] = []
        if call.name:
            events += self._open(_Block("tool_use", f"toolu_{uuid.uuid4().hex[:24]}", call.name))
        block, arguments = self._blocks[-1], call.arguments
        if call.name and arguments:  # the whole call at once, perhaps not in JSON
            arguments = json_arguments(arguments).text or arguments
        block.pieces.append(arguments)
        if block.name in self.options.eager:
            return [*events, self._delta("input_json_delta", "partial_json", arguments)] if arguments else events
        if time.monotonic() - self._quiet_since >= PING_SECONDS:
            self._quiet_since = time.monotonic()
            events.append(_Event(type="ping"))
        return events

    def _delta(self, kind: str, name: str, text: str) -> BaseModel:
        return _BlockDelta(type="content_block_delta", index=len(self._blocks) - 1, delta={"type": kind, name: text})

    @property
    def _stop_reason(self) -> StopReason:
        draft = self.drafts[0]
        if draft.finish == "length":
            full = draft.usage.completion_tokens < self.options.max_tokens
            return "model_context_window_exceeded" if full else "max_tokens"
        if draft.calls:
            return "tool_use"
        return "end_turn" if self._stop_sequence is None else "stop_sequence"

    @property
    def _stop_sequence(self) -> str | None:
        """The stop sequence of the request that ended the reply. `Observation` also stands for `Observation:`."""
        if not self._stop_text or self.drafts[0].calls:
            return None
        return next((each for each in self.options.stop_sequences if self._stop_text in (each, f"{each}:")), None)


def _input(written: str, cut: bool) -> tuple[str, dict[str, Any]]:
    """A call's arguments as the model wrote them -> the JSON text of its input, and the input.

    `cut`: the reply ended before the call did; then the text is a beginning, and the input has the part that is known.
    """
    if text := json_arguments(written).text:
        return text, dict(loads(text))
    if cut:
        try:
            known = from_json(written, allow_partial="trailing-strings")
        except ValueError:
            known = None
        if isinstance(known, dict):
            return written, known
    broken = {INVALID_JSON: written}
    return dumps(broken), broken
