"""The ways in which programs write one and the same schema of a function. Changes no meaning.

Tools are described by Pydantic, by OpenAI's strict mode, by OpenAPI documents and by people. A model that only ever saw
one of these mistakes the keywords of another for parameters.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

Schema = dict[str, Any]


def closed(function: Schema) -> Schema:
    """No further properties, as SWIFT describes Python functions."""
    return {**function, "parameters": _objects(function["parameters"], _close)}


def strict(function: Schema) -> Schema:
    """OpenAI's strict mode."""
    return {**closed(function), "strict": True}


def titled(function: Schema) -> Schema:
    """Pydantic's notation: titles, and optional values that may be null."""
    schema = _objects(function["parameters"], _title)
    schema = {**schema, "properties": {name: _nullable(schema, name) for name in schema["properties"]}}
    return {**function, "parameters": {**schema, "title": function["name"]}}


def described_first(function: Schema) -> Schema:
    """Descriptions before types, and what is required before the properties."""
    schema = _objects(function["parameters"], _reorder)
    return {"description": function["description"], "name": function["name"], "parameters": schema}


def in_words(function: Schema) -> Schema:
    """Choices and defaults in descriptions, where people write them; no list of what is required if nothing is."""
    schema = function["parameters"]
    properties = {name: _worded(each) for name, each in schema["properties"].items()}
    made = {**schema, "properties": properties}
    if not made["required"]:
        del made["required"]
    return {**function, "parameters": made}


DIALECTS: Mapping[Callable[[Schema], Schema], float] = {
    dict: 0.4,
    closed: 0.2,
    strict: 0.05,
    titled: 0.1,
    described_first: 0.1,
    in_words: 0.15,
}
"""How a schema is written -> share of conversations."""


def draw(rng: random.Random) -> Callable[[Schema], Schema]:
    """A dialect for all functions of a conversation. It takes `{"name", "description", "parameters"}`."""
    return rng.choices(list(DIALECTS), list(DIALECTS.values()))[0]


def _objects(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """The schema with each of its objects changed, the inner ones first."""
    if "properties" in schema:
        inner = {name: _objects(each, change) for name, each in schema["properties"].items()}
        return change({**schema, "properties": inner})
    return schema


def _close(schema: Schema) -> Schema:
    return {**schema, "additionalProperties": False}


def _title(schema: Schema) -> Schema:
    titles = {name: name.replace("_", " ").title() for name in schema["properties"]}
    properties = {name: {"title": titles[name], **each} for name, each in schema["properties"].items()}
    return {**schema, "properties": properties}


def _nullable(schema: Schema, name: str) -> Schema:
    found: Schema = schema["properties"][name]
    if name in schema["required"] or found.get("type") == "object" or "default" in found:
        return found
    value = {key: found[key] for key in ("type", "items", "enum") if key in found}
    rest = {key: each for key, each in found.items() if key not in value}
    return {"anyOf": [value, {"type": "null"}], "default": None, **rest}


def _reorder(schema: Schema) -> Schema:
    properties = {name: _with_first(each, "description") for name, each in schema["properties"].items()}
    return _with_first(_with_first({**schema, "properties": properties}, "required"), "description")


def _with_first(schema: Schema, key: str) -> Schema:
    return {key: schema[key], **schema} if key in schema else schema


def _worded(schema: Schema) -> Schema:
    if "description" not in schema:
        return schema
    found = dict(schema)
    text = found["description"].rstrip(".")
    if choices := found.pop("enum", None):
        text += f". One of: {', '.join(map(str, choices))}"
    if "default" in found:
        text += f". Default is {found.pop('default')}"
    return {**found, "description": text + "."}
