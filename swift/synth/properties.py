"""The properties of a JSON schema -> parameters of the catalogue, each with its kind and values. Knows no question."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swift.synth.catalogue import Parameter
from swift.synth.kinds import Kind, kind_of, label, recognised, type_of
from swift.synth.names import singular
from swift.synth.schema_values import NoValues, listed, values_of
from swift.synth.values import COUNT

DEPTH = 6
"""References and objects within each other that are followed."""


@dataclass(frozen=True)
class Property:
    """A parameter with what the grammars need to know of it. `inner`: the properties of a nested object."""

    name: str
    about: str
    parameter: Parameter
    kind: Kind
    inner: tuple[Property, ...] = ()

    @property
    def label(self) -> str:
        """How users call it: "number of nights"."""
        called = label(self.name, self.about)
        if any(re.search(rf"\b{re.escape(each.lower())}\b", called.lower()) for each in self._choices()):
            return label(self.name, "")  # the description begins with a value: "Metric or imperial"
        return called

    def _choices(self) -> list[str]:
        """The values of an enum, or those that the description lists."""
        names, are_all = listed(self.about)
        return [*map(str, self.parameter.enum), *(names if are_all else ())]


def properties_of(
    schema: Mapping[str, Any], rng: random.Random, given: Mapping[str, Sequence[Any]], owner: str
) -> tuple[Property, ...]:
    """The properties of an object's schema. `given`: values from examples, by the path of the property. `owner`: what
    the object is about, for properties that are called "name". Raises NoValues for a required one without values;
    optional ones without values are left out."""
    return tuple(_Reader(schema, rng, given, owner).properties(schema))


@dataclass(frozen=True)
class _Reader:
    """Reads the properties of one object. `root`: the schema that references are relative to; `before`: the path of the
    object, with a dot at its end; `depth`: of the objects that it is in."""

    root: Mapping[str, Any]
    rng: random.Random
    given: Mapping[str, Sequence[Any]]
    owner: str
    before: str = ""
    depth: int = 0

    def properties(self, schema: Mapping[str, Any]) -> Iterator[Property]:
        required = schema.get("required", ())
        for name, each in schema.get("properties", {}).items():
            is_optional = name not in required
            try:
                yield self._property(name, resolved(each, self.root), is_optional)
            except NoValues:
                if not is_optional:
                    raise

    def _property(self, name: str, schema: Mapping[str, Any], is_optional: bool) -> Property:
        about, type_ = str(schema.get("description", "")), type_of(schema)
        path = f"{self.before}{name}"
        if type_ == "object" and self.depth == 0 and schema.get("properties"):
            inner = tuple(replace(self, owner=name, before=f"{path}.", depth=1).properties(schema))
            if not inner:
                raise NoValues(f"{path}: no value is known")
            parameters = {each.name: each.parameter for each in inner}
            made = Parameter(about, "object", None, is_optional, parameters=parameters)
            return Property(name, about, made, recognised(name, about, "object", self.owner), inner)
        given = self.given.get(path, ())
        if type_ == "array":
            items = resolved(schema.get("items") or {}, self.root)
            shown = {**items, "description": f"{items.get('description', '')} {about}".strip()}
            kind = recognised(singular(name), about, type_of(items), self.owner)
            low, high = max(1, schema.get("minItems", 1)), min(schema.get("maxItems", 3), 8)
            of = self._values(singular(name), shown, kind, given)
            if isinstance(of, list) and schema.get("uniqueItems"):
                high = min(high, len(of))
            made = Parameter(about, "array", of, is_optional, count=(low, max(low, high)))
            return Property(name, about, made, kind)
        kind = kind_of(name, schema, self.owner)
        of = self._values(name, schema, kind, given)
        what = about
        if of in ("date", "time"):  # such values are only converted where the description names the format
            what = f"{about} ({'YYYY-MM-DD' if of == 'date' else 'HH:MM'})"
        enum = tuple(schema.get("enum", ()))
        return Property(name, about, Parameter(what, type_, of, is_optional, enum, schema.get("default")), kind)

    def _values(self, name: str, schema: Mapping[str, Any], kind: Kind, given: Sequence[Any]) -> Any:
        """As `swift.synth.values.draw` takes them. Raises NoValues if the schema allows none that is known."""
        if not schema.get("enum"):
            if type_of(schema) == "object":
                return self._objects(schema, name)
            if type_of(schema) == "array":
                raise NoValues(f"{name}: arrays within arrays are not supported")
        return values_of(name, schema, kind, self.rng, given)

    def _objects(self, schema: Mapping[str, Any], name: str) -> list[list[Any]]:
        """Objects of a list, or within an object: pairs of their words and their value."""
        if self.depth > DEPTH:
            raise NoValues(f"{name}: its schema contains itself")
        inner = replace(self, given={}, owner=name, before="", depth=self.depth + 2)
        fields = list(inner.properties(schema))
        if not fields:
            keys = ["colour", "size", "weight", "owner", "source", "level"]
            return [[f"{key} {each}", {key: each}] for key in keys for each in ("red", "large", "7", "kim")]
        return [_object(fields, self.rng) for _ in range(COUNT)]


def _object(fields: Sequence[Property], rng: random.Random) -> list[Any]:
    """The words and the value of an object with the required and some optional fields."""
    given = [each for each in fields if not each.parameter.optional or rng.random() < 0.4] or fields[:1]
    drawn = {each.name: each.parameter.draw(rng) for each in given}
    texts = []
    for each in given:
        said = drawn[each.name].words
        if each.parameter.type == "boolean":
            texts.append(each.label if drawn[each.name].value else f"no {each.label}")
        elif each.parameter.type in ("integer", "number") and not each.kind.unit:
            texts.append(f"{each.label} {said}")
        else:
            texts.append(said)
    words = " ".join((texts[0], f"({', '.join(texts[1:])})")) if texts[1:] else texts[0]
    return [words, {each: said.value for each, said in drawn.items()}]


def resolved(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Mapping[str, Any]:
    """A schema without references, unions with null and lone allOf."""
    if not isinstance(schema, Mapping) or depth > DEPTH:
        return {}
    found = dict(schema)
    reference = found.pop("$ref", None)
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part, {}) if isinstance(target, Mapping) else {}
        return {**resolved(target, root, depth + 1), **found}
    for word in ("anyOf", "oneOf", "allOf"):
        parts = found.pop(word, None)
        if isinstance(parts, list):
            kept = [resolved(part, root, depth + 1) for part in parts]
            kept = [part for part in kept if part.get("type") != "null"]
            if kept:
                found = {**kept[0], **found}
    if isinstance(found.get("type"), list):
        found["type"] = next((each for each in found["type"] if each != "null"), "string")
    if "const" in found:
        found["enum"] = [found["const"]]
    if isinstance(found.get("enum"), list):
        found["enum"] = [each for each in found["enum"] if each is not None]
    return found
