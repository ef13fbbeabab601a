"""The items of OpenAI's Responses API -> swift.chat messages. Knows no request and no store."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, PlainValidator, Tag, TypeAdapter, WithJsonSchema, model_validator

from swift.chat import Message, Role, ToolCall
from swift.serve.bad_request import BadRequest, invalid
from swift.serve.formats.chat_completions_messages import MAX_CALLS, ParsedContent, parse_content
from swift.serve.formats.request_fields import RequestObject

Part = dict[str, Any]
"""A part of a content with its `type`, as it is stored: input_text, output_text, refusal or input_image."""
_TEXT_FIELDS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_OUTPUT_PARTS = ("output_text", "refusal")


def new_id(kind: str) -> str:
    """An id such as `msg_0123...`."""
    return f"{kind}_{uuid.uuid4().hex}"


def _parts(value: Any) -> str | list[Part]:
    """Validates a string or a list of parts; of each part, the known fields are kept."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of parts")
    return [_part(each) for each in value]


def _part(value: Any) -> Part:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "input_image":
        url = value.get("image_url")
        if not isinstance(url, str) or not url:
            raise ValueError("a part of type input_image needs a string in image_url; files are not supported")
        detail = value.get("detail")
        return {"type": kind, "image_url": url, "detail": detail if isinstance(detail, str) else "auto"}
    if not isinstance(kind, str) or kind not in _TEXT_FIELDS:
        raise ValueError("only parts of type input_text, output_text, refusal and input_image are supported")
    text = value.get(_TEXT_FIELDS[kind])
    if not isinstance(text, str):
        raise ValueError(f'a part of type {kind} needs a string in "{_TEXT_FIELDS[kind]}"')
    return {"type": "input_text" if kind == "text" else kind, _TEXT_FIELDS[kind]: text}


def _part_schema(kind: str, name: str) -> dict[str, Any]:
    properties = {"type": {"const": kind}, name: {"type": "string", "minLength": 1 if name == "image_url" else 0}}
    return {"type": "object", "properties": properties, "required": ["type", name]}


Content = Annotated[
    str | list[Part],
    PlainValidator(_parts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "anyOf": [
                            _part_schema(kind, name)
                            for kind, name in {**_TEXT_FIELDS, "input_image": "image_url"}.items()
                        ]
                    },
                },
            ]
        }
    ),
]
Id = Annotated[str, Field(min_length=1, max_length=256)]


class _Item(RequestObject):
    id: Id | None = None
    status: str | None = None


class MessageItem(_Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content

    @model_validator(mode="after")
    def _parts_fit_the_role(self) -> MessageItem:
        self.id = self.id or new_id("msg")
        for part in self.content if isinstance(self.content, list) else ():
            if part["type"] in _OUTPUT_PARTS and self.role != "assistant":
                raise ValueError(f"only assistant messages can have {part['type']} parts")
            if part["type"] == "input_image" and self.role != "user":
                raise ValueError("only user messages can have images")
        return self

    @property
    def stored(self) -> dict[str, Any]:
        text: Part = {"type": "input_text"}
        if self.role == "assistant":
            text = {"type": "output_text", "annotations": []}
        parts = self.content if isinstance(self.content, list) else [{**text, "text": self.content}]
        if self.role == "assistant":
            parts = [{**text, **part} if part["type"] == "output_text" else part for part in parts]
        return {"id": self.id, "type": self.type, "role": self.role, "status": "completed", "content": parts}


class FunctionCallItem(_Item):
    type: Literal["function_call"]
    call_id: Id
    name: Annotated[str, Field(min_length=1)]
    arguments: str

    @model_validator(mode="after")
    def _has_an_id(self) -> FunctionCallItem:
        self.id = self.id or new_id("fc")
        return self

    @property
    def stored(self) -> dict[str, Any]:
        call = {"call_id": self.call_id, "name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": self.type, **call, "status": "completed"}


class FunctionCallOutputItem(_Item):
    type: Literal["function_call_output"]
    call_id: Id
    output: Content

    @model_validator(mode="after")
    def _is_input(self) -> FunctionCallOutputItem:
        self.id = self.id or new_id("fco")
        for part in self.output if isinstance(self.output, list) else ():
            if part["type"] in _OUTPUT_PARTS:
                raise ValueError(f"an output can have parts of type input_text and input_image, not {part['type']}")
        return self

    @property
    def stored(self) -> dict[str, Any]:
        result = {"call_id": self.call_id, "output": self.output}
        return {"id": self.id, "type": self.type, **result, "status": "completed"}


class _Text(RequestObject):
    type: str
    text: str


class ReasoningItem(_Item):
    type: Literal["reasoning"]
    summary: list[_Text] | None = None
    content: list[_Text] | None = None
    encrypted_content: str | None = None

    @model_validator(mode="after")
    def _has_an_id(self) -> ReasoningItem:
        self.id = self.id or new_id("rs")
        return self

    @property
    def text(self) -> str:
        """The reasoning itself, or its summary."""
        return "\n".join(each.text for each in self.content or self.summary or ())

    @property
    def stored(self) -> dict[str, Any]:
        texts = {
            "summary": [{"type": "summary_text", "text": each.text} for each in self.summary or ()],
            "content": [{"type": "reasoning_text", "text": each.text} for each in self.content or ()],
        }
        return {"id": self.id, "type": self.type, **texts, "status": "completed"}


class ItemReference(RequestObject):
    type: Literal["item_reference"] | None = None
    id: Id


Resolved: TypeAlias = MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem
"""Any item but a reference."""


def _tag(value: Any) -> str | None:
    """Which kind of item a JSON object is; None: an unknown one."""
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    if kind is None:
        return "_Reference" if "role" not in value and "id" in value else "_Message"
    return _TAGS.get(kind) if isinstance(kind, str) else None


# Tags that begin with an underscore are not part of a field's path in errors.
_TAGS = {
    "message": "_Message",
    "function_call": "_Call",
    "function_call_output": "_Output",
    "reasoning": "_Reasoning",
    "item_reference": "_Reference",
}
UNKNOWN_ITEM = f"must be an item of type {', '.join(list(_TAGS)[:-1])} or {list(_TAGS)[-1]}"
Item = Annotated[
    Annotated[MessageItem, Tag("_Message")]
    | Annotated[FunctionCallItem, Tag("_Call")]
    | Annotated[FunctionCallOutputItem, Tag("_Output")]
    | Annotated[ReasoningItem, Tag("_Reasoning")]
    | Annotated[ItemReference, Tag("_Reference")],
    Discriminator(_tag, custom_error_type="unknown_item", custom_error_message=UNKNOWN_ITEM),
]
_STORED: TypeAdapter[list[Resolved | ItemReference]] = TypeAdapter(list[Item])


def read_stored(items: Sequence[dict[str, Any]]) -> list[Resolved]:
    """Items that were stored; no reference is."""
    return [item for item in _STORED.validate_python(items) if not isinstance(item, ItemReference)]


@dataclass
class _Turn:
    """The items of one assistant message, in the order in which models write them."""

    reasoning: list[str] = field(default_factory=list)
    content: ParsedContent | None = None
    calls: list[ToolCall] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.calls)

    @property
    def message(self) -> Message:
        text = self.content.text if self.content else ""
        return Message("assistant", text, tuple(self.calls), reasoning="\n".join(filter(None, self.reasoning)))


