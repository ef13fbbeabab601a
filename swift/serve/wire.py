"""OpenAI's shapes <-> our values: the only file that knows them. Knows no HTTP and no model.

Requests are read with pydantic models that name what is honoured; answers are the `openai` package's own types. A field
that nobody knows is ignored, as OpenAI does; a known one that cannot be honoured is refused.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar

from openai.types import Completion, CompletionChoice, CompletionUsage, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall, ChoiceDeltaToolCallFunction
from openai.types.chat.chat_completion_message_function_tool_call import ChatCompletionMessageFunctionToolCall, Function
from openai.types.shared import ErrorObject
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from swift.agent.tools import json_arguments
from swift.chat import PLACE, Delta, FinishReason, Image, Message, Role, Tool, ToolCall, Usage
from swift.infer.sample import SamplingParams

# What a request may say


class BadRequest(ValueError):
    """A request that is refused, as OpenAI's error object tells it."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def _wrong(param: str, what: str) -> BadRequest:
    return BadRequest(f"{param or 'the body'}: {what}", param=param or None)


def _text(value: Any) -> Any:
    """A list of text parts as one text; anything else is left to the field's type."""
    if not isinstance(value, list):
        return value
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        raise ValueError("only parts of type text and image_url are supported")
    return "\n".join(part["text"] for part in value)


class _Shown(NamedTuple):
    """A content with images: its text with their places, and what they are called."""

    text: str
    images: tuple[Image, ...]


def _content(value: Any) -> str | _Shown | None:
    """A text or text parts as one text, with image parts as `_Shown`."""
    if not isinstance(value, list) or not any(map(_shows, value)):
        text = _text(value)
        if text is not None and not isinstance(text, str):
            raise ValueError("a text or a list of parts is expected")
        return text
    images = tuple(Image(_url(part.get("image_url"))) for part in value if _shows(part))
    runs = [(at_image, list(parts)) for at_image, parts in groupby(value, _shows)]
    texts = [PLACE * len(parts) if at_image else str(_text(parts)) for at_image, parts in runs]
    if "".join(texts).count(PLACE) > len(images):
        raise ValueError("the text holds U+FFFC, which stands for an image")
    return _Shown("".join(texts), images)


