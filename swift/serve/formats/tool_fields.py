"""The tools of a request, which of them a reply calls, and the schema of a reply without calls: what the bodies of all
chat formats share. Knows no format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from swift.agent.schemas import argument_schema
from swift.chat import Tool
from swift.serve.bad_request import invalid
from swift.serve.formats.request_fields import RequestObject, check_schema
from swift.serve.inner_request import ToolChoice

MAX_TOOLS = 512
MAX_TOOLS_SIZE = 1 << 18
"""Bytes of a request's tools as JSON: jsonschema takes up to 20 us a byte to validate their schemas."""


class SentTool(RequestObject):
    """A tool, or its function. The prompt shows it as the client sent it: unknown fields keep their values."""

    __pydantic_extra__: dict[str, Any]


def schema_fields(tools: Sequence[Tool], arguments: str, content: str) -> Callable[[str], str]:
    """The fields with a request's schemas: of the arguments of a tool by its name, or (name "") of the content."""
    names = [tool.name for tool in tools]
    return lambda tool: f"tools[{names.index(tool)}].{arguments}" if tool else content


def check_tools(
    request: RequestObject, tools: Sequence[Tool], choice: ToolChoice, schema_field: Callable[[str], str]
) -> None:
    """Checks the tools that a request describes in its field `tools`, and the choice among them.

    Raises BadRequest for tools that share a name, of more than MAX_TOOLS_SIZE bytes, or with a wrong schema, and for a
    choice that they do not have.
    """
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid("tools", f"two tools are named '{twice}'")
    if tools and len(request.model_dump_json(include={"tools"})) > MAX_TOOLS_SIZE:
        raise invalid("tools", f"longer than {MAX_TOOLS_SIZE} bytes of JSON")
    for tool in tools:
        check_schema(argument_schema(tool), schema_field(tool.name))
    for name in choice.names or ():
        if name not in names:
            known = ", ".join(names) or "there are none"
            raise invalid("tool_choice", f"'{name[:80]}' is not one of the tools ({known})")
    if choice.mode == "required" and not names:
        raise invalid("tool_choice", "the request has no tools")


def one_tool(name: str, parallel: bool, strict: Iterable[str]) -> ToolChoice:
    """A choice of OpenAI's formats that names one tool: it is called exactly once, and its schema enforced."""
    return ToolChoice("required", (name,), parallel, once=True, strict=frozenset({*strict, name}))


def content_schema(
    kind: Literal["text", "json_object", "json_schema"], schema: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The schema of the content for a response format of OpenAI's; None for any text."""
    if kind == "text":
        return None
    return schema or {"type": "object"}
