"""The messages of Anthropic's requests -> swift.chat messages. Knows no HTTP and no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from swift.agent.jsontext import dumps
from swift.chat import PLACE, Image, Message, ToolCall
from swift.serve.bad_request import invalid
from swift.serve.formats.request_fields import RequestObject

INVALID_JSON = "INVALID_JSON"
"""The only key of the input of a call whose arguments, as the model wrote them, are no JSON object; its value is their
text. Anthropic's documentation of fine-grained tool streaming suggests the name."""
Role = Literal["user", "assistant", "system"]


class _TextOrBlocks:
    """Marks a list of blocks that may be a string instead, which is one block of text."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_as_blocks, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core)]}


def _as_blocks(value: Any) -> Any:
    if not isinstance(value, (str, list)):
        raise ValueError("must be a string or a list of blocks")
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class _Text(RequestObject):
    type: Literal["text"]
    text: str


class _Base64(RequestObject):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: Annotated[str, Field(min_length=1)]


class _Url(RequestObject):
    type: Literal["url"]
    url: Annotated[str, Field(min_length=1)]


class _Image(RequestObject):
    type: Literal["image"]
    source: Annotated[_Base64 | _Url, Field(discriminator="type")]


class _ToolUse(RequestObject):
    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    input: dict[str, Any]


class _ToolResult(RequestObject):
    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1)]
    content: Annotated[list[Annotated[_Text | _Image, Field(discriminator="type")]], _TextOrBlocks()] | None = None
    is_error: bool | None = None


class _Thinking(RequestObject):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class _RedactedThinking(RequestObject):
    type: Literal["redacted_thinking"]
    data: str


_Block = Annotated[_Text | _Image | _ToolUse | _ToolResult | _Thinking | _RedactedThinking, Field(discriminator="type")]
_ALLOWED: dict[Role, tuple[str, ...]] = {
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
SystemPrompt = Annotated[list[_Text], _TextOrBlocks()] | None


class RequestMessage(RequestObject):
    role: Role
    content: Annotated[list[_Block], _TextOrBlocks()]


class _Placed(NamedTuple):
    """A block and its path in the request."""

    block: _Block
    place: str


class _Turn(NamedTuple):
    """Consecutive messages of one role. `place`: the path of the first."""

    role: Role
    place: str
    blocks: list[_Placed]


def dialogue(system: list[_Text] | None, messages: Sequence[RequestMessage]) -> tuple[Message, ...]:
    """The messages, with `system` and leading system messages joined, consecutive messages of one role merged, and
    results in the order of their calls.

    Raises BadRequest for a block in a message of the wrong role, calls without results and results without a call.
    """
    turns = list(_turns(messages))
    prompts = [_lines(system)] if system else []
    while turns and turns[0].role == "system":
        prompts.append(_lines([each.block for each in turns.pop(0).blocks]))
    converted = [Message("system", "\n\n".join(prompts))] if prompts else []
    calls: tuple[ToolCall, ...] = ()
    for turn in turns:
        if calls and turn.role != "user":
            raise _without_results(calls, turn.place)
        if turn.role == "user":
            converted += _from_user(turn, calls)
        else:
            converted.append(_from_assistant(turn) if turn.role == "assistant" else _from_system(turn))
        calls = converted[-1].tool_calls
    if calls:
        raise _without_results(calls, turns[-1].place)
    return tuple(converted)


def _turns(messages: Sequence[RequestMessage]) -> Iterator[_Turn]:
    for role, group in groupby(enumerate(messages), key=lambda each: each[1].role):
        run = list(group)
        blocks = [
            _Placed(block, f"messages[{index}].content[{number}]")
            for index, message in run
            for number, block in enumerate(message.content)
        ]
        for block, place in blocks:
            if block.type not in _ALLOWED[role]:
                raise invalid(place, f"{role} messages cannot have {block.type} blocks")
        yield _Turn(role, f"messages[{run[0][0]}]", blocks)


def _from_system(turn: _Turn) -> Message:
    return Message("system", _lines([each.block for each in turn.blocks]))


def _from_assistant(turn: _Turn) -> Message:
    """The reply; its blocks of text are parts of one text."""
    blocks = [each.block for each in turn.blocks]
    calls = tuple(_call(block, place) for block, place in turn.blocks if isinstance(block, _ToolUse))
    ids = [call.id for call in calls]
    if duplicate := next((id for id in ids if ids.count(id) > 1), None):
        raise invalid(turn.place, f"two tool_use blocks have the id '{duplicate[:80]}'")
    text = "".join(block.text for block in blocks if isinstance(block, _Text))
    reasoning = "\n".join(block.thinking for block in blocks if isinstance(block, _Thinking) and block.thinking)
    return Message("assistant", text, calls, reasoning=reasoning)


def _call(block: _ToolUse, place: str) -> ToolCall:
    text = block.input.get(INVALID_JSON)
    if isinstance(text, str) and len(block.input) == 1:
        return ToolCall(block.name, text, block.id)
    try:
        return ToolCall(block.name, dumps(block.input), block.id)
    except ValueError as error:  # NaN, which JSON does not have
        raise invalid(f"{place}.input", str(error)) from None


def _from_user(turn: _Turn, calls: Sequence[ToolCall]) -> list[Message]:
    """The results of `calls`, then what the user says. `calls`: those of the preceding reply."""
    results: dict[str, Message] = {}
    said: list[_Block] = []
    for block, place in turn.blocks:
        if not isinstance(block, _ToolResult):
            said.append(block)
            continue
        if said:
            raise invalid(place, "tool_result blocks must precede all other blocks of the user's turn")
        if block.tool_use_id not in [call.id for call in calls]:
            raise invalid(
                f"{place}.tool_use_id", f"the preceding reply has no tool_use block '{block.tool_use_id[:80]}'"
            )
        if block.tool_use_id in results:
            raise invalid(f"{place}.tool_use_id", f"'{block.tool_use_id[:80]}' has two results")
        results[block.tool_use_id] = _result(block, place)
    if missing := [call for call in calls if call.id not in results]:
        raise _without_results(missing, turn.place)
    if not turn.blocks:
        raise invalid(f"{turn.place}.content", "is empty")
    messages = [results[call.id] for call in calls]
    return [*messages, _said(said, turn.place)] if said else messages


def _said(blocks: Sequence[_Block], place: str) -> Message:
    text, images = _content(blocks, place)
    return Message("user", text, images=images)


def _content(blocks: Sequence[_Block], place: str) -> tuple[str, tuple[Image, ...]]:
    """The text of blocks, with a PLACE for each image, and the images. `place`: the path of what has the blocks."""
    images = tuple(_image(block) for block in blocks if isinstance(block, _Image))
    runs = [(is_image, list(run)) for is_image, run in groupby(blocks, lambda block: isinstance(block, _Image))]
    text = "".join(PLACE * len(run) if is_image else _lines(run) for is_image, run in runs)
    if images and text.count(PLACE) > len(images):
        raise invalid(f"{place}.content", "the text contains U+FFFC, which is reserved for images")
    return text, images


def _image(block: _Image) -> Image:
    source = block.source
    return Image(source.url if isinstance(source, _Url) else f"data:{source.media_type};base64,{source.data}")


def _result(block: _ToolResult, place: str) -> Message:
    """The result; that of an error says so, in the words of swift.tools."""
    text, images = _content(block.content or (), place)
    if block.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}" if text else "Error"
    return Message("tool", text, tool_call_id=block.tool_use_id, images=images)


def _lines(blocks: Sequence[_Block]) -> str:
    return "\n".join(block.text for block in blocks if isinstance(block, _Text))


def _without_results(calls: Sequence[ToolCall], place: str) -> Exception:
    ids = ", ".join(call.id[:80] for call in calls[:8])
    return invalid(place, f"tool_use blocks need tool_result blocks in the next message; without one: {ids}")