def _shows(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "image_url"


def _url(value: Any) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url:
        raise ValueError('an image is {"type": "image_url", "image_url": {"url": ...}}')
    return url


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _one_prompt(value: Any) -> Any:
    """A prompt alone in a list is that prompt."""
    if isinstance(value, list) and value and isinstance(value[0], (str, list)):
        if len(value) > 1:
            raise ValueError(f"one prompt a request is supported for now, not {len(value)}")
        return _one_prompt(value[0])
    if not isinstance(value, (str, list)) or (isinstance(value, list) and not all(type(each) is int for each in value)):
        raise ValueError("a text or a list of token ids is expected")
    if not value:
        raise ValueError("the prompt is empty")
    return value


def _only(*allowed: Any) -> BeforeValidator:
    """Refuses what is not honoured (yet), instead of ignoring it."""

    def check(value: Any) -> Any:
        if value not in allowed:
            known = " or ".join(json.dumps(each) for each in allowed if each is not None)
            raise ValueError(f"only {known} is supported for now, not {json.dumps(value)[:80]}")
        return value

    return BeforeValidator(check)


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
        raise ValueError('a tool is {"type": "function", "function": {"name": ...}}')
    if not isinstance(tool["function"].get("name"), str) or not tool["function"]["name"]:
        raise ValueError("the function needs a name")
    return tool


Content = Annotated[str | _Shown | None, PlainValidator(_content)]
Optional64 = Annotated[int | None, Field(ge=-(2**63), lt=2**63)]
Penalty = Annotated[float | None, Field(ge=-2, le=2)]


class _Known(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class _Function(_Known):
    name: Annotated[str, Field(min_length=1)]
    arguments: str = "{}"


class _Call(_Known):
    id: str = ""
    type: Literal["function"] = "function"
    function: _Function


class _Message(_Known):
    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _StreamOptions(_Known):
    include_usage: bool | None = None


class _Request(_Known):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Optional64 = None
    stop: Annotated[list[Annotated[str, Field(min_length=1)]] | None, BeforeValidator(_one_or_more)] = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    n: Annotated[Any, _only(None, 1)] = None
    best_of: Annotated[Any, _only(None, 1)] = None
    logprobs: Annotated[Any, _only(None, False)] = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def longest(self) -> int | None:
        return self.max_tokens

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """How this reply is drawn; `defaults` where the request is silent. Only what a client asks for is refused."""
        given: dict[str, Any] = {
            "max_tokens": self.longest,
            "clip": None if self.longest is None else False,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),  # -1 is "off" too, elsewhere
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": None if self.logit_bias is None else _token_ids(self.logit_bias),
            "seed": self.seed,
            "stop": None if self.stop is None else tuple(self.stop),
            "include_stop": self.include_stop_str_in_output,
            "ignore_eos": self.ignore_eos,
        }
        return replace(defaults, **{name: value for name, value in given.items() if value is not None})


class TextRequest(_Request):
    """The body of POST /v1/completions."""

    prompt: Annotated[Any, AfterValidator(_one_prompt)]
    echo: Annotated[Any, _only(None, False)] = None
    suffix: Annotated[Any, _only(None, "")] = None


class ChatRequest(_Request):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    tools: list[Annotated[dict[str, Any], AfterValidator(_function)]] | None = None
    tool_choice: Annotated[Any, _only(None, "auto", "none")] = None
    parallel_tool_calls: Annotated[Any, _only(None, True)] = None
    functions: Annotated[Any, _only(None, [])] = None
    response_format: Annotated[Any, _only(None, {"type": "text"})] = None
    modalities: Annotated[Any, _only(None, ["text"])] = None

    @property
    def longest(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def offered(self) -> tuple[Tool, ...]:
        return () if self.tool_choice == "none" else tuple(Tool(spec) for spec in self.tools or ())

    @property
    def dialogue(self) -> tuple[Message, ...]:
        """The messages as ours: one system text at the front, results in the order of their calls."""
        written = [_message(message, f"messages[{index}]") for index, message in enumerate(self.messages)]
        first = next((index for index, message in enumerate(written) if message.role != "system"), len(written))
        for index, message in enumerate(written[first:], first):
            if message.role == "system":
                raise _wrong(f"messages[{index}].role", "system and developer messages come before all others")
        system = [Message("system", "\n\n".join(message.content for message in written[:first]))] if first else []
        return (*system, *_in_order_of_calls(written[first:]))


Body = TypeVar("Body", ChatRequest, TextRequest)


def read(shape: type[Body], body: bytes) -> Body:
    """A request's body as `shape`. Raises BadRequest that names the field."""
    try:
        request = shape.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise BadRequest(f"the body is not JSON: {first['ctx']['error']}") from None
        raise _wrong(_path(first["loc"]), first["msg"].removeprefix("Value error, ")) from None
    if request.stream_options and not request.stream:
        raise _wrong("stream_options", "only for requests with stream: true")
    return request


def _path(place: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _token_ids(bias: dict[str, float]) -> dict[int, float]:
    for token in bias:
        if not token.isdecimal():
            raise _wrong("logit_bias", f"'{token[:40]}' is not a token id")
    return {int(token): value for token, value in bias.items()}


def _message(message: _Message, place: str) -> Message:
    calls = tuple(ToolCall(call.function.name, call.function.arguments, call.id) for call in message.tool_calls or ())
    if calls and message.role != "assistant":
        raise _wrong(f"{place}.tool_calls", "only assistant messages can hold them")
    if message.content is None and not calls:
        raise _wrong(f"{place}.content", "a message needs it")
    text, images = message.content if isinstance(message.content, _Shown) else (message.content or "", ())
    if images and message.role != "user":
        raise _wrong(f"{place}.content", "only a user's message can show images")
    role: Role = "system" if message.role == "developer" else message.role
    call_id, name = message.tool_call_id or "", message.name or ""
    return Message(role, text, calls, tool_call_id=call_id, name=name, images=images)


def _in_order_of_calls(messages: Sequence[Message]) -> list[Message]:
    """Clients may send the results of parallel calls in any order; text forms tell them apart by order alone."""
    ordered: list[Message] = []
    order: dict[str, int] = {}
    start = 0  # of the results that are being read
    for message in messages:
        if message.role != "tool":
            order = {call.id: index for index, call in enumerate(message.tool_calls)}
            start = len(ordered) + 1
        ordered.append(message)
        ordered[start:] = sorted(ordered[start:], key=lambda result: order.get(result.tool_call_id, len(order)))
    return ordered


# What is answered


class Reply(Protocol):
    """A reply as it grows: `start`, `add` and `end` give the events of a stream, `whole` the reply in one piece."""

    usage: Usage
    finish: FinishReason

    def start(self) -> list[BaseModel]: ...
    def add(self, delta: Delta) -> list[BaseModel]: ...
    def end(self) -> list[BaseModel]: ...
    def whole(self) -> BaseModel: ...


class _Head:
    """What every event of one reply has in common."""

    def __init__(self, kind: str, model: str, include_usage: bool) -> None:
        self.id = f"{kind}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.include_usage = include_usage
        self.text: list[str] = []
        self.finish: FinishReason = "stop"
        self.usage = Usage(0, 0)

    def _take(self, delta: Delta) -> None:
        self.text.append(delta.text)
        self.finish = delta.finish or self.finish
        self.usage = delta.usage or self.usage

    def _usage(self) -> CompletionUsage:
        prompt, completion = self.usage
        return CompletionUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class ChatReply(_Head):
    """Deltas -> a ChatCompletion or its chunks."""

    def __init__(self, model: str, include_usage: bool = False) -> None:
        super().__init__("chatcmpl", model, include_usage)
        self.calls: list[ToolCall] = []

    def start(self) -> list[BaseModel]:
        return [self._chunk(ChoiceDelta(role="assistant", content=""))]

    def add(self, delta: Delta) -> list[BaseModel]:
        self._take(delta)
        events: list[BaseModel] = [self._chunk(ChoiceDelta(content=delta.text))] if delta.text else []
        if delta.tool_call is not None:
            call = _with_id(delta.tool_call)
            function = ChoiceDeltaToolCallFunction(name=call.name, arguments=call.arguments)
            part = ChoiceDeltaToolCall(index=len(self.calls), id=call.id, type="function", function=function)
            events.append(self._chunk(ChoiceDelta(tool_calls=[part])))
            self.calls.append(call)
        return events

    def end(self) -> list[BaseModel]:
        # An empty text, not none: clients that print every delta's content would print "None".
        last = ChoiceDelta() if self.calls else ChoiceDelta(content="")
        events: list[BaseModel] = [self._chunk(last, self._finish())]
        if self.include_usage:
            events.append(self._event([], self._usage()))
        return events

    def whole(self) -> ChatCompletion:
        text = "".join(self.text)
        message = ChatCompletionMessage(
            role="assistant", content=text if text or not self.calls else None, refusal=None
        )
        if self.calls:
            message.tool_calls = [
                ChatCompletionMessageFunctionToolCall(
                    id=call.id, type="function", function=Function(name=call.name, arguments=call.arguments)
                )
                for call in self.calls
            ]
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=[Choice(index=0, message=message, logprobs=None, finish_reason=self._finish())],
            usage=self._usage(),
        )

    def _finish(self) -> Literal["stop", "length", "tool_calls"]:
        if self.finish == "length":
            return "length"
        return "tool_calls" if self.calls else "stop"

    def _chunk(self, delta: ChoiceDelta, finish: Literal["stop", "length", "tool_calls"] | None = None) -> BaseModel:
        return self._event([ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=finish)])

    def _event(self, choices: list[ChunkChoice], usage: CompletionUsage | None = None) -> ChatCompletionChunk:
        event = ChatCompletionChunk(
            id=self.id, object="chat.completion.chunk", created=self.created, model=self.model, choices=choices
        )
        if self.include_usage:
            event.usage = usage  # null in every event but the last
        return event


class TextReply(_Head):
    """Deltas -> a Completion, whole or in parts: OpenAI gives both the same shape."""

    def __init__(self, model: str, include_usage: bool = False) -> None:
        super().__init__("cmpl", model, include_usage)

    def start(self) -> list[BaseModel]:
        return []

    def add(self, delta: Delta) -> list[BaseModel]:
        self._take(delta)
        return [self._event([self._choice(delta.text)])] if delta.text else []

    def end(self) -> list[BaseModel]:
        events: list[BaseModel] = [self._event([self._choice("", self._finish())])]
        if self.include_usage:
            events.append(self._event([], self._usage()))
        return events

    def whole(self) -> Completion:
        completion = self._event([self._choice("".join(self.text), self._finish())])
        completion.usage = self._usage()
        return completion

    def _finish(self) -> Literal["stop", "length"]:
        return "length" if self.finish == "length" else "stop"

    def _choice(self, text: str, finish: Literal["stop", "length"] | None = None) -> CompletionChoice:
        # Unchecked: the type has no None for the parts of a stream that come before the last.
        return CompletionChoice.model_construct(index=0, text=text, logprobs=None, finish_reason=finish)

    def _event(self, choices: list[CompletionChoice], usage: CompletionUsage | None = None) -> Completion:
        event = Completion.model_construct(
            id=self.id, object="text_completion", created=self.created, model=self.model, choices=choices
        )
        if self.include_usage:
            event.usage = usage
        return event


def _with_id(call: ToolCall) -> ToolCall:
    """OpenAI's arguments are JSON and its calls have ids. What no reader takes for JSON goes as the model wrote it."""
    arguments = json_arguments(call.arguments).text or call.arguments
    return ToolCall(call.name, arguments, call.id or f"call_{uuid.uuid4().hex[:24]}")


def card(name: str, owned_by: str) -> Model:
    """A served model, as the list of models tells it."""
    return Model(id=name, object="model", created=int(time.time()), owned_by=owned_by)


def as_json(value: BaseModel) -> str:
    """Exactly the keys that were set: OpenAI has `finish_reason: null`, but no `audio: null`."""
    return value.model_dump_json(exclude_unset=True, warnings=False)


def model_list(cards: Sequence[Model]) -> str:
    return json.dumps({"object": "list", "data": [each.model_dump(exclude_unset=True) for each in cards]})


def error_json(message: str, status: int, *, param: str | None = None, code: str | None = None) -> str:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = ErrorObject(message=message, type=kind, param=param, code=code)
    return json.dumps({"error": error.model_dump(exclude_unset=True)}, ensure_ascii=False)
