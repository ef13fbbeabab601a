"""A Chat behind a server that implements OpenAI's chat completions. Knows no model, no template and no token."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any

import httpx  # the HTTP client of `openai` before 3.0, whose errors surface while a stream is read
import openai

from swift.chat import Delta, FinishReason, Image, Message, Tool, ToolCall, Usage
from swift.engine.sampling_params import SamplingParams
from swift.images import as_url
from swift.infer.chat import DEFAULT_PARAMS
from swift.system.nearest import closest
from swift.system.urls import without_secrets

CONFIDENCE = "x_confidence"
"""The field of requests and calls by which SWIFT's servers extend OpenAI's protocol."""
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class RemoteChat:
    """The model `model` of the server at `base_url`, such as http://127.0.0.1:8000/v1.

    SWIFT's servers return the confidence of calls (`SamplingParams.confidence`). Others ignore the field; one that
    refuses it is asked again without, and from then on.

    `template_kwargs`: variables for the server's chat template, in every request. `server_defaults`: names of sampling
    parameters that are not sent, so that the server's own defaults apply. Errors of the server are OSErrors.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str = "",
        template_kwargs: Mapping[str, Any] | None = None,
        server_defaults: Collection[str] = (),
    ) -> None:
        # A server without keys ignores this one; the client requires some text.
        self._client = openai.OpenAI(base_url=base_url, api_key=api_key or "EMPTY")
        self._url = without_secrets(base_url)
        self.model = model
        self._template_kwargs, self._server_defaults = dict(template_kwargs or {}), frozenset(server_defaults)
        self._refused: frozenset[str] = frozenset()

    def __call__(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        params: SamplingParams = DEFAULT_PARAMS,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Generator[Delta, None, None]:
        """The request is sent with the first `next`. Raises OSError with the server's message."""
        variables = {**self._template_kwargs, **(template_kwargs or {})}
        request: dict[str, Any] = {
            "stream_options": {"include_usage": True},
            "messages": [_message(message) for message in messages],
            **({"tools": [{"type": "function", "function": tool.function} for tool in tools]} if tools else {}),
            **_sampling(params, variables, self._server_defaults | self._refused),
        }
        try:
            with self._start(request) as chunks:
                yield from _deltas(chunks)
        except (openai.APIError, httpx.HTTPError) as error:
            raise OSError(f"{self._url}: {_reason(error)}") from error

    def _start(self, request: dict[str, Any]) -> openai.Stream[Any]:
        try:
            return self._create(request)
        except openai.APIStatusError as error:
            if error.status_code not in (400, 422) or CONFIDENCE not in request.get("extra_body", {}):
                raise
            if CONFIDENCE not in f"{error.message} {error.body}":
                raise
        self._refused = frozenset(["confidence"])
        del request["extra_body"][CONFIDENCE]
        return self._create(request)

    def _create(self, request: dict[str, Any]) -> openai.Stream[Any]:
        chunks: openai.Stream[Any] = self._client.chat.completions.create(model=self.model, stream=True, **request)
        return chunks


def connect(
    url: str,
    model: str = "",
    api_key: str = "",
    template_kwargs: Mapping[str, Any] | None = None,
    server_defaults: Collection[str] = (),
) -> RemoteChat:
    """A RemoteChat whose server has been reached and serves `model` (default: the first that it lists).

    Raises PermissionError for a missing or wrong key, OSError if no OpenAI-compatible server can be reached, ValueError
    for an unknown model.
    """
    client = openai.OpenAI(base_url=url, api_key=api_key or "EMPTY", max_retries=0)
    where = without_secrets(url)
    try:
        served = [each.id for each in client.models.list()]
    except openai.AuthenticationError as error:
        reason = "the server rejects the API key" if api_key else "the server requires an API key"
        raise PermissionError(f"{where}: {reason}") from error
    except openai.APIConnectionError as error:
        raise OSError(f"{where}: no server can be reached there ({_reason(error)})") from error
    except (openai.APIError, AttributeError, TypeError, ValueError) as error:  # the last three: a page that is no list
        hint = "" if where.rstrip("/").endswith("/v1") else f"; did you mean {where.rstrip('/')}/v1?"
        raise OSError(f"{where}: no OpenAI-compatible API answers there{hint}") from error
    if not model and not served:
        raise ValueError(f"{where}: the server lists no models")
    if model and model not in served:
        near = closest(model, served, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{where}: no model is named '{model}' there{hint} (served: {', '.join(served)})")
    return RemoteChat(url, model or served[0], api_key, template_kwargs, server_defaults)


def _reason(error: Exception) -> str:
    """The server's own message if it sent one, otherwise what failed below HTTP."""
    body = getattr(error, "body", None)  # of openai.APIError: the parsed JSON, whatever the server sent
    if isinstance(body, dict) and isinstance(message := body.get("message"), str):
        return message
    cause: BaseException = error
    while isinstance(error, openai.APIConnectionError) and cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause) or type(cause).__name__


def _deltas(chunks: openai.Stream[Any]) -> Generator[Delta, None, None]:
    calls: dict[int, ToolCall] = {}
    finish: FinishReason = "cancelled"
    usage: Usage | None = None
    declined: tuple[ToolCall, ...] = ()
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
            declined += _declined(choice.delta)
            finish = _FINISH.get(choice.finish_reason or "", finish)
    for _, call in sorted(calls.items()):
        yield Delta(tool_call=call)
    yield Delta(finish=finish, usage=usage, declined=declined)


def _joined(call: ToolCall, part: Any) -> ToolCall:
    name, arguments = (part.function.name, part.function.arguments) if part.function else (None, None)
    rated = getattr(part, "x_confidence", None)  # an extension of SWIFT's servers, if the request asks for it
    confidence = float(rated) if isinstance(rated, (int, float)) else call.confidence
    return ToolCall(call.name + (name or ""), call.arguments + (arguments or ""), call.id or part.id or "", confidence)


def _declined(delta: Any) -> tuple[ToolCall, ...]:
    """The calls that a SWIFT server did not make, since the model hardly believed in them."""
    found = getattr(delta, "x_declined_calls", None) or ()
    return tuple(
        ToolCall(each["function"]["name"], each["function"]["arguments"], each["id"], each["x_confidence"])
        for each in found
    )


def _reasoning(delta: Any) -> str:
    """The reasoning in a delta. OpenAI's protocol has no field for it; servers use one of these two."""
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


def _sampling(params: SamplingParams, template_kwargs: Mapping[str, Any], server_defaults: Collection[str]) -> Any:
    """The parameters that change something. Those that OpenAI's protocol lacks go into the body under vLLM's names."""
    openai_names: dict[str, tuple[str, object, object]] = {
        "temperature": ("temperature", params.temperature, None),
        "max_tokens": ("max_tokens", params.max_tokens, None),
        "top_p": ("top_p", params.top_p, 1.0),
        "presence_penalty": ("presence_penalty", params.presence_penalty, 0.0),
        "frequency_penalty": ("frequency_penalty", params.frequency_penalty, 0.0),
        "logit_bias": ("logit_bias", {str(token): bias for token, bias in params.logit_bias.items()}, {}),
        "seed": ("seed", params.seed, None),
        "stop": ("stop", list(params.stop), []),
    }
    vllm_names: dict[str, tuple[str, object, object]] = {
        "top_k": ("top_k", params.top_k, 0),
        "min_p": ("min_p", params.min_p, 0.0),
        "repetition_penalty": ("repetition_penalty", params.repetition_penalty, 1.0),
        "include_stop": ("include_stop_str_in_output", params.include_stop, None),
        "ignore_eos": ("ignore_eos", params.ignore_eos, False),
        "confidence": (CONFIDENCE, params.confidence, False),
        "template_kwargs": ("chat_template_kwargs", dict(template_kwargs), {}),
    }

    def sent(names: Mapping[str, tuple[str, object, object]]) -> dict[str, object]:
        given = {name: each for name, each in names.items() if name not in server_defaults}
        return {wire: value for wire, value, neutral in given.values() if value != neutral}

    body = sent(vllm_names)
    return {**sent(openai_names), **({"extra_body": body} if body else {})}
