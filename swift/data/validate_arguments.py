"""Validates tool schemas, and calls against them. Knows no message and no tool-call format.

jsonschema decides. It takes 50 us per call and 1 ms per schema, so a fast check accepts common valid cases first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from swift.agent.schemas import argument_schema
from swift.chat import Tool
from swift.data.row_values import BadRow, RowWarning
from swift.system.nearest import closest

LONGEST = 200  # characters of a message, which quotes the invalid value

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_MEANT = {
    **dict.fromkeys(("str", "text", "char", "varchar", "date", "datetime", "enum"), "string"),
    **dict.fromkeys(("int", "long"), "integer"),
    **dict.fromkeys(("float", "double", "decimal", "numeric"), "number"),
    **dict.fromkeys(("bool",), "boolean"),
    **dict.fromkeys(("list", "tuple", "set"), "array"),
    **dict.fromkeys(("dict", "map", "json"), "object"),
    **dict.fromkeys(("none",), "null"),
}
# Keywords that do not restrict values.
_REMARKS = frozenset({"description", "title", "default", "example", "examples", "deprecated"})


def validate_tools(tools: Sequence[Tool]) -> Iterator[RowWarning]:
    """Warnings about a list of tools: duplicate names, parameters that are not a JSON schema."""
    if len({tool.name for tool in tools}) < len(tools):
        names = [tool.name for tool in tools]
        twice = next(name for name in names if names.count(name) > 1)
        yield RowWarning("tool-twice", f"two tools have the name {twice!r}")
    for tool in tools:
        try:
            schema = argument_schema(tool)
            reason = "" if _is_surely_sound(schema) else _why_invalid(_written(schema))
        except ValueError as error:
            reason = str(error).partition(": ")[2]
        if reason:
            yield RowWarning("bad-schema", f"tool {tool.name!r}: {reason}")


def validate_arguments(tool: Tool, arguments: dict[str, Any], where: str, strict: bool = True) -> Iterator[RowWarning]:
    """Warnings about a call's arguments. Raises BadRow for arguments that the schema forbids.

    `strict` False: the schema was parsed from prose, so a violation is only a warning.
    """
    try:
        schema = argument_schema(tool)
    except ValueError:
        return  # validate_tools reports it
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    fits = _surely_valid(schema, arguments)
    if fits and (not properties or arguments.keys() <= properties.keys()):
        return
    reason = "" if fits else _violation(schema, arguments)
    if reason:
        required = schema.get("required")
        optional = [
            name
            for name, value in arguments.items()
            if value is None and name in properties and not (isinstance(required, list) and name in required)
        ]
        given = {name: value for name, value in arguments.items() if name not in optional}
        if optional and not _violation(schema, given):
            yield RowWarning("odd-arguments", f"{where}: {optional[0]!r} is null; omit an optional argument")
            arguments, reason = given, ""
    if reason and strict:
        raise BadRow("misfit-arguments", f"{where}: {reason}")
    if reason:
        yield RowWarning("odd-arguments", f"{where}: {reason}")
    elif (unknown := _first_unknown(arguments, properties)) and _lists_all(schema):
        yield RowWarning("odd-arguments", f"{where}: {_unknown(unknown, properties)}")


def _first_unknown(arguments: dict[str, Any], properties: dict[str, Any]) -> str:
    return next((name for name in arguments if name not in properties), "") if properties else ""


def _lists_all(schema: dict[str, Any]) -> bool:
    """Whether the schema lists all properties."""
    return not any(key in schema for key in ("additionalProperties", "patternProperties", "anyOf", "allOf", "oneOf"))


def _unknown(name: str, properties: dict[str, Any]) -> str:
    return f"unknown argument {name!r}{_nearest(name, list(map(str, properties)))}"


def _nearest(word: str, known: Sequence[str]) -> str:
    near = closest(word, known, 1)
    if not near:
        near = [each for each in known if each.casefold() == word.casefold()][:1]
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known[:8])}" if known else ""


# Fast checks ----------------------------------------------------------------------------------------------------------


def _is_surely_sound(schema: Any) -> bool:
    """True for a valid schema of the common kind; False means undecided."""
    if not isinstance(schema, dict):
        return schema is True or schema is False
    for key, value in schema.items():
        if key == "type":
            if not isinstance(value, str) or value not in _TYPES:
                return False
        elif key == "properties":
            if not isinstance(value, dict) or not all(map(_is_surely_sound, value.values())):
                return False
        elif key == "required":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                return False
            if len(set(value)) < len(value):
                return False
        elif key == "items" or key == "additionalProperties":
            if not _is_surely_sound(value):
                return False
        elif key == "enum":
            if not isinstance(value, list):
                return False
        elif key == "description" or key == "title":
            if not isinstance(value, str):
                return False
        elif key not in ("default", "example"):
            return False
    return True


def _surely_valid(schema: Any, value: Any) -> bool:
    """True for a value that the schema allows; False means undecided."""
    if not isinstance(schema, dict):
        return schema is True
    for key, rule in schema.items():
        if key == "type":
            types = _TYPES.get(rule) if isinstance(rule, str) else None
            if types is None or not isinstance(value, types) or (isinstance(value, bool) and rule != "boolean"):
                return False
        elif key == "properties":
            if isinstance(value, dict):
                if not isinstance(rule, dict):
                    return False
                for name, part in value.items():
                    if name in rule and not _surely_valid(rule[name], part):
                        return False
        elif key == "required":
            if isinstance(value, dict) and not (isinstance(rule, list) and all(name in value for name in rule)):
                return False
        elif key == "items":
            if isinstance(value, list) and not all(_surely_valid(rule, part) for part in value):
                return False
        elif key == "enum":
            if not isinstance(rule, list) or not isinstance(value, str) or value not in rule:
                return False
        elif key not in _REMARKS:
            return False
    return True


# jsonschema ----------------------------------------------------------------------------------------------------------


def _written(schema: dict[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False, default=str)


@lru_cache(4096)
def _why_invalid(written: str) -> str:
    """Why a schema is invalid, "" if it is valid."""
    schema = json.loads(written)
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        place = _place(error).removesuffix(".type")
        word = error.instance
        if error.validator in ("enum", "anyOf") and isinstance(word, str):
            near = _MEANT.get(word.casefold()) or next(iter(closest(word.casefold(), _TYPES, 1)), "")
            hint = f"; did you mean {near!r}?" if near else f"; known: {', '.join(_TYPES)}"
            return f"{place}: {word!r} is not a JSON type{hint}"
        return _short(f"parameters is not a JSON schema: {place}: {error.message}")
    return ""


@lru_cache(1024)
def _validator(written: str) -> Validator | None:
    """The validator of a schema; None for an invalid schema."""
    if _why_invalid(written):
        return None
    schema = json.loads(written)
    # An empty registry: a schema of unknown origin must not trigger downloads of what it references.
    return validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())


def _violation(schema: dict[str, Any], arguments: dict[str, Any]) -> str:
    """How the arguments violate the schema, "" if they do not."""
    validator = _validator(_written(schema))
    if validator is None:
        return ""
    try:
        error = best_match(islice(validator.iter_errors(arguments), 20))
    except (Unresolvable, re.error, RecursionError):  # the schema's fault: it decides nothing
        return ""
    return "" if error is None else _short(_described(error, arguments))


def _described(error: ValidationError, arguments: dict[str, Any]) -> str:
    place, rule = _place(error), cast(Any, error.validator_value)
    at = f"{place}: " if place else ""
    if error.validator == "required" and isinstance(error.instance, dict):
        name = next(name for name in rule if name not in error.instance)
        properties = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        strange = [each for each in error.instance if each not in properties]
        near = closest(name, strange, 1)
        return f"{at}{name!r} is missing" + (f"; is it {near[0]!r}?" if near else "")
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        properties = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        if strange := [each for each in error.instance if each not in properties]:
            return at + _unknown(strange[0], properties)
    if error.validator == "type":
        return f"{at}{json.dumps(error.instance, ensure_ascii=False)} is not of type {rule!r}"
    if error.validator == "enum" and isinstance(error.instance, str):
        known = [each for each in rule if isinstance(each, str)]
        return f"{at}{error.instance!r} is not one of the allowed values{_nearest(error.instance, known)}"
    return at + error.message


def _place(error: ValidationError | SchemaError) -> str:
    return error.json_path.removeprefix("$").removeprefix(".")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
