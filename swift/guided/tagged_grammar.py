"""Grammar rules for arguments that have their own tags (`<parameter=x>...`). Knows no call and no tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from swift.agent import ArgumentTags, Notation
from swift.agent.tagged import as_object, definitions, fits, in_order, value_schemas, write_value
from swift.guided.lark import json_rule, quoted
from swift.guided.literal_grammar import ANNOTATIONS, ANY_TEXT, Literal, Values, pattern, resolve_reference, separated
from swift.guided.schema_support import Unenforced, token, why_no_grammar

_OF_OBJECT = ANNOTATIONS | {"type", "properties", "required", "additionalProperties"}
_OF_TEXT = {"minLength", "maxLength", "pattern"}


def enforceable(schema: dict[str, Any], tags: ArgumentTags) -> tuple[dict[str, Any], tuple[Unenforced, ...]]:
    """The schema without the keywords that a grammar of tagged arguments cannot enforce; unchanged if it has none."""
    if not why_not(schema, tags):
        return schema, ()
    values, unenforced = schema.get("properties") or {}, []
    for key in sorted(schema.keys() - _OF_OBJECT):
        unenforced.append(Unenforced("", key, "it applies to all arguments, which have tags of their own"))
    if missing := [key for key in schema.get("required", ()) if key not in values]:
        unenforced.append(Unenforced("", "required", f"{missing[0]!r} is not among the properties"))
    kept: dict[str, Any] = {}
    for key, value in values.items():
        within = definitions(schema) | {"type": "object", "properties": {key: value}}
        kept[key] = value
        if reason := why_not(within, tags):
            unenforced.append(Unenforced(f"/properties/{token(key)}", "", reason))
            kept[key] = {}
    made = {key: value for key, value in schema.items() if key in _OF_OBJECT}
    made |= {"properties": kept, "required": [key for key in schema.get("required", ()) if key in values]}
    return made, tuple(unenforced)


def why_not(schema: dict[str, Any], tags: ArgumentTags) -> str:
    """Why a grammar of tagged arguments cannot enforce the schema; "" if it can."""
    try:
        return why_no_grammar("\n".join(["start: arguments", *rules("arguments", schema, tags)]))
    except ValueError as error:
        return str(error)


class Kind(NamedTuple):
    """One alternative of a value: a `term` for bare text (`free`: of unlimited choice), or JSON of a `schema`."""

    term: str = ""
    free: bool = False
    schema: dict[str, Any] | None = None


def rules(name: str, schema: dict[str, Any], tags: ArgumentTags, literal: Literal = quoted) -> list[str]:
    """The rule `name` and its sub-rules: the arguments in the schema's properties, in their order, and no others.

    The `format` of strings is not enforced, and strings within JSON may contain the text that ends an argument.
    Raises ValueError for a schema that tagged arguments cannot follow.
    """
    values, required = value_schemas(schema), schema.get("required", ())
    wrong = [*sorted(schema.keys() - _OF_OBJECT), *(key for key in required if key not in values)]
    if wrong:
        raise ValueError(f"{wrong[0]!r}, which applies to all arguments")
    made, members = [], []
    for index, (key, about) in enumerate(in_order(values, tags.notation)):
        part = f"{name}_{index}"
        members.append((part, key in required))
        try:
            made += _argument(part, key, about, tags, literal)
        except ValueError as error:
            raise ValueError(f"argument {key!r} {error}") from None
    if tags.joint:
        return [*separated(name, members, literal(tags.joint)), *made]
    parts = " ".join(part if needed else f"{part}?" for part, needed in members)
    return [f"{name}: {parts or quoted('')}", *made]


def _argument(name: str, key: str, about: dict[str, Any], tags: ArgumentTags, literal: Literal) -> list[str]:
    opening = literal(tags.before + key + tags.between)
    if tags.notation.quote:
        values = Values(f"{name}_value", tags.notation, literal)
        return [f"{name}: {opening} {values.rule(about)}", *values.rules]
    never = f"{name.upper()}_NEVER"
    ends = " | ".join(map(quoted, tags.ends))
    kinds = list(_kinds(about, tags.notation))
    value = _value(f"{name}_value", kinds, quoted(tags.after), never)
    return [f"{name}: {opening} {name}_value", f"{never}: {ANY_TEXT} ({ends}) {ANY_TEXT}", *value]


def _value(name: str, kinds: list[Kind], after: str, never: str) -> Iterator[str]:
    """A value up to its end: bare texts as one terminal, which ends as soon as it can, or JSON."""
    texts = [kind.term for kind in kinds if kind.schema is None]
    schemas = [kind.schema for kind in kinds if kind.schema is not None]
    if ANY_TEXT in texts:  # JSON is such a text too
        schemas = []
    if schemas and any(kind.free for kind in kinds):
        raise ValueError("mixes constrained strings with other types")
    names = [f"{name}_text"] * bool(texts) + [f"{name}_json_{index}" for index in range(len(schemas))]
    yield f"{name}: {' | '.join(names)}"
    if texts:
        yield f"{name}_text[lazy]: (({' | '.join(texts)}) & ~{never}) {after}"
    for index, schema in enumerate(schemas):
        yield f"{name}_json_{index}: {name}_json_{index}_ {after}"
        yield f"{name}_json_{index}_: {json_rule(schema)}"


def _kinds(schema: dict[str, Any], notation: Notation, within: tuple[str, ...] = ()) -> Iterator[Kind]:
    keywords, types = schema.keys() - ANNOTATIONS - {"format"}, _types(schema)
    shared = definitions(schema)
    if keywords == {"$ref"}:
        place = schema["$ref"]
        yield from _kinds(resolve_reference(place, shared, within), notation, (*within, place))
    elif keywords & {"enum", "const"}:
        found = schema["enum"] if "enum" in keywords else [schema["const"]]
        rest = {name: value for name, value in schema.items() if name != "enum"}  # each value would be looked up in it
        yield from (Kind(quoted(write_value(value, notation))) for value in found if fits(value, rest))
    elif keywords == {"anyOf"}:
        for branch in (each for each in schema["anyOf"] if each is not False):
            yield from _kinds({**shared, **as_object(branch)}, notation, within)
    elif not keywords:
        yield Kind(ANY_TEXT, free=True)
    elif keywords == {"type"} or ("string" in types and keywords <= _OF_TEXT | {"type"}):
        if "string" in types:
            yield Kind(_text(schema), free=True)
        yield from (Kind(quoted(write_value(value, notation))) for kind in types for value in _VALUES.get(kind, ()))
        if others := [kind for kind in types if kind not in ("string", *_VALUES)]:
            yield Kind(schema={**shared, "type": others})
    else:
        yield Kind(schema=schema)


_VALUES: dict[str, tuple[bool | None, ...]] = {"null": (None,), "boolean": (True, False)}


def _types(schema: dict[str, Any]) -> list[str]:
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else list(types)


def _text(schema: dict[str, Any]) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    terms = [rf"/(.|\n){{{least},{most}}}/"] if least or most != "" else []
    if "pattern" in schema:
        terms.append(pattern(schema["pattern"]))
    return f"({' & '.join(terms)})" if terms else ANY_TEXT
