"""The description of a Python function as a tool, and the function with validated arguments. Calls nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from pydantic import TypeAdapter, validate_call
from pydantic.errors import PydanticUserError


class Described(NamedTuple):
    """`spec`: OpenAI's format. `function`: converts its arguments to the types of the signature."""

    spec: dict[str, Any]
    function: Callable[..., object]


def describe(function: Callable[..., object], name: str = "", description: str = "") -> Described:
    """The schema is that of the signature, descriptions are the docstring's (`Args:` or `:param name:`).

    Raises ValueError for a signature without a schema.
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
    described = {"name": name, "description": description or about, "parameters": schema}
    return Described({"type": "function", "function": described}, checked)


_TEXT = r"[ \t]*(.*(?:\n\1[ \t]+\S.*)*)"
"""A description, with the lines below it that are indented further than its first one."""
_SECTION = re.compile(r"^\s*(?:Args|Arguments|Parameters):\s*\n((?:[ \t]+.*(?:\n|$)|\n)+)", re.M)
_ARGUMENT = re.compile(r"^([ \t]+)\*{0,2}(\w+)(?: \([^)]*\))?:" + _TEXT, re.M)
_PARAM = re.compile(r"^([ \t]*):param (?:[^:\n]+ )?(\w+):" + _TEXT, re.M)


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """(description, {argument: description}) of a docstring."""
    about = re.split(r"^\s*(?:Args|Arguments|Parameters|Returns|Raises):\s*$|^\s*:\w+", text, flags=re.M)[0]
    found = _PARAM.findall(text)
    if section := _SECTION.search(text):
        found += _ARGUMENT.findall(section[1])
    return _words(about), {name: words for _, name, lines in found if (words := _words(lines))}


def _words(text: str) -> str:
    return " ".join(text.split())


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
