"""The JSON schema of a tool's arguments: reading it, and validating arguments against it. Runs no tool."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from swift.agent.arguments import excerpt
from swift.chat import Tool


def checker(schema: dict[str, Any]) -> Validator:
    """The validator for a schema, of the draft that it names or the latest that accepts it.

    Raises SchemaError for an invalid schema.
    """
    return _checker(json.dumps(schema, default=str))


@lru_cache(maxsize=256)
def _checker(text: str) -> Validator:
    schema = json.loads(text)
    latest: type[Validator] = validator_for(schema, default=Draft202012Validator)
    drafts: list[type[Validator]] = [latest, *([] if "$schema" in schema else [Draft7Validator, Draft4Validator])]
    for draft in drafts:
        try:
            draft.check_schema(schema)
        except SchemaError:
            continue
        # An empty registry: a schema of unknown origin must not trigger downloads of what it references.
        return draft(schema, registry=Registry())
    latest.check_schema(schema)
    raise AssertionError(schema)


def argument_schema(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments. Converts ms-agent's list of `{name, description, required}`.

    Raises ValueError for other parameters.
    """
    parameters = tool.parameters
    if isinstance(parameters, dict):
        return {"type": "object", **parameters}
    if not parameters:
        return {"type": "object"}
    if not isinstance(parameters, list) or not all(isinstance(field, dict) and "name" in field for field in parameters):
        raise ValueError(f"tool '{tool.name}': parameters must be a JSON schema or a list of objects with a name")
    properties = {
        str(field["name"]): {key: text for key, text in field.items() if key == "description"} for field in parameters
    }
    required = [str(field["name"]) for field in parameters if str(field.get("required")).lower() == "true"]
    return {"type": "object", "properties": properties, "required": required}


def violation(validator: Validator, arguments: dict[str, Any]) -> str:
    """How the arguments violate the schema, "" if they do not."""
    try:
        error = best_match(validator.iter_errors(arguments))
    except Unresolvable as unresolvable:
        return f"the tool's schema refers to what is not in it: {excerpt(str(unresolvable))}"
    if error is None:
        return ""
    place = error.json_path.removeprefix("$").removeprefix(".")
    return excerpt(f"{place}: {error.message}" if place else error.message)
