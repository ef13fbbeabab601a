"""The messages of a request: OpenAI's -> ours. Knows no HTTP and no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, PlainValidator, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from swift.chat import PLACE, Image, Message, Role, ToolCall
from swift.serve.bad_request import invalid

MOST_MESSAGES, MOST_CALLS = 16_384, 128
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts that are text, and the field that has it."""
_THOUGHTS = {"thinking": "thinking", "reasoning": "text"}
_ASSISTANTS = {"output_text", "refusal", *_THOUGHTS}
"""Parts of an assistant message alone."""


class _Name:
    """What an unknown field holds: nothing that is made of it, only its name is kept."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(core_schema.none_schema(), default=None, on_error="default")

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: Any) -> dict[str, Any]:
        return {}


class Known(BaseModel):
    """An object of a request, with the fields that are honoured; of others `model_extra` has the names."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())
    __pydantic_extra__: dict[str, Annotated[Any, _Name]]


class _Read(NamedTuple):
    """A content: its text with places for its images, the images, what was thought, and parts of assistants alone."""

    text: str
    images: tuple[Image, ...] = ()
    reasoning: str = ""
    assistants: str = ""


def _content(value: Any) -> _Read | None:
    """A text or a list of parts. Texts stand on lines of their own, images where they are."""
    if value is None or isinstance(value, str):
        return None if value is None else _Read(value)
    if not isinstance(value, list):
        raise ValueError("a text or a list of parts is expected")
    images = tuple(Image(_url(part.get("image_url"))) for part in value if _shows(part))
    thoughts = [_thought(part) for part in value if _kind(part) in _THOUGHTS]
    said = [part for part in value if _kind(part) not in _THOUGHTS]
    runs = [(at_image, list(parts)) for at_image, parts in groupby(said, _shows)]
    text = "".join(PLACE * len(parts) if at_image else "\n".join(map(_text, parts)) for at_image, parts in runs)
    if images and text.count(PLACE) > len(images):
        raise ValueError("the text holds U+FFFC, which stands for an image")
    assistants = next((kind for kind in map(_kind, value) if kind in _ASSISTANTS), "")
    return _Read(text, images, "\n".join(thoughts), assistants)


def _kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else ""


def _text(part: Any) -> str:
    kind = _kind(part)
    if kind not in _TEXTS:
        raise ValueError("only parts of type text and image_url are supported")
    text = part.get(_TEXTS[kind])
    if not isinstance(text, str):
        raise ValueError(f'a part of type {kind} has a text in "{_TEXTS[kind]}"')
    return text


def _thought(part: dict[str, Any]) -> str:
    kind = _kind(part)
    thought = part.get(_THOUGHTS[kind])
    if isinstance(thought, list):  # some APIs have parts in it
        return "\n".join(map(_text, thought))
    if not isinstance(thought, str):
        raise ValueError(f'a part of type {kind} has a text in "{_THOUGHTS[kind]}"')
    return thought


def _shows(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "image_url"


def _url(value: Any) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url:
        raise ValueError('an image is {"type": "image_url", "image_url": {"url": ...}}')
    return url


Content = Annotated[
    _Read | None,
    PlainValidator(_content),
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
                                for kind, field in {**_TEXTS, **_THOUGHTS}.items()
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


class _CalledFunction(Known):
    name: Annotated[str, Field(min_length=1)]
    arguments: str = "{}"


class _Call(Known):
    id: str = ""
    type: Literal["function"] = "function"
    function: _CalledFunction


class RequestMessage(Known):
    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_text: str | None = None
    thinking: str | None = None
    tool_calls: Annotated[list[_Call] | None, Field(max_length=MOST_CALLS)] = None
    tool_call_id: str | None = None
    name: str | None = None


def dialogue(messages: Sequence[RequestMessage]) -> tuple[Message, ...]:
    """The messages as ours: system texts at the front are one, results stand in the order of their calls.

    Raises BadRequest for what cannot be: calls without results, results without a call.
    """
    written = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    first = next((index for index, message in enumerate(written) if message.role != "system"), len(written))
    system = [Message("system", "\n\n".join(message.content for message in written[:first]))] if first else []
    return (*system, *_answered(written, first))


def _message(message: RequestMessage, place: str) -> Message:
    calls = tuple(ToolCall(call.function.name, call.function.arguments, call.id) for call in message.tool_calls or ())
    content = message.content or _Read(message.refusal or "")
    thoughts = {"reasoning_content": message.reasoning_content, "reasoning": message.reasoning}
    thoughts |= {"reasoning_text": message.reasoning_text, "thinking": message.thinking}
    reasoning = next(filter(None, thoughts.values()), content.reasoning)
    if message.role != "assistant":
        for field, value in {"tool_calls": calls, **thoughts}.items():
            if value:
                raise invalid(f"{place}.{field}", "only assistant messages can hold it")
        if content.assistants:
            raise invalid(f"{place}.content", f"only assistant messages can hold parts of type {content.assistants}")
    if message.content is None and message.refusal is None and not calls and not reasoning:
        raise invalid(f"{place}.content", "a message needs it")
    if content.images and message.role != "user":
        raise invalid(f"{place}.content", "only a user's message can show images")
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


def _answered(written: Sequence[Message], first: int) -> Iterator[Message]:
    """The messages from `first` on, each call with its result: text forms tell results apart by order alone."""
    index = first
    while index < len(written):
        message = written[index]
        if message.role == "tool":
            raise invalid(
                f"messages[{index}].role",
                "messages with role 'tool' must be a response to a preceding message with 'tool_calls'",
            )
        yield message
        index += 1
        if message.tool_calls:
            end = index
            while end < len(written) and written[end].role == "tool":
                end += 1
            yield from _results(message.tool_calls, written[index:end], index)
            index = end


def _results(calls: Sequence[ToolCall], results: Sequence[Message], start: int) -> list[Message]:
    """The results of `calls` in their order; `start`: the place of the first among the messages.

    A result without an id, or for calls without ids, is that of the one call that has none yet, or of the next
    where no call has an id.
    """
    ids = [call.id for call in calls]
    if twice := next((id for id in ids if id and ids.count(id) > 1), None):
        raise invalid(f"messages[{start - 1}].tool_calls", f"two calls have the id '{twice[:80]}'")
    found: dict[int, Message] = {}
    for at, result in enumerate(results, start):
        left = [number for number in range(len(calls)) if number not in found]
        given = result.tool_call_id
        if given and given in ids:
            number = ids.index(given)
            if number in found:
                raise invalid(f"messages[{at}].tool_call_id", f"there are two results for the call '{given[:80]}'")
        elif given and any(ids):
            known = ", ".join(id[:80] for id in ids if id)
            raise invalid(f"messages[{at}].tool_call_id", f"'{given[:80]}' is no call of the message before ({known})")
        elif not left:
            raise invalid(
                f"messages[{at}]", f"there are more results than the {len(calls)} calls of the message before"
            )
        elif len(left) > 1 and any(ids):
            raise invalid(f"messages[{at}].tool_call_id", "several calls wait for a result: say which one this is")
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
