"""Deltas -> OpenAI's response objects, in the types of the `openai` package. Knows no HTTP and no model."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

from openai.types import Completion, CompletionChoice, CompletionUsage, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall, ChoiceDeltaToolCallFunction
from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChunkLogprobs
from openai.types.chat.chat_completion_message_function_tool_call import ChatCompletionMessageFunctionToolCall, Function
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_choice import Logprobs
from openai.types.shared import ErrorObject
from pydantic import BaseModel

from swift.agent.arguments import json_arguments
from swift.chat import Delta, Draft, Logprob, ToolCall, Usage


class ResponseBuilder(Protocol):
    """Collects the deltas of all choices. `start`, `add` and `end` return the events of a stream, `response` the
    complete response."""

    @property
    def usage(self) -> Usage: ...
    @property
    def finish_reasons(self) -> str: ...
    @property
    def longest(self) -> int: ...
    def start(self) -> list[BaseModel]: ...
    def add(self, index: int, delta: Delta) -> list[BaseModel]: ...
    def end(self) -> list[BaseModel]: ...
    def response(self) -> BaseModel: ...


class ResponseOptions(NamedTuple):
    """The parts of a request that shape its response. `n`: choices of each prompt, which come prompt by prompt.

    `top_logprobs`: alternatives listed for each token; None: no log probabilities at all. `confidence`: calls have an
    `x_confidence`, null if it is unknown.
    """

    model: str
    include_usage: bool = False
    n: int = 1
    prompts: int = 1
    top_logprobs: int | None = None
    confidence: bool = False


class _Builder:
    """What both kinds of responses share."""

    def __init__(self, kind: str, options: ResponseOptions) -> None:
        self.id = f"{kind}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.options = options
        self.drafts = [Draft() for _ in range(options.n * options.prompts)]
        self.logprobs: list[list[Logprob]] = [[] for _ in self.drafts]

    @property
    def usage(self) -> Usage:
        """Each prompt is counted once, whatever the number of choices."""
        prompt = sum(draft.usage.prompt_tokens for draft in self.drafts[:: self.options.n])
        return Usage(prompt, sum(draft.usage.completion_tokens for draft in self.drafts))

    @property
    def finish_reasons(self) -> str:
        """Why the choices ended, for the log."""
        return ",".join(dict.fromkeys(draft.finish or "cancelled" for draft in self.drafts))

    @property
    def longest(self) -> int:
        """Tokens of the longest choice."""
        return max(draft.usage.completion_tokens for draft in self.drafts)

    def _collect(self, index: int, delta: Delta) -> None:
        self.drafts[index].add(delta)
        self.logprobs[index] += delta.logprobs

    def _usage(self) -> CompletionUsage:
        prompt, completion = self.usage
        return CompletionUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class ChatCompletionBuilder(_Builder):
    """Deltas -> a ChatCompletion or its chunks."""

    def __init__(self, options: ResponseOptions) -> None:
        super().__init__("chatcmpl", options)

    def start(self) -> list[BaseModel]:
        return [self._chunk(index, ChoiceDelta(role="assistant", content="")) for index in range(len(self.drafts))]

    def add(self, index: int, delta: Delta) -> list[BaseModel]:
        delta = _openai_tool_call(delta)
        self._collect(index, delta)
        events: list[BaseModel] = []
        if delta.reasoning:
            events.append(self._chunk(index, _extended(ChoiceDelta(), reasoning_content=delta.reasoning)))
        if delta.text or delta.logprobs:
            events.append(self._chunk(index, ChoiceDelta(content=delta.text), logprobs=delta.logprobs))
        if delta.tool_call is not None:
            events.append(self._chunk(index, ChoiceDelta(tool_calls=[self._part(index, delta.tool_call)])))
        if delta.finish is not None:
            # An empty string, not null: clients that print every delta's content would print "None".
            last = ChoiceDelta() if self.drafts[index].calls else ChoiceDelta(content="")
            events.append(self._chunk(index, last, self._finish(index)))
        return events

    def end(self) -> list[BaseModel]:
        return [self._event([], self._usage())] if self.options.include_usage else []

    def response(self) -> ChatCompletion:
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.options.model,
            choices=[self._choice(index) for index in range(len(self.drafts))],
            usage=self._usage(),
        )

    def _part(self, index: int, call: ToolCall) -> ChoiceDeltaToolCall:
        """The first part of a call has its id and name; further parts have its index and more of the arguments."""
        number = len(self.drafts[index].calls) - 1
        if call.name:
            function = ChoiceDeltaToolCallFunction(name=call.name, arguments=call.arguments)
            part = ChoiceDeltaToolCall(index=number, id=call.id, type="function", function=function)
        else:
            function = ChoiceDeltaToolCallFunction(arguments=call.arguments)
            part = ChoiceDeltaToolCall(index=number, function=function)
        return part if call.confidence is None else _extended(part, x_confidence=call.confidence)

    def _call(self, call: ToolCall) -> ChatCompletionMessageFunctionToolCall:
        function = Function(name=call.name, arguments=call.arguments)
        whole = ChatCompletionMessageFunctionToolCall(id=call.id, type="function", function=function)
        return _extended(whole, x_confidence=call.confidence) if self.options.confidence else whole

    def _choice(self, index: int) -> Choice:
        reply = self.drafts[index].message
        text, calls = reply.content, reply.tool_calls
        message = ChatCompletionMessage(role="assistant", content=text if text or not calls else None, refusal=None)
        if reply.reasoning:
            message = _extended(message, reasoning_content=reply.reasoning)
        if calls:
            message.tool_calls = [self._call(call) for call in calls]
        logprobs = None
        if self.options.top_logprobs is not None:
            logprobs = ChoiceLogprobs(content=[_token_logprob(each) for each in self.logprobs[index]], refusal=None)
        return Choice(index=index, message=message, logprobs=logprobs, finish_reason=self._finish(index))

    def _finish(self, index: int) -> Literal["stop", "length", "tool_calls"]:
        draft = self.drafts[index]
        if draft.finish == "length":
            return "length"
        return "tool_calls" if draft.calls else "stop"

    def _chunk(
        self,
        index: int,
        delta: ChoiceDelta,
        finish: Literal["stop", "length", "tool_calls"] | None = None,
        logprobs: Sequence[Logprob] = (),
    ) -> BaseModel:
        tokens = ChunkLogprobs(content=[_token_logprob(each) for each in logprobs], refusal=None) if logprobs else None
        return self._event([ChunkChoice(index=index, delta=delta, logprobs=tokens, finish_reason=finish)])

    def _event(self, choices: list[ChunkChoice], usage: CompletionUsage | None = None) -> ChatCompletionChunk:
        event = ChatCompletionChunk(
            id=self.id, object="chat.completion.chunk", created=self.created, model=self.options.model, choices=choices
        )
        if self.options.include_usage:
            event.usage = usage  # null in all events but the last
        return event


class CompletionBuilder(_Builder):
    """Deltas -> a Completion or its parts; OpenAI uses one type for both."""

    def __init__(self, options: ResponseOptions) -> None:
        super().__init__("cmpl", options)
        self._offsets = [0] * len(self.drafts)

    def start(self) -> list[BaseModel]:
        return []

    def add(self, index: int, delta: Delta) -> list[BaseModel]:
        self._collect(index, delta)
        events: list[BaseModel] = []
        if delta.text or delta.logprobs:
            events.append(self._event([self._choice(index, delta.text, self._logprobs(index, delta.logprobs))]))
        if delta.finish is not None:
            events.append(self._event([self._choice(index, "", None, self._finish(index))]))
        return events

    def end(self) -> list[BaseModel]:
        return [self._event([], self._usage())] if self.options.include_usage else []

    def response(self) -> Completion:
        self._offsets = [0] * len(self.drafts)
        choices = [
            self._choice(index, draft.message.content, self._logprobs(index, self.logprobs[index]), self._finish(index))
            for index, draft in enumerate(self.drafts)
        ]
        completion = self._event(choices)
        completion.usage = self._usage()
        return completion

    def _logprobs(self, index: int, logprobs: Sequence[Logprob]) -> Logprobs | None:
        if self.options.top_logprobs is None:
            return None
        offsets: list[int] = []
        for each in logprobs:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(_text(each))
        return Logprobs(
            tokens=[_text(each) for each in logprobs],
            token_logprobs=[each.logprob for each in logprobs],
            top_logprobs=[{_text(other): other.logprob for other in each.top} for each in logprobs],
            text_offset=offsets,
        )

    def _finish(self, index: int) -> Literal["stop", "length"]:
        return "length" if self.drafts[index].finish == "length" else "stop"

    def _choice(
        self, index: int, text: str, logprobs: Logprobs | None, finish: Literal["stop", "length"] | None = None
    ) -> CompletionChoice:
        # Without validation: the type does not allow None, which all parts of a stream but the last have.
        return CompletionChoice.model_construct(index=index, text=text, logprobs=logprobs, finish_reason=finish)

    def _event(self, choices: list[CompletionChoice], usage: CompletionUsage | None = None) -> Completion:
        event = Completion.model_construct(
            id=self.id, object="text_completion", created=self.created, model=self.options.model, choices=choices
        )
        if self.options.include_usage:
            event.usage = usage
        return event


Extended = TypeVar("Extended", bound=BaseModel)


def _extended(value: Extended, **fields: object) -> Extended:
    """With a field that OpenAI's types lack: reasoning_content comes from DeepSeek's API, x_confidence is SWIFT's."""
    return type(value).model_validate({**value.model_dump(exclude_unset=True), **fields})


