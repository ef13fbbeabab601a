"""The schemas of OpenAPI 3.0 and 3.1 -> JSON schemas of requests that stand alone. Knows no parameter and no body.

A schema that is referred to once takes the place of its reference; one that is referred to several times, or contains
itself, stays a local reference to `$defs`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from swift.tools.openapi.document import Document, Unsupported, pointer_steps

Schema = dict[str, Any]
MAX_INLINED = 8
"""Schemas that stand within each other in the place of their references."""

_ONE = {
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
_MANY = {"allOf", "anyOf", "oneOf", "prefixItems"}
_NAMED = {"dependentSchemas", "patternProperties", "properties"}
_SAME_VALUE = ("$ref", "allOf", "anyOf", "oneOf", "not", "if", "then", "else")
"""Keywords whose schemas apply to the same value."""
_ANNOTATIONS = {"default", "description"}
_LEFT_OUT = {
    "$anchor", "$comment", "$defs", "$dynamicAnchor", "$schema", "definitions", "deprecated", "discriminator",
    "example", "examples", "externalDocs", "nullable", "readOnly", "title", "writeOnly", "xml",
}  # fmt: skip
"""Keywords that constrain nothing, or that `converted` replaces."""
_OWN_FORMATS = ("binary", "byte", "password")
"""Formats of texts in OpenAPI 3.0 that JSON Schema does not have and guided decoding does not know."""
_UNSUPPORTED = ("$dynamicRef", "$id", "$recursiveRef")
_DEFS = "#/$defs/"


class Schemas:
    """Converts the schemas of one operation and collects what they refer to."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._names: dict[str, str] = {}  # reference in the document -> name in $defs
        self._defs: dict[str, Any] = {}
        self._waiting: list[str] = []  # references whose targets are not yet converted

    def converted(self, schema: Any, place: str) -> Any:
        """A schema in the dialect of 2020-12, for requests: without properties that only replies have.

        Raises Unsupported.
        """
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise Unsupported(f"{place}: a schema must be an object")
        if foreign := next((key for key in _UNSUPPORTED if key in schema), None):
            raise Unsupported(f"{place}: {foreign} is not supported")
        made: Schema = {}
        for key, value in schema.items():
            at = f"{place}.{key}"
            if key == "$ref":
                made[key] = self._reference(value, at)
            elif key in _NAMED:
                if not isinstance(value, dict):
                    raise Unsupported(f"{at}: must be an object")
                made[key] = {name: self.converted(each, f"{at}.{name}") for name, each in value.items()}
            elif key in _MANY or (key == "items" and isinstance(value, list)):  # a list of items: until Draft 2019-09
                if not isinstance(value, list):
                    raise Unsupported(f"{at}: must be a list")
                made[key] = [self.converted(each, f"{at}[{number}]") for number, each in enumerate(value)]
            elif key in _ONE:
                made[key] = self.converted(value, at)
            elif key not in _LEFT_OUT and not key.startswith("x-") and not (key == "format" and value in _OWN_FORMATS):
                made[key] = value
        self._without_read_only(made, schema, place)
        _exclusive(made)
        return _nullable(made) if schema.get("nullable") is True else made

    def complete(self, root: Schema) -> Schema:
        """A converted schema with the targets of its references. Raises Unsupported for one that never ends."""
        while self._waiting:
            reference = self._waiting.pop()
            name, place = self._names[reference], ".".join(pointer_steps(reference))
            self._defs[name] = self.converted(self._document.target(reference, place), place)
        used, shared = self._used(root)
        if circle := _circle({name: self._defs[name] for name in used}):
            raise Unsupported(f"the schema '{circle}' refers to itself and to nothing else")
        made: Schema = self._inlined(root, shared)
        defs = {name: self._inlined(self._defs[name], shared) for name in self._defs if name in shared}
        return {**made, "$defs": defs} if defs else made

    def _reference(self, reference: Any, place: str) -> str:
        if not isinstance(reference, str):
            raise Unsupported(f"{place}: must be a text")
        if reference not in self._names:
            self._document.target(reference, place.removesuffix(".$ref"))  # its errors name the place
            self._names[reference] = name = self._name(reference)
            self._defs[name] = True  # the order of $defs is the order of references
            self._waiting.append(reference)
        return _DEFS + self._names[reference]

    def _name(self, reference: str) -> str:
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", (pointer_steps(reference) or ["document"])[-1]) or "schema"
        number, name = 2, base
        while name in self._defs:
            name, number = f"{base}_{number}", number + 1
        return name

    def _without_read_only(self, made: Schema, schema: Schema, place: str) -> None:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return
        read_only = [name for name, each in properties.items() if self._is_read_only(each, f"{place}.{name}")]
        made["properties"] = {name: each for name, each in made["properties"].items() if name not in read_only}
        if isinstance(required := made.get("required"), list) and read_only:
            made["required"] = [name for name in required if name not in read_only]

    def _is_read_only(self, schema: Any, place: str) -> bool:
        if isinstance(schema, dict) and schema.get("readOnly") is True:
            return True
        target = self._document.resolved(schema, place)
        return isinstance(target, dict) and target.get("readOnly") is True

    def _used(self, root: Schema) -> tuple[set[str], set[str]]:
        """(the names of all schemas that `root` reaches, those that stay in $defs)."""
        times: Counter[str] = Counter()
        levels: dict[str, int] = {}
        waiting: list[tuple[Any, int]] = [(root, 0)]
        while waiting:
            schema, level = waiting.pop()
            for name in _references(schema):
                times[name] += 1
                if times[name] == 1:
                    levels[name] = level + 1
                    waiting.append((self._defs[name], level + 1))
        return set(times), {name for name in times if times[name] > 1 or levels[name] % MAX_INLINED == 0}

    def _inlined(self, schema: Any, shared: set[str]) -> Any:
        if isinstance(schema, list):
            return [self._inlined(each, shared) for each in schema]
        if not isinstance(schema, dict):
            return schema
        made: Schema = {}
        for key, value in schema.items():
            if key in _NAMED:
                made[key] = {name: self._inlined(each, shared) for name, each in value.items()}
            else:
                made[key] = self._inlined(value, shared) if key in _ONE | _MANY else value
        name = _name_of(made.get("$ref"))
        if name is None or name in shared:
            return made
        del made["$ref"]
        target = self._inlined(self._defs[name], shared)
        if not made:
            return target
        if isinstance(target, dict) and made.keys() <= _ANNOTATIONS:
            return {**target, **made}
        return {**made, "allOf": [target, *made.get("allOf", [])]}


