"""Calls in XML-like text, whose arguments have tags of their own. Knows no form's tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable

from swift.agent import PYTHON_WORDS, ArgumentTags, Notation
from swift.agent.jsontext import dumps, is_json, loads
from swift.agent.tools import argument_schema, checker
from swift.chat import Tool, ToolCall


def write_arguments(arguments: str, tags: ArgumentTags) -> str:
    """The arguments of a call. Raises ValueError where they are no JSON object."""
    values = loads(arguments) if is_json(arguments) else None
    if not isinstance(values, dict):
        raise ValueError(f"each argument is written in tags, so they must be a JSON object, not {arguments[:60]!r}")
    return tags.joint.join(
        f"{tags.before}{name}{tags.between}{write_value(value, tags.notation)}{tags.after}"
        for name, value in in_order(values, tags.notation)
    )


def write_value(value: Any, notation: Notation) -> str:
    """A value as the notation has it. Raises ValueError for one that JSON does not know."""
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
    """The letters of a text as they stand between its quotes."""
    return text.translate({ord(letter): written for letter, written in notation.escapes})


def in_order(values: dict[str, Any], notation: Notation) -> list[tuple[str, Any]]:
    """Names and values in the order in which they are written."""
    return sorted(values.items(), key=lambda item: item[0].lower()) if notation.deep else list(values.items())


_CONSTANTS = (True, False, None)


def read_calls(
    text: str, call: re.Pattern[str], argument: re.Pattern[str], tools: Sequence[Tool] = ()
) -> tuple[str, tuple[ToolCall, ...]]:
    """The text before the calls, without the white space between, and the calls.

    Both patterns have two groups: a name, and what it stands for.
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
    """A value that stands bare: a text only where it reads as nothing else, or where nothing else fits the schema.

    JSON and Python's words for true, false and null are read in every notation: models mix them.
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
    """What one of Python's words stands for."""
    return _CONSTANTS[PYTHON_WORDS.index(word)]


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether the schema allows the value; one that cannot be read allows all."""
    try:
        return checker(schema).is_valid(value)
    except (SchemaError, Unresolvable, re.error):
        return True


def value_schemas(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schema of each argument by itself, with what it may refer to."""
    shared = definitions(schema)
    return {name: {**shared, **as_object(about)} for name, about in (schema.get("properties") or {}).items()}


def as_object(schema: Any) -> dict[str, Any]:
    """A schema may be true or false instead: anything, nothing."""
    return schema if isinstance(schema, dict) else {} if schema else {"not": {}}


def definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """What a schema's parts may refer to."""
    return {key: value for key, value in schema.items() if key in ("$defs", "definitions")}
