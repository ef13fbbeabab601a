"""The messages of a request: OpenAI's -> ours. Knows no HTTP and no model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from swift.chat import PLACE, Image, Message, Role, ToolCall
from swift.serve.refusal import wrong


class Known(BaseModel):
    """An object of a request, with the fields that are honoured."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


def _text(value: Any) -> Any:
    """A list of text parts as one text; anything else is left to the field's type."""
    if not isinstance(value, list):
        return value
    texts = [part["text"] for part in value if isinstance(part, dict) and part.get("type") == "text" and "text" in part]
    if len(texts) < len(value) or not all(isinstance(text, str) for text in texts):
        raise ValueError("only parts of type text and image_url are supported")
    return "\n".join(texts)


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


Content = Annotated[
    str | _Shown | None,
    PlainValidator(_content),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["string", "null"]},
                {
                    "type": "array",
                    "items": {
                        "anyOf": [
                            {
                                "type": "object",
                                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                                "required": ["type", "text"],
                            },
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
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None


def dialogue(messages: Sequence[RequestMessage]) -> tuple[Message, ...]:
    """The messages as ours: one system text at the front, results in the order of their calls."""
    written = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    first = next((index for index, message in enumerate(written) if message.role != "system"), len(written))
    for index, message in enumerate(written[first:], first):
        if message.role == "system":
            raise wrong(f"messages[{index}].role", "system and developer messages come before all others")
    system = [Message("system", "\n\n".join(message.content for message in written[:first]))] if first else []
    return (*system, *_in_order_of_calls(written[first:]))


def _message(message: RequestMessage, place: str) -> Message:
    calls = tuple(ToolCall(call.function.name, call.function.arguments, call.id) for call in message.tool_calls or ())
    if calls and message.role != "assistant":
        raise wrong(f"{place}.tool_calls", "only assistant messages can hold them")
    if message.content is None and not calls:
        raise wrong(f"{place}.content", "a message needs it")
    text, images = message.content if isinstance(message.content, _Shown) else (message.content or "", ())
    if images and message.role != "user":
        raise wrong(f"{place}.content", "only a user's message can show images")
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
