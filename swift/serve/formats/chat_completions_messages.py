"""The messages of chat completions -> swift.chat messages. Knows no HTTP and no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, PlainValidator, WithJsonSchema

from swift.chat import PLACE, Image, Message, Role, ToolCall
from swift.serve.bad_request import invalid
from swift.serve.formats.request_fields import RequestObject

MAX_CALLS = 128
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of text parts -> the field with the text."""
_REASONING = {"thinking": "thinking", "reasoning": "text"}
_ASSISTANT_ONLY = {"output_text", "refusal", *_REASONING}
"""Types of parts that only assistant messages may have."""


class ParsedContent(NamedTuple):
    """The content of a message. `text` has a PLACE for each image; `assistant_only`: a type of part that only assistant
    messages may have, "" if there is none."""

    text: str
    images: tuple[Image, ...] = ()
    reasoning: str = ""
    assistant_only: str = ""


def parse_content(value: Any) -> ParsedContent | None:
    """Parses a string or a list of parts. Text parts are joined by newlines; images keep their places."""
    if value is None or isinstance(value, str):
        return None if value is None else ParsedContent(value)
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of parts")
    images = tuple(Image(_url(part.get("image_url"))) for part in value if _is_image(part))
    reasoning = [_reasoning(part) for part in value if _kind(part) in _REASONING]
    content = [part for part in value if _kind(part) not in _REASONING]
    runs = [(at_image, list(parts)) for at_image, parts in groupby(content, _is_image)]
    text = "".join(PLACE * len(parts) if at_image else "\n".join(map(_text, parts)) for at_image, parts in runs)
    if images and text.count(PLACE) > len(images):
        raise ValueError("the text contains U+FFFC, which is reserved for images")
    assistant_only = next((kind for kind in map(_kind, value) if kind in _ASSISTANT_ONLY), "")
    return ParsedContent(text, images, "\n".join(reasoning), assistant_only)


def _kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else ""


def _text(part: Any) -> str:
    kind = _kind(part)
    if kind not in _TEXTS:
        raise ValueError("only parts of type text and image_url are supported")
    text = part.get(_TEXTS[kind])
    if not isinstance(text, str):
        raise ValueError(f'a part of type {kind} needs a string in "{_TEXTS[kind]}"')
    return text


def _reasoning(part: dict[str, Any]) -> str:
    kind = _kind(part)
    text = part.get(_REASONING[kind])
    if isinstance(text, list):  # some APIs nest parts
        return "\n".join(map(_text, text))
    if not isinstance(text, str):
        raise ValueError(f'a part of type {kind} needs a string in "{_REASONING[kind]}"')
    return text


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "image_url"


def _url(value: Any) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url:
        raise ValueError('an image must be {"type": "image_url", "image_url": {"url": ...}}')
    return url


Content = Annotated[
    ParsedContent | None,
    PlainValidator(parse_content),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["string", "null"]},
                {
                    "type": "array",
                    "items": {
                        "anyOf": [
                            *(
                                {
                                    "type": "object",
                                    "properties": {"type": {"const": kind}, field: {"type": "string"}},
                                    "required": ["type", field],
                                }
                                for kind, field in {**_TEXTS, **_REASONING}.items()
                            ),
                            {
                                "type": "object",
                                "properties": {
                                    "type": {"const": "image_url"},
                                    "image_url": {
                                        "type": "object",
                                        "properties": {"url": {"type": "string"}},
                                        "required": ["url"],
                                    },
                                },
                                "required": ["type", "image_url"],
                            },
                        ]
                    },
                },
            ]
        }
    ),
]


class _CalledFunction(RequestObject):
    name: Annotated[str, Field(min_length=1)]
    arguments: str = "{}"


class _Call(RequestObject):
    id: str = ""
    type: Literal["function"] = "function"
    function: _CalledFunction
    x_confidence: float | None = None  # clients send calls back as they came


class RequestMessage(RequestObject):
    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_text: str | None = None
    thinking: str | None = None
    tool_calls: Annotated[list[_Call] | None, Field(max_length=MAX_CALLS)] = None
    tool_call_id: str | None = None
    name: str | None = None