def dialogue(items: Iterable[Resolved], instructions: str | None) -> tuple[Message, ...]:
    """The messages: leading system messages joined, the first of which are the instructions; the reasoning, text and
    calls of one turn in one message; and outputs in the order of their calls.

    Raises BadRequest for calls without an output and for outputs without a call.
    """
    messages = list(_messages(items))
    first = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    system = [*([instructions] if instructions else []), *(message.content for message in messages[:first])]
    joined = [Message("system", "\n\n".join(system))] if system else []
    return (*joined, *messages[first:])


def _messages(items: Iterable[Resolved]) -> Iterator[Message]:
    turn = _Turn()
    waiting: list[ToolCall] = []  # calls whose outputs come next
    results: dict[str, Message] = {}
    for item in items:
        if isinstance(item, FunctionCallOutputItem):
            if turn:
                waiting = _distinct(turn.calls)
                yield turn.message
                turn = _Turn()
            _add_result(results, waiting, item)
            if len(results) == len(waiting):
                yield from (results[call.id] for call in waiting)
                waiting, results = [], {}
            continue
        _check_answered(waiting, results)
        if isinstance(item, MessageItem) and item.role != "assistant":
            if turn:
                _check_answered(turn.calls, {})
                yield turn.message
                turn = _Turn()
            role: Role = "user" if item.role == "user" else "system"
            content = _content(item.content)
            yield Message(role, content.text, images=content.images)
            continue
        new = turn.content is not None and not turn.calls and not isinstance(item, FunctionCallItem)
        if new:
            yield turn.message
            turn = _Turn()
        if isinstance(item, MessageItem):  # text after calls belongs to the turn of the calls
            content = _content(item.content)
            turn.content = content._replace(text=turn.content.text + content.text) if turn.content else content
        elif isinstance(item, ReasoningItem):
            turn.reasoning.append(item.text)
        else:
            turn.calls.append(ToolCall(item.name, item.arguments, item.call_id))
            if len(turn.calls) > MAX_CALLS:
                raise invalid("input", f"more than {MAX_CALLS} calls in one turn")
    _check_answered(waiting, results)
    _check_answered(turn.calls, {})
    if turn:
        yield turn.message


def _content(given: str | list[Part]) -> ParsedContent:
    if isinstance(given, str):
        return ParsedContent(given)
    parts = [
        {"type": "image_url", "image_url": part["image_url"]} if part["type"] == "input_image" else part
        for part in given
    ]
    try:
        content = parse_content(parts)
    except ValueError as error:
        raise invalid("input", str(error)) from error
    assert content is not None
    return content


def _distinct(calls: list[ToolCall]) -> list[ToolCall]:
    ids = [call.id for call in calls]
    if duplicate := next((id for id in ids if ids.count(id) > 1), None):
        raise invalid("input", f"two calls have the call_id '{duplicate[:80]}'")
    return calls


def _add_result(results: dict[str, Message], waiting: Sequence[ToolCall], item: FunctionCallOutputItem) -> None:
    if item.call_id in results:
        raise invalid("input", f"the call '{item.call_id[:80]}' has two outputs")
    if item.call_id not in [call.id for call in waiting]:
        raise BadRequest(
            f"No tool call found for function call output with call_id {item.call_id[:80]}: an output must follow the "
            "calls of the turn to which it belongs",
            param="input",
        )
    output = _content(item.output)
    results[item.call_id] = Message("tool", output.text, tool_call_id=item.call_id, images=output.images)


def _check_answered(calls: Sequence[ToolCall], results: dict[str, Message]) -> None:
    """Raises BadRequest if a call has no output."""
    if missing := [call.id for call in calls if call.id not in results]:
        ids = ", ".join(id[:80] for id in missing[:8])
        raise BadRequest(f"No tool output found for function call {ids}", param="input")
