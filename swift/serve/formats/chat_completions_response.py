"""Deltas -> a ChatCompletion or its chunks, in the types of the `openai` package. Knows no HTTP and no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall, ChoiceDeltaToolCallFunction
from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChunkLogprobs
from openai.types.chat.chat_completion_message_function_tool_call import ChatCompletionMessageFunctionToolCall, Function
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from pydantic import BaseModel

from swift.chat import Delta, Logprob, ToolCall
from swift.serve.formats.choice_builder import ChoiceBuilder, ResponseOptions, token_text
from swift.serve.formats.tool_calls import with_json_call


class ChatCompletionBuilder(ChoiceBuilder):
    """Deltas -> a ChatCompletion or its chunks."""

    def __init__(self, options: ResponseOptions) -> None:
        super().__init__("chatcmpl", options)

    def start(self) -> list[BaseModel]:
        return [self._chunk(index, ChoiceDelta(role="assistant", content="")) for index in range(len(self.drafts))]

    def add(self, index: int, delta: Delta) -> list[BaseModel]:
        delta = with_json_call(delta, "call_")
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
            last = self._with_declined(index, last)
            events.append(self._chunk(index, last, self._finish(index)))
        return events

    def _last(self) -> list[BaseModel]:
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
        message = self._with_declined(index, message)
        logprobs = None
        if self.options.top_logprobs is not None:
            logprobs = ChoiceLogprobs(content=[_token_logprob(each) for each in self.logprobs[index]], refusal=None)
        return Choice(index=index, message=message, logprobs=logprobs, finish_reason=self._finish(index))

    def _with_declined(self, index: int, value: Extended) -> Extended:
        """With the calls that were not made, for a client that asks for the confidence of calls."""
        declined = self.drafts[index].declined if self.options.confidence else ()
        return _extended(value, x_declined_calls=[self._call(call) for call in declined]) if declined else value

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


Extended = TypeVar("Extended", bound=BaseModel)


def _extended(value: Extended, **fields: object) -> Extended:
    """With a field that OpenAI's types lack: reasoning_content comes from DeepSeek's API, x_confidence is SWIFT's."""
    return type(value).model_validate({**value.model_dump(exclude_unset=True), **fields})


def _token_logprob(logprob: Logprob) -> ChatCompletionTokenLogprob:
    top = [TopLogprob(token=token_text(each), bytes=list(each.data), logprob=each.logprob) for each in logprob.top]
    return ChatCompletionTokenLogprob(
        token=token_text(logprob), bytes=list(logprob.data), logprob=logprob.logprob, top_logprobs=top
    )
