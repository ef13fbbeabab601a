"""A tool with what runs it, from a Python function or a description. Calls nothing."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from pydantic import TypeAdapter, validate_call
from pydantic.errors import PydanticUserError

from swift.agent.arguments import excerpt
from swift.agent.schemas import argument_schema, checker
from swift.chat import Tool
from swift.system import utf8
from swift.tools.in_process import on_thread

Function = TypeVar("Function", bound=Callable[..., object])
Invoke = Callable[[dict[str, Any], float], object]
"""`(arguments, seconds) -> value`. Raises TimeLimitError past the seconds, and whatever the tool raises."""
READ_ONLY = "__swift_read_only__"


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A tool and what runs it.

    `read_only`: a call changes nothing, so it needs no confirmation and may run beside other calls. `source`: where
    the tool comes from; calls that may write keep their order within a source.
    """

    tool: Tool
    invoke: Invoke
    validator: Validator
    read_only: bool = False
    source: str = ""

    @property
    def name(self) -> str:
        return self.tool.name


def read_only(function: Function) -> Function:
    """Marks a function as a tool that changes nothing: it needs no confirmation, and its calls may run in parallel."""
    setattr(function, READ_ONLY, True)
    return function


def from_function(function: Callable[..., object], name: str = "", description: str = "") -> BoundTool:
    """A tool from a function: schema from its signature, descriptions from its docstring (`Args:` or `:param name:`).

    It runs on a thread of this process, where an exceeded time limit cannot stop it. Raises ValueError for a signature
    without a schema.
    """
    name = name or function.__name__
    about, fields = _docstring(inspect.getdoc(function) or "")
    try:
        schema = _without_titles(TypeAdapter(cast(Any, function)).json_schema())
        checked = validate_call(function)
    except (PydanticUserError, NameError) as error:
        raise ValueError(f"tool '{name}': {str(error).splitlines()[0]}") from error
    if schema.get("type") != "object":
        raise ValueError(f"tool '{name}': positional-only parameters are not supported: arguments are passed by name")
    for field, text in fields.items():
        if field in schema.get("properties", {}):
            schema["properties"][field].setdefault("description", text)
    function_spec = {"name": name, "description": description or about, "parameters": schema}
    spec = {"type": "function", "function": function_spec}
    return from_schema(spec, on_thread(checked), getattr(function, READ_ONLY, False))


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


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """(description, {argument: description}) of a docstring."""
    about = re.split(r"^\s*(?:Args|Arguments|Parameters|Returns|Raises):\s*$|^\s*:\w+", text, flags=re.M)[0]
    fields = re.findall(r"^\s*:param (?:\w+ )?(\w+):\s*(.+)$", text, flags=re.M)
    section = re.search(r"^\s*(?:Args|Arguments|Parameters):\s*\n((?:[ \t]+.*(?:\n|$)|\n)+)", text, flags=re.M)
    if section:
        fields += re.findall(r"^[ \t]+(\w+)(?: \([^)]*\))?:\s*(.+)$", section[1], flags=re.M)
    return " ".join(about.split()), {name: description.strip() for name, description in fields}


def _without_titles(schema: Any, names: bool = False) -> Any:
    """Drops the titles that pydantic adds to fields. `names`: the keys of `schema` are field names."""
    if isinstance(schema, list):
        return [_without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: part for key, part in schema.items() if names or key != "title"}
    return {
        key: part
        if not names and key in ("default", "enum", "const", "examples")
        else _without_titles(part, names=not names and key in ("properties", "$defs"))
        for key, part in kept.items()
    }
