"""Deltas -> a Response or its events, in the types of the `openai` package. Knows no HTTP, no model and no store."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseError,
    ResponseFailedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseFunctionToolCall,
    ResponseIncompleteEvent,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputRefusal,
    ResponseOutputText,
    ResponseReasoningItem,
    ResponseReasoningTextDeltaEvent,
    ResponseReasoningTextDoneEvent,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
    ResponseUsage,
)
from openai.types.responses.response import IncompleteDetails
from openai.types.responses.response_content_part_added_event import PartReasoningText
from openai.types.responses.response_output_text import Logprob as OutputLogprob
from openai.types.responses.response_output_text import LogprobTopLogprob
from openai.types.responses.response_reasoning_item import Content as ReasoningContent
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from pydantic import BaseModel

from swift.chat import Delta, Draft, Logprob, ToolCall, Usage
from swift.serve.formats.choice_builder import token_text
from swift.serve.formats.responses_items import new_id
from swift.serve.formats.tool_calls import with_json_call

Status = Literal["in_progress", "completed", "incomplete"]
OutputItem = ResponseOutputMessage | ResponseReasoningItem | ResponseFunctionToolCall
Part = ResponseOutputText | PartReasoningText
Keep = Callable[[Response], None]
"""Stores a response that has ended."""


class WholeResponse(Response):
    """A Response whose times are whole seconds in JSON, as OpenAI's are."""

    created_at: int
    completed_at: int | None = None


class ResponseOptions(NamedTuple):
    """The parts of a request that shape its response. `echoed`: the fields that the response repeats.

    `logprobs`: text comes with its log probabilities. `keep` gets the response when it ends, also if it fails.
    """

    id: str
    echoed: Mapping[str, Any]
    logprobs: bool = False
    keep: Keep = lambda response: None