def _openai_tool_call(delta: Delta) -> Delta:
    """The call with an id and JSON arguments, as OpenAI has them. Arguments that cannot be read stay as the model wrote
    them."""
    call = delta.tool_call
    if call is None or not call.name:
        return delta
    arguments = (json_arguments(call.arguments).text or call.arguments) if call.arguments else ""
    call = replace(call, arguments=arguments, id=call.id or f"call_{uuid.uuid4().hex[:24]}")
    return replace(delta, tool_call=call)


def _text(logprob: Logprob) -> str:
    return logprob.data.decode(errors="replace")


def _token_logprob(logprob: Logprob) -> ChatCompletionTokenLogprob:
    top = [TopLogprob(token=_text(each), bytes=list(each.data), logprob=each.logprob) for each in logprob.top]
    return ChatCompletionTokenLogprob(
        token=_text(logprob), bytes=list(logprob.data), logprob=logprob.logprob, top_logprobs=top
    )


def model_card(name: str, owned_by: str, root: str | None = None) -> Model:
    """A served model in the list of models; `root`: the base model of an adapter."""
    parts = {} if root is None else {"parent": root}
    return Model(id=name, object="model", created=int(time.time()), owned_by=owned_by, **cast(Any, parts))


def as_json(value: BaseModel) -> str:
    """JSON with exactly the keys that were set: OpenAI sends `finish_reason: null`, but no `audio: null`."""
    return value.model_dump_json(exclude_unset=True, warnings=False)


def model_list(cards: Sequence[Model]) -> str:
    return json.dumps({"object": "list", "data": [each.model_dump(exclude_unset=True) for each in cards]})


def error_json(message: str, status: int, *, param: str | None = None, code: str | None = None) -> str:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = ErrorObject(message=message, type=kind, param=param, code=code)
    return json.dumps({"error": error.model_dump(exclude_unset=True)}, ensure_ascii=False)
