"""A Chat over a server that speaks OpenAI's protocol. Knows no model, no template and no token."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import openai

from swift.chat import Delta, FinishReason, Image, Message, Tool, ToolCall, Usage
from swift.engine.sampling import SamplingParams
from swift.images import as_url
from swift.infer.chat import DEFAULT_PARAMS

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class RemoteChat:
    """The model called `model` ("": the server's first) behind `base_url`. Raises OSError when the server fails."""

    def __init__(self, base_url: str, model: str = "", api_key: str = "EMPTY") -> None:
        self._client = openai.OpenAI(base_url=base_url, api_key=api_key)
        self._url = base_url
        self.model = model

    def __call__(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        params: SamplingParams = DEFAULT_PARAMS,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Generator[Delta, None, None]:
        request = {
            "messages": [_message(each) for each in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"tools": [{"type": "function", "function": each.function} for each in tools]} if tools else {}),
            **_options(params, template_kwargs or {}),
        }
        try:
            self.model = self.model or next(iter(self._client.models.list())).id
            chunks = self._client.chat.completions.create(model=self.model, **request)
        except openai.APIError as error:
            raise OSError(f"{self._url}: {error.message}") from error
        return self._deltas(chunks)

    def _deltas(self, chunks: openai.Stream[Any]) -> Generator[Delta, None, None]:
        calls: dict[int, ToolCall] = {}
        finish: FinishReason = "cancelled"
        usage: Usage | None = None
        with chunks:
            try:
                for chunk in chunks:
                    if chunk.usage is not None:
                        usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                    for choice in chunk.choices:
                        if reasoning := _reasoning(choice.delta):
                            yield Delta(reasoning=reasoning)
                        if choice.delta.content:
                            yield Delta(choice.delta.content)
                        for part in choice.delta.tool_calls or ():
                            calls[part.index] = _joined(calls.get(part.index, ToolCall("", "")), part)
                        finish = _FINISH.get(choice.finish_reason or "", finish)
            except openai.APIError as error:
                raise OSError(f"{self._url}: {error.message}") from error
        for _, call in sorted(calls.items()):
            yield Delta(tool_call=call)
        yield Delta(finish=finish, usage=usage)


def _joined(call: ToolCall, part: Any) -> ToolCall:
    name, arguments = (part.function.name, part.function.arguments) if part.function else (None, None)
    return ToolCall(call.name + (name or ""), call.arguments + (arguments or ""), call.id or part.id or "")


def _reasoning(delta: Any) -> str:
    """What the model thinks. OpenAI's protocol has no field for it; servers use one of these two."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(text := getattr(delta, name, None), str):
            return text
    return ""


def _message(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        wire["content"] = [_part(part) for part in message.parts]
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
            for each in message.tool_calls
        ]
    if message.reasoning:
        wire["reasoning_content"] = message.reasoning
    if message.tool_call_id:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": as_url(part)}}


def _options(params: SamplingParams, template_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Only what was asked for: what OpenAI's protocol lacks goes in the body under the names that servers share."""
    wanted: dict[str, tuple[object, object]] = {
        "max_tokens": (params.max_tokens, None),
        "top_p": (params.top_p, 1.0),
        "presence_penalty": (params.presence_penalty, 0.0),
        "frequency_penalty": (params.frequency_penalty, 0.0),
        "logit_bias": ({str(token): bias for token, bias in params.logit_bias.items()}, {}),
        "seed": (params.seed, None),
        "stop": (list(params.stop), []),
    }
    extra: dict[str, tuple[object, object]] = {
        "top_k": (params.top_k, 0),
        "min_p": (params.min_p, 0.0),
        "repetition_penalty": (params.repetition_penalty, 1.0),
        "include_stop_str_in_output": (params.include_stop, None),
        "ignore_eos": (params.ignore_eos, False),
        "chat_template_kwargs": (dict(template_kwargs), {}),
    }
    options = {name: value for name, (value, default) in wanted.items() if value != default}
    body = {name: value for name, (value, default) in extra.items() if value != default}
    return {"temperature": params.temperature, **options, **({"extra_body": body} if body else {})}