class ResponsesBuilder:
    """Deltas -> a Response or its events. A reply has one item of output after another: reasoning, text, calls."""

    def __init__(self, options: ResponseOptions) -> None:
        self.drafts: Sequence[Draft] = (Draft(),)
        self._options = options
        self._created = int(time.time())
        self._sequence = 0
        self._output: list[OutputItem] = []
        self._open: _OpenItem | None = None
        self._held = ""  # white space that may come before a call, and text behind a call that is open
        self._logprobs: list[Logprob] = []  # of tokens whose text has not been emitted

    @property
    def usage(self) -> Usage:
        return self.drafts[0].usage

    def start(self) -> list[BaseModel]:
        begun = self._response("in_progress", ())
        return [
            self._event(ResponseCreatedEvent, "response.created", response=begun),
            self._event(ResponseInProgressEvent, "response.in_progress", response=begun),
        ]

    def add(self, index: int, delta: Delta) -> list[BaseModel]:
        delta = with_json_call(delta, "call_")
        self.drafts[0].add(delta)
        events: list[BaseModel] = []
        if delta.reasoning:
            events += self._release()
            if not isinstance(self._open, _OpenReasoning):
                events += self._begin(_OpenReasoning())
            events.append(self._delta(delta.reasoning))
        of_text = delta.text or not (delta.reasoning or isinstance(self._open, _OpenCall))
        if self._options.logprobs and of_text:
            self._logprobs += delta.logprobs
        self._held += delta.text
        if not isinstance(self._open, _OpenCall):
            events += self._release()
        if delta.tool_call is not None:
            events += self._call(delta.tool_call)
        if delta.finish is not None:
            events += self._finish(whole=delta.finish in ("stop", "tool_calls"))
        return events

    def end(self) -> str:
        response = self.response()
        if response.status == "completed":
            return self.frame(self._event(ResponseCompletedEvent, "response.completed", response=response))
        return self.frame(self._event(ResponseIncompleteEvent, "response.incomplete", response=response))

    def frame(self, event: BaseModel) -> str:
        data = event.model_dump_json(exclude_unset=True, warnings=False, serialize_as_any=True)
        return f"event: {cast(Any, event).type}\ndata: {data}\n\n"

    def failed(self, message: str) -> str:
        output = [*self._output, *([self._open.item("incomplete")] if self._open else [])]
        response = self._response("failed", output, error=ResponseError(code="server_error", message=message))
        self._options.keep(response)
        return self.frame(self._event(ResponseFailedEvent, "response.failed", response=response))

    def response(self) -> Response:
        finish = self.drafts[0].finish
        details = IncompleteDetails(reason="max_output_tokens") if finish == "length" else None
        status: Literal["completed", "incomplete"] = "completed" if finish in ("stop", "tool_calls") else "incomplete"
        response = self._response(status, self._output, incomplete_details=details)
        self._options.keep(response)
        return response

    def _event(self, kind: type[BaseModel], name: str, **fields: Any) -> BaseModel:
        """An event with the next number, without validation: a stream has one for each token."""
        event = kind.model_construct(type=name, sequence_number=self._sequence, **fields)
        self._sequence += 1
        return event

    @property
    def _place(self) -> dict[str, Any]:
        """Where the open item is."""
        assert self._open is not None
        return {"item_id": self._open.id, "output_index": len(self._output)}

    def _begin(self, item: _OpenItem) -> list[BaseModel]:
        """Ends the open item and begins another."""
        events = self._close("completed")
        self._open = item
        added, index = item.item("in_progress", empty=True), len(self._output)
        events.append(
            self._event(ResponseOutputItemAddedEvent, "response.output_item.added", item=added, output_index=index)
        )
        if (part := item.part(empty=True)) is not None:
            fields = {**self._place, "content_index": 0, "part": part}
            events.append(self._event(ResponseContentPartAddedEvent, "response.content_part.added", **fields))
        return events

    def _delta(self, text: str, logprobs: Sequence[Logprob] = ()) -> BaseModel:
        """More of the open item."""
        assert self._open is not None
        self._open.texts.append(text)
        kind, name, fields = self._open.delta(text, logprobs)
        return self._event(kind, name, **self._place, **fields)

    def _close(self, status: Status) -> list[BaseModel]:
        """Ends the open item, if there is one."""
        if self._open is None:
            return []
        kind, name, fields = self._open.done()
        events = [self._event(kind, name, **self._place, **fields)]
        if (part := self._open.part()) is not None:
            fields = {**self._place, "content_index": 0, "part": part}
            events.append(self._event(ResponseContentPartDoneEvent, "response.content_part.done", **fields))
        item, index = self._open.item(status), len(self._output)
        events.append(
            self._event(ResponseOutputItemDoneEvent, "response.output_item.done", item=item, output_index=index)
        )
        self._output.append(item)
        self._open = None
        return events

    def _release(self) -> list[BaseModel]:
        """Emits the text that is held back, unless it is white space around reasoning or calls."""
        begins = not isinstance(self._open, _OpenMessage)
        if not self._held or (begins and not self._held.strip()):
            return []
        events = self._begin(_OpenMessage()) if begins else []
        events.append(self._delta(self._held, self._logprobs))
        self._held, self._logprobs = "", []
        return events

    def _call(self, call: ToolCall) -> list[BaseModel]:
        events: list[BaseModel] = []
        if call.name:
            events += self._release()
            self._held, self._logprobs = "", []  # white space, and the marks of the call
            events += self._begin(_OpenCall(call.id, call.name))
        if call.arguments:
            assert isinstance(self._open, _OpenCall), call
            events.append(self._delta(call.arguments))
        return events

    def _finish(self, whole: bool) -> list[BaseModel]:
        events = self._release()
        if isinstance(self._open, _OpenMessage):
            self._open.logprobs += self._logprobs
        events += self._close("completed" if whole else "incomplete")
        if whole and not any(item.type in ("message", "function_call") for item in self._output):
            events += self._begin(_OpenMessage())  # an empty one, or of white space
            events += [self._delta(self._held)] if self._held else []
            events += self._close("completed")
        return events

    def _response(
        self,
        status: Literal["completed", "failed", "in_progress", "incomplete"],
        output: Sequence[OutputItem],
        error: ResponseError | None = None,
        incomplete_details: IncompleteDetails | None = None,
    ) -> Response:
        return WholeResponse.model_construct(
            id=self._options.id,
            object="response",
            created_at=self._created,
            completed_at=int(time.time()) if status == "completed" else None,
            status=status,
            error=error,
            incomplete_details=incomplete_details,
            output=list(output),
            usage=None if status == "in_progress" else self._usage(),
            **cast(Any, self._options.echoed),
        )

    def _usage(self) -> ResponseUsage:
        (prompt, completion), details = self.usage, self.drafts[0].details
        return ResponseUsage(
            input_tokens=prompt,
            input_tokens_details=InputTokensDetails(cached_tokens=details.cached_tokens or 0, cache_write_tokens=0),
            output_tokens=completion,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=details.reasoning_tokens),
            total_tokens=prompt + completion,
        )


