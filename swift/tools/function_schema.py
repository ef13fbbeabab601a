"""The description of a Python function as a tool, and the function with validated arguments. Calls nothing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import docstring_parser
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
        converted = validate_call(functools.wraps(function)(_as_they_are))
    except (PydanticUserError, NameError) as error:
        raise ValueError(f"tool '{name}': {str(error).splitlines()[0]}") from error
    if schema.get("type") != "object":
        raise ValueError(f"tool '{name}': positional-only parameters are not supported: arguments are passed by name")
    for field, text in fields.items():
        if field in schema.get("properties", {}):
            schema["properties"][field].setdefault("description", text)

    @functools.wraps(function)
    def run(**arguments: object) -> object:
        positional, named = converted(**arguments)
        return function(*positional, **named)  # not within pydantic, which a call that never ends would abort at exit

    described = {"name": name, "description": description or about, "parameters": schema}
    return Described({"type": "function", "function": described}, run)


def _as_they_are(*positional: object, **named: object) -> tuple[tuple[object, ...], dict[str, object]]:
    return positional, named


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """(description, {argument: description}) of a docstring in Google's, NumPy's, Sphinx's or Epydoc's style."""
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return " ".join(text.split()), {}
    fields = {each.arg_name: _one_line(each.description) for each in parsed.params}
    return _one_line(parsed.description), {name: text for name, text in fields.items() if text}


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


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
