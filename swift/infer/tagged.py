"""Arguments in tags of their own -> rules of a grammar. Knows no call and no tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from swift.agent import Notation, Tags
from swift.agent.tagged import as_object, definitions, fits, value_schemas, write_value
from swift.infer.lark import json_of, quoted
from swift.infer.schemas import Dropped, token, why_no_grammar

_NOTES = {"title", "description", "default", "examples", "deprecated", "$comment", "$schema", "$defs", "definitions"}
_OF_OBJECT = _NOTES | {"type", "properties", "required", "additionalProperties"}
_OF_TEXT = {"minLength", "maxLength", "pattern"}


def guidable(schema: dict[str, Any], tags: Tags) -> tuple[dict[str, Any], tuple[Dropped, ...]]:
    """The schema without what arguments in tags cannot be held to: the same one where there is nothing."""
    if not why_not(schema, tags):
        return schema, ()
    values, dropped, apart = schema.get("properties") or {}, [], "it is said of arguments that have tags of their own"
    for key in sorted(schema.keys() - _OF_OBJECT):
        dropped.append(Dropped("", key, apart))
    if missing := [key for key in schema.get("required", ()) if key not in values]:
        dropped.append(Dropped("", "required", f"{missing[0]!r} is no argument that has a tag of its own"))
    kept: dict[str, Any] = {}
    for key, about in values.items():
        within = definitions(schema) | {"type": "object", "properties": {key: about}}
        kept[key] = about
        if reason := why_not(within, tags):
            dropped.append(Dropped(f"/properties/{token(key)}", "", reason))
            kept[key] = {}
    made = {key: value for key, value in schema.items() if key in _OF_OBJECT}
    made |= {"properties": kept, "required": [key for key in schema.get("required", ()) if key in values]}
    return made, tuple(dropped)


def why_not(schema: dict[str, Any], tags: Tags) -> str:
    """Why arguments in tags cannot be held to the schema; "" if they can."""
    try:
        return why_no_grammar("\n".join(["start: arguments", *rules("arguments", schema, tags)]))
    except ValueError as error:
        return str(error)


class Kind(NamedTuple):
    """One thing that a value may be: a `term` for bare text (`free`: of many), or JSON of a `schema`."""

    term: str = ""
    free: bool = False
    schema: dict[str, Any] | None = None


def rules(name: str, schema: dict[str, Any], tags: Tags) -> list[str]:
    """The rule `name`, and those that it is made of: the arguments that a schema names, in its order, and no others.

    Raises ValueError for what a schema may say and tags cannot be held to. Texts are not held to their `format`,
    and what ends an argument is not kept out of the texts within JSON.
    """
    values, required = value_schemas(schema), schema.get("required", ())
    wrong = [*sorted(schema.keys() - _OF_OBJECT), *(key for key in required if key not in values)]
    if wrong:
        raise ValueError(f"{wrong[0]!r}, said of arguments that have tags of their own")
    ends = " | ".join(map(quoted, tags.ends))
    never = f"{name.upper()}_NEVER"
    made = [f"{never}: TEXT ({ends}) TEXT"]
    parts = []
    for index, (key, about) in enumerate(values.items()):
        part = f"{name}_{index}"
        parts.append(part if key in required else f"{part}?")
        made.append(f"{part}: {quoted(tags.before + key + tags.between)} {part}_value")
        made += _value(f"{part}_value", list(_kinds(about, key, tags.notation)), quoted(tags.after), never, key)
    return [f"{name}: {' '.join(parts)}" if parts else f'{name}: ""', *made]


def _value(name: str, kinds: list[Kind], after: str, never: str, key: str) -> Iterator[str]:
    """A value up to its end: bare texts as one term, which ends as soon as it can, and JSON."""
    texts = [kind.term for kind in kinds if kind.schema is None]
    schemas = [kind.schema for kind in kinds if kind.schema is not None]
    if "TEXT" in texts:  # which JSON is too
        schemas = []
    if schemas and any(kind.free for kind in kinds):
        raise ValueError(f"argument {key!r} is a text with rules, or no text")
    names = [f"{name}_text"] * bool(texts) + [f"{name}_json_{index}" for index in range(len(schemas))]
    yield f"{name}: {' | '.join(names)}"
    if texts:
        yield f"{name}_text[lazy]: (({' | '.join(texts)}) & ~{never}) {after}"
    for index, schema in enumerate(schemas):
        yield f"{name}_json_{index}: {name}_json_{index}_ {after}"
        yield f"{name}_json_{index}_: {json_of(schema)}"


def _kinds(schema: dict[str, Any], key: str, notation: Notation, within: tuple[str, ...] = ()) -> Iterator[Kind]:
    said, types = schema.keys() - _NOTES - {"format"}, _types(schema)
    shared = definitions(schema)
    if said == {"$ref"}:
        referred = _referred(schema["$ref"], shared, key, within)
        yield from _kinds(referred, key, notation, (*within, schema["$ref"]))
    elif said & {"enum", "const"}:
        found = schema["enum"] if "enum" in said else [schema["const"]]
        rest = {name: value for name, value in schema.items() if name != "enum"}  # thousands would be sought in it
        yield from (Kind(quoted(write_value(value, notation))) for value in found if fits(value, rest))
    elif said == {"anyOf"}:
        for branch in (each for each in schema["anyOf"] if each is not False):
            yield from _kinds({**shared, **as_object(branch)}, key, notation, within)
    elif not said:
        yield Kind("TEXT", free=True)
    elif said == {"type"} or ("string" in types and said <= _OF_TEXT | {"type"}):
        if "string" in types:
            yield Kind(_text(schema, key), free=True)
        yield from (Kind(quoted(write_value(value, notation))) for kind in types for value in _VALUES.get(kind, ()))
        if others := [kind for kind in types if kind not in ("string", *_VALUES)]:
            yield Kind(schema={**shared, "type": others})
    else:
        yield Kind(schema=schema)


_VALUES: dict[str, tuple[bool | None, ...]] = {"null": (None,), "boolean": (True, False)}


def _types(schema: dict[str, Any]) -> list[str]:
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else list(types)


def _referred(place: str, shared: dict[str, Any], key: str, within: tuple[str, ...]) -> dict[str, Any]:
    _, *path = place.split("/")
    found: Any = shared if place.startswith("#/") and place not in within else None
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"argument {key!r} refers to {place}")
    return {**shared, **found}


def _text(schema: dict[str, Any], key: str) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    terms = [rf"/(.|\n){{{least},{most}}}/"] if least or most != "" else []
    if "pattern" in schema:
        terms.append(_found(schema["pattern"], key))
    return f"({' & '.join(terms)})" if terms else "TEXT"


def _found(pattern: str, key: str) -> str:
    """A text in which a pattern is found; anchors are for its two ends."""
    start, end = pattern.startswith("^"), re.search(r"(?<!\\)(\\\\)*\$\Z", pattern) is not None
    bare = re.sub(r"\\.|\[[^]]*\]", "", pattern)
    while (without := re.sub(r"\([^()]*\)", "", bare)) != bare:
        bare = without
    if (start or end) and "|" in bare:
        raise ValueError(f"argument {key!r} has a pattern with anchors on one side of |")
    inner = re.sub(r"(?<!\\)/", r"\/", pattern[start : len(pattern) - end])
    return f"({'' if start else 'TEXT '}/(?:{inner})/{'' if end else ' TEXT'})"
