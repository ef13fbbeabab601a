"""Calls in XML-like text with a tag per argument. Knows no format's tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable

from swift.agent import PYTHON_WORDS, ArgumentTags, Notation
from swift.agent.jsontext import dumps, is_json, loads
from swift.agent.schemas import argument_schema, checker
from swift.chat import Tool, ToolCall


def write_arguments(arguments: str, tags: ArgumentTags) -> str:
    """The text of a call's arguments. Raises ValueError if they are not a JSON object."""
    values = loads(arguments) if is_json(arguments) else None
    if not isinstance(values, dict):
        raise ValueError(f"each argument has a tag, so arguments must be a JSON object, not {arguments[:60]!r}")
    return tags.joint.join(
        f"{tags.before}{name}{tags.between}{write_value(value, tags.notation)}{tags.after}"
        for name, value in in_order(values, tags.notation)
    )


def write_value(value: Any, notation: Notation) -> str:
    """A value in the notation. Raises ValueError for a value that JSON cannot represent."""
    if isinstance(value, str):
        return f"{notation.quote}{escape(value, notation)}{notation.quote}"
    if value is None or isinstance(value, bool):
        return notation.words[_CONSTANTS.index(value)]
    if notation.deep and isinstance(value, list):
        return f"[{','.join(write_value(each, notation) for each in value)}]"
    if notation.deep and isinstance(value, dict):
        members = in_order(value, notation)
        return f"{{{','.join(f'{key}:{write_value(each, notation)}' for key, each in members)}}}"
    return dumps(value)


def escape(text: str, notation: Notation) -> str:
    """A string with its characters escaped."""
    return text.translate({ord(letter): written for letter, written in notation.escapes})


def in_order(values: dict[str, Any], notation: Notation) -> list[tuple[str, Any]]:
    """Names and values in the order of writing."""
    return sorted(values.items(), key=lambda item: item[0].lower()) if notation.deep else list(values.items())


_CONSTANTS = (True, False, None)


def read_calls(
    text: str, call: re.Pattern[str], argument: re.Pattern[str], tools: Sequence[Tool] = ()
) -> tuple[str, tuple[ToolCall, ...]]:
    """(text before the calls, stripped at its end; calls).

    Both patterns have two groups: the name, and the arguments or the value.
    """
    found = list(call.finditer(text))
    if not found:
        return text, ()
    offered = {tool.name: tool for tool in tools}
    calls = []
    for match in found:
        name = match[1].strip()
        schemas = value_schemas(argument_schema(offered[name])) if name in offered else {}
        values = {key: read_value(value, schemas.get(key)) for key, value in argument.findall(match[2])}
        calls.append(ToolCall(name, dumps(values)))
    return text[: found[0].start()].rstrip(), tuple(calls)


def read_value(text: str, schema: dict[str, Any] | None = None) -> Any:
    """An unquoted value: a string only if it cannot be parsed otherwise, or if only a string fits the schema.

    The constants of JSON and Python are read in every notation: models mix them.
    """
    if text in PYTHON_WORDS:
        value = constant(text)
    elif is_json(text):
        value = loads(text)
    else:
        return text
    if schema is None:
        return value
    either = [text, value] if isinstance(value, str) else [value, text]
    return next((each for each in either if fits(each, schema)), value)


def constant(word: str) -> bool | None:
    """The value of a Python constant."""
    return _CONSTANTS[PYTHON_WORDS.index(word)]


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether the schema allows the value; an invalid schema allows all."""
    try:
        return checker(schema).is_valid(value)
    except (SchemaError, Unresolvable, re.error):
        return True


def value_schemas(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schema of each argument, with the definitions it may reference."""
    shared = definitions(schema)
    return {name: {**shared, **as_object(about)} for name, about in (schema.get("properties") or {}).items()}


def as_object(schema: Any) -> dict[str, Any]:
    """The object form of a schema that is true (anything) or false (nothing)."""
    return schema if isinstance(schema, dict) else {} if schema else {"not": {}}


def definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """The definitions of a schema."""
    return {key: value for key, value in schema.items() if key in ("$defs", "definitions")}
