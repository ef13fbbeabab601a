"""A tool with what runs it, from a Python function or a description. Calls nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator

from swift.agent.arguments import excerpt
from swift.agent.schemas import argument_schema, checker
from swift.chat import Tool
from swift.system import utf8
from swift.tools.function_schema import describe
from swift.tools.in_process import on_thread
from swift.tools.marks import is_read_only

Invoke = Callable[[dict[str, Any], float], object]
"""`(arguments, seconds) -> value`. Raises TimeLimitError past the seconds, and whatever the tool raises."""


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A tool and what runs it.

    `read_only`: a call changes nothing, so it needs no confirmation and may run beside other calls. `source`: where
    the tool comes from; calls that may write keep their order within a source. `described`: nothing runs the tool; its
    results come from the user.
    """

    tool: Tool
    invoke: Invoke
    validator: Validator
    read_only: bool = False
    source: str = ""
    described: bool = False

    @property
    def name(self) -> str:
        return self.tool.name


def from_function(function: Callable[..., object], name: str = "", description: str = "") -> BoundTool:
    """A tool from a function: schema from its signature, descriptions from its docstring (`Args:` or `:param name:`).

    It runs on a thread of this process, where an exceeded time limit cannot stop it. Raises ValueError for a signature
    without a schema.
    """
    described = describe(function, name, description)
    return from_schema(described.spec, on_thread(described.function), is_read_only(function))


def from_schema(spec: dict[str, Any], invoke: Invoke, read_only: bool = False, source: str = "") -> BoundTool:
    """A tool from a description in OpenAI's (or ms-agent's) format and what runs it. Raises ValueError."""
    tool = Tool(spec)
    if not tool.name:
        raise ValueError(f"a tool needs a name: {excerpt(json.dumps(spec, ensure_ascii=False, default=str))}")
    if not utf8.is_encodable(json.dumps(spec, ensure_ascii=False, default=str)):
        raise ValueError(f"tool '{utf8.replace_surrogates(tool.name)}': its description contains a lone surrogate")
    schema = argument_schema(tool)
    try:
        return BoundTool(tool, invoke, checker(schema), read_only, source)
    except SchemaError as error:
        raise ValueError(f"tool '{tool.name}': parameters is not a JSON schema: {excerpt(error.message)}") from error