class _Part(NamedTuple):
    """An event about a part of an open item: its type and the fields that say what is in it."""

    kind: type[BaseModel]
    name: str
    fields: dict[str, Any]


class _OpenItem(ABC):
    """An item of output that is being generated; `texts` join to its content."""

    def __init__(self, kind: str) -> None:
        self.id = new_id(kind)
        self.texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @abstractmethod
    def delta(self, text: str, logprobs: Sequence[Logprob]) -> _Part: ...

    @abstractmethod
    def done(self) -> _Part: ...

    def part(self, empty: bool = False) -> Part | None:
        """The content; None for an item without parts of content."""
        return None

    @abstractmethod
    def item(self, status: Status, empty: bool = False) -> OutputItem: ...


class _OpenMessage(_OpenItem):
    def __init__(self) -> None:
        super().__init__("msg")
        self.logprobs: list[Logprob] = []

    def delta(self, text: str, logprobs: Sequence[Logprob]) -> _Part:
        self.logprobs += logprobs
        fields = {"content_index": 0, "delta": text, "logprobs": [_logprob(each) for each in logprobs]}
        return _Part(ResponseTextDeltaEvent, "response.output_text.delta", fields)

    def done(self) -> _Part:
        fields = {"content_index": 0, "text": self.text, "logprobs": [_logprob(each) for each in self.logprobs]}
        return _Part(ResponseTextDoneEvent, "response.output_text.done", fields)

    def part(self, empty: bool = False) -> ResponseOutputText:
        text, logprobs = ("", []) if empty else (self.text, [_logprob(each) for each in self.logprobs])
        return ResponseOutputText(type="output_text", text=text, annotations=[], logprobs=logprobs)

    def item(self, status: Status, empty: bool = False) -> ResponseOutputMessage:
        content: list[ResponseOutputText | ResponseOutputRefusal] = [] if empty else [self.part()]
        return ResponseOutputMessage(id=self.id, type="message", role="assistant", status=status, content=content)


class _OpenReasoning(_OpenItem):
    def __init__(self) -> None:
        super().__init__("rs")

    def delta(self, text: str, logprobs: Sequence[Logprob]) -> _Part:
        fields = {"content_index": 0, "delta": text}
        return _Part(ResponseReasoningTextDeltaEvent, "response.reasoning_text.delta", fields)

    def done(self) -> _Part:
        fields = {"content_index": 0, "text": self.text}
        return _Part(ResponseReasoningTextDoneEvent, "response.reasoning_text.done", fields)

    def part(self, empty: bool = False) -> PartReasoningText:
        return PartReasoningText(type="reasoning_text", text="" if empty else self.text)

    def item(self, status: Status, empty: bool = False) -> ResponseReasoningItem:
        content = [] if empty else [ReasoningContent(type="reasoning_text", text=self.text)]
        return ResponseReasoningItem(id=self.id, type="reasoning", summary=[], content=content, status=status)


class _OpenCall(_OpenItem):
    def __init__(self, call_id: str, name: str) -> None:
        super().__init__("fc")
        self._call_id, self._name = call_id, name

    def delta(self, text: str, logprobs: Sequence[Logprob]) -> _Part:
        name = "response.function_call_arguments.delta"
        return _Part(ResponseFunctionCallArgumentsDeltaEvent, name, {"delta": text})

    def done(self) -> _Part:
        name = "response.function_call_arguments.done"
        return _Part(ResponseFunctionCallArgumentsDoneEvent, name, {"arguments": self.text})

    def item(self, status: Status, empty: bool = False) -> ResponseFunctionToolCall:
        return ResponseFunctionToolCall(
            id=self.id,
            type="function_call",
            call_id=self._call_id,
            name=self._name,
            arguments="" if empty else self.text,
            status=status,
        )


def _logprob(logprob: Logprob) -> OutputLogprob:
    top = [
        LogprobTopLogprob(token=token_text(each), bytes=list(each.data), logprob=each.logprob) for each in logprob.top
    ]
    return OutputLogprob(token=token_text(logprob), bytes=list(logprob.data), logprob=logprob.logprob, top_logprobs=top)