def _exclusive(made: Schema) -> None:
    """Boolean limits of OpenAPI 3.0 -> the numbers of JSON Schema."""
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(flag := made.get(exclusive), bool):
            del made[exclusive]
            if flag and limit in made:
                made[exclusive] = made.pop(limit)


def _nullable(made: Schema) -> Schema:
    null = {"type": "null"}
    if any(key in made for key in _SAME_VALUE):
        about = {key: made[key] for key in _ANNOTATIONS & made.keys()}
        return {"anyOf": [{key: value for key, value in made.items() if key not in about}, null], **about}
    if isinstance(kind := made.get("type"), str):
        made["type"] = [kind, "null"]
    if isinstance(values := made.get("enum"), list) and None not in values:
        made["enum"] = [*values, None]
    return made


def _name_of(reference: Any) -> str | None:
    return reference.removeprefix(_DEFS) if isinstance(reference, str) else None


def _references(schema: Any) -> Iterator[str]:
    """The names in $defs that a schema refers to itself, each as often as it does."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        if (name := _name_of(part.get("$ref"))) is not None:
            yield name
        for key, value in part.items():
            if key in _NAMED:
                waiting += value.values()
            elif key in _ONE | _MANY:
                waiting += value if isinstance(value, list) else [value]


def _circle(defs: Schema) -> str:
    """The name of a schema that is reached from itself without a step into a property or an item; "" if none is."""
    same = {name: set(_same_value(schema)) for name, schema in defs.items()}
    for name in same:
        reached, waiting = set[str](), [*same[name]]
        while waiting:
            other = waiting.pop()
            if other == name:
                return name
            if other not in reached:
                reached.add(other)
                waiting += same[other]
    return ""


def _same_value(schema: Any) -> Iterator[str]:
    """The names in $defs that a schema applies to the value that it applies to itself."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        if (name := _name_of(part.get("$ref"))) is not None:
            yield name
        for key in _SAME_VALUE[1:]:
            value = part.get(key)
            waiting += value if isinstance(value, list) else [value]
