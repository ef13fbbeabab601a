"""The result of an MCP tool as text for a model. Knows no connection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from swift.agent.jsontext import loads

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock

EMPTY = "[no content]"


def result_text(result: CallToolResult) -> str:
    """The content of a result, one block a line; structured content as JSON where the text does not contain it.

    Images, sounds and binary resources become placeholders with their MIME type and size in bytes.
    """
    blocks = [_block(block) for block in result.content]
    values = _values(result.structured_content)
    if values and not any(_repeats(blocks, value) for value in values):
        blocks.append(_json(values[-1]))
    return "\n".join(block for block in blocks if block) or EMPTY


def _block(block: ContentBlock) -> str:
    from mcp_types import TextResourceContents

    if block.type == "text":
        return block.text
    if block.type == "image" or block.type == "audio":
        return f"[{block.type}: {block.mime_type}, {_size(block.data)} bytes]"
    if block.type == "resource_link":
        return block.uri
    resource = block.resource
    if isinstance(resource, TextResourceContents):
        return resource.text
    kind = f", {resource.mime_type}" if resource.mime_type else ""
    return f"[resource: {resource.uri}{kind}, {_size(resource.blob)} bytes]"


def _json(value: object) -> str:
    """JSON with null for NaN and Infinity, which JSON does not have."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return json.dumps(finite, ensure_ascii=False)


def _size(base64: str) -> int:
    """The bytes that base64 text stands for."""
    return len(base64) * 3 // 4 - base64[-2:].count("=")


def _values(structured: object) -> list[object]:
    """What the structured content may stand for: SDKs wrap values that are no objects as `{"result": value}`."""
    if isinstance(structured, dict) and structured.keys() == {"result"}:
        return [structured, structured["result"]]
    return [] if structured is None else [structured]


def _repeats(blocks: Sequence[str], value: object) -> bool:
    """Whether the text says the value: servers send both for older clients, and a list as one block an item."""
    if isinstance(value, list) and len(value) == len(blocks) > 0 and all(map(_is, blocks, value)):
        return True
    return _is("\n".join(blocks), value)


def _is(text: str, value: object) -> bool:
    if text == value:
        return True
    try:
        return bool(loads(text) == value)
    except ValueError:
        return False