def dialogue(messages: Sequence[RequestMessage]) -> tuple[Message, ...]:
    """The messages, with leading system messages joined and tool results in the order of their calls.

    Raises BadRequest for calls without results and for results without a call.
    """
    converted = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    first = next((index for index, message in enumerate(converted) if message.role != "system"), len(converted))
    system = [Message("system", "\n\n".join(message.content for message in converted[:first]))] if first else []
    return (*system, *_with_ordered_results(converted, first))


def _message(message: RequestMessage, place: str) -> Message:
    calls = tuple(ToolCall(call.function.name, call.function.arguments, call.id) for call in message.tool_calls or ())
    content = message.content or ParsedContent(message.refusal or "")
    reasonings = {"reasoning_content": message.reasoning_content, "reasoning": message.reasoning}
    reasonings |= {"reasoning_text": message.reasoning_text, "thinking": message.thinking}
    reasoning = next(filter(None, reasonings.values()), content.reasoning)
    if message.role != "assistant":
        for field, value in {"tool_calls": calls, **reasonings}.items():
            if value:
                raise invalid(f"{place}.{field}", "only assistant messages can have it")
        if content.assistant_only:
            raise invalid(f"{place}.content", f"only assistant messages can have {content.assistant_only} parts")
    if message.content is None and message.refusal is None and not calls and not reasoning:
        raise invalid(f"{place}.content", "is missing")
    if content.images and message.role not in ("user", "tool"):
        raise invalid(f"{place}.content", "only user and tool messages can have images")
    role: Role = "system" if message.role == "developer" else message.role
    return Message(
        role,
        content.text,
        calls,
        tool_call_id=message.tool_call_id or "",
        name=message.name or "",
        images=content.images,
        reasoning=reasoning if role == "assistant" else "",
    )


def _with_ordered_results(messages: Sequence[Message], first: int) -> Iterator[Message]:
    """The messages from `first` on. Tool-call formats match results to calls by order, so results are sorted."""
    index = first
    while index < len(messages):
        message = messages[index]
        if message.role == "tool":
            raise invalid(
                f"messages[{index}].role",
                "messages with role 'tool' must be a response to a preceding message with 'tool_calls'",
            )
        yield message
        index += 1
        if message.tool_calls:
            end = index
            while end < len(messages) and messages[end].role == "tool":
                end += 1
            yield from _results(message.tool_calls, messages[index:end], index)
            index = end


def _results(calls: Sequence[ToolCall], results: Sequence[Message], start: int) -> list[Message]:
    """The results in the order of `calls`; `start`: the index of the first result in the request's messages.

    A result without an id belongs to the only call that has no result yet or, if no call has an id, to the next one.
    """
    ids = [call.id for call in calls]
    if duplicate := next((id for id in ids if id and ids.count(id) > 1), None):
        raise invalid(f"messages[{start - 1}].tool_calls", f"two calls have the id '{duplicate[:80]}'")
    found: dict[int, Message] = {}
    for at, result in enumerate(results, start):
        left = [number for number in range(len(calls)) if number not in found]
        given = result.tool_call_id
        if given and given in ids:
            number = ids.index(given)
            if number in found:
                raise invalid(f"messages[{at}].tool_call_id", f"the call '{given[:80]}' has two results")
        elif given and any(ids):
            known = ", ".join(id[:80] for id in ids if id)
            raise invalid(
                f"messages[{at}].tool_call_id", f"'{given[:80]}' is not a call of the preceding message ({known})"
            )
        elif not left:
            raise invalid(f"messages[{at}]", f"more results than the {len(calls)} calls of the preceding message")
        elif len(left) > 1 and any(ids):
            raise invalid(f"messages[{at}].tool_call_id", "required: several calls have no result yet")
        else:
            number = left[0]
        found[number] = replace(result, tool_call_id=ids[number] or given)
    if missing := [call.id or call.name for number, call in enumerate(calls) if number not in found]:
        raise invalid(
            f"messages[{start - 1}].tool_calls",
            "an assistant message with 'tool_calls' must be followed by tool messages responding to each "
            "'tool_call_id'; these did not have response messages: " + ", ".join(each[:80] for each in missing[:8]),
        )
    return [found[number] for number in range(len(calls))]
