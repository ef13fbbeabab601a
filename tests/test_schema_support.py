"""Schemas found in the wild: grammars enforce what they can of each, and the rest is reported."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import random
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from pydantic import AnyUrl, BaseModel, Field, SecretStr, TypeAdapter, with_config
from typing_extensions import TypedDict

from swift.agent import tool_format
from swift.agent.schemas import checker
from swift.guided import schema_support, tagged_grammar
from swift.guided.lark import HEAD, json_rule
from swift.guided.schema_support import enforceable, why_no_grammar
from swift.tools.bound_tool import from_function


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: float
    y: float


class Movie(TypedDict, total=False):
    title: str
    year: int


@dataclass
class Range:
    start: datetime.date
    end: datetime.date | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: set[str] = set()


class Node(BaseModel):
    name: str
    children: list[Node] = []


@with_config({"extra": "forbid"})
class Closed(TypedDict):
    path: pathlib.Path


def described(
    city: Annotated[str, Field(description="Where", min_length=2, max_length=40)],
    days: Annotated[int, Field(ge=1, le=14)] = 3,
    unit: Literal["C", "F"] = "C",
) -> None: ...


def anything(*, name: str, **more: int) -> None: ...


TYPES: dict[str, tuple[Any, set[str]]] = {
    "text": (str, set()),
    "whole number": (int, set()),
    "number": (float, set()),
    "optional": (str | None, set()),
    "literal": (Literal["a", 1, None], set()),
    "enum": (Colour, set()),
    "list": (list[int], set()),
    "set": (set[str], {"uniqueItems"}),
    "frozen set of literals": (frozenset[Literal["a", "b"]], {"uniqueItems"}),
    "mapping": (dict[str, float], set()),
    "mapping by pattern": (dict[Annotated[str, Field(pattern="^[a-z]+$")], int], set()),
    "mapping by length": (dict[Annotated[str, Field(min_length=2)], int], {"propertyNames"}),
    "mapping by choice": (dict[Colour, int], {"propertyNames"}),
    "tuple": (tuple[int, str], set()),
    "tuple of any length": (tuple[int, ...], set()),
    "named tuple": (Point, set()),
    "typed dictionary": (Movie, set()),
    "closed dictionary with a path": (Closed, {"format"}),
    "dataclass": (Range, set()),
    "path": (pathlib.Path, {"format"}),
    "bytes": (bytes, {"format"}),
    "secret": (SecretStr, {"format"}),
    "mail": (Annotated[str, Field(json_schema_extra={"format": "email"})], set()),
    "address": (AnyUrl, set()),
    "identity": (uuid.UUID, set()),
    "date and time": (datetime.datetime, set()),
    "time": (datetime.time, set()),
    "duration": (datetime.timedelta, set()),
    "IPv4": (ipaddress.IPv4Address, set()),
    "network": (ipaddress.IPv4Network, {"format"}),
    "decimal": (decimal.Decimal, set()),
    "model": (Cat, set()),
    "discriminated union": (Annotated[Cat | Dog, Field(discriminator="kind")], {"uniqueItems"}),
    "plain union": (Cat | Dog | None, {"uniqueItems"}),
    "recursive model": (Node, set()),
    "steps": (Annotated[float, Field(multiple_of=0.5, ge=0, le=10)], set()),
    "word": (Annotated[str, Field(pattern=r"^[a-z]+(-[a-z]+)*$", max_length=30)], set()),
    "any": (Any, set()),
    "function": (described, set()),
    "function with more arguments": (anything, set()),
}
EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"  # as zod has it
)
JSON7 = {"$schema": "http://json-schema.org/draft-07/schema#"}


def of(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


PATH = {"type": "string", "format": "path"}
WRITTEN: dict[str, tuple[dict[str, Any], set[tuple[str, str]]]] = {
    "zod mail": (
        of({"to": {"type": "string", "format": "email", "pattern": EMAIL}}, "to", additionalProperties=False, **JSON7),
        {("/properties/to", "pattern")},
    ),
    "zod tuple of draft 7": (
        of({"at": {"type": "array", "minItems": 2, "maxItems": 2, "items": [{"type": "number"}] * 2}}, "at", **JSON7),
        set(),
    ),
    "zod reference to a property": (
        of({"a": {"type": "string", "format": "cuid"}, "b": {"$ref": "#/properties/a"}}, "b", **JSON7),
        {("/properties/a", "format")},
    ),
    "zod record": (of({"env": {"type": "object", "additionalProperties": {"type": "string"}}}, **JSON7), set()),
    "zod intersection": (
        of({"x": {"allOf": [of({"a": {"type": "string"}}, "a"), of({"b": {"type": "number"}}, "b")]}}, "x", **JSON7),
        set(),
    ),
    "zod never": (of({"x": {"not": {}}}, **JSON7), {("/properties/x", "not")}),
    "one of overlapping": (
        of({"x": {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}}, "x"),
        {("/properties/x", "oneOf")},
    ),
    "conditions": (
        of({"a": {"type": "boolean"}, "b": {"type": "string"}}, "a", **{"if": {"required": ["b"]}, "then": {}}),
        {("", "if"), ("", "then")},
    ),
    "dependencies": (
        of({"a": {"type": "boolean"}, "b": {"type": "boolean"}}, dependentRequired={"a": ["b"]}),
        {("", "dependentRequired")},
    ),
    "contents of a list": (
        of({"x": {"type": "array", "items": {"type": "boolean"}, "contains": {"const": True}, "minContains": 1}}, "x"),
        {("/properties/x", "contains"), ("/properties/x", "minContains")},
    ),
    "word borders": (of({"x": {"type": "string", "pattern": r"\bno\b"}}, "x"), {("/properties/x", "pattern")}),
    "deep within": (
        of({"rows": {"type": "array", "items": of({"by": {"anyOf": [PATH, {"type": "null"}]}})}}),
        {("/properties/rows/items/properties/by/anyOf/0", "format")},
    ),
    "recursion with a set": (
        {**of({"root": {"$ref": "#/$defs/N"}}, "root"),
         "$defs": {"N": of({"tags": {"type": "array", "uniqueItems": True, "items": {"type": "integer"}},
                            "next": {"$ref": "#/$defs/N"}}, "tags")}},
        {("/$defs/N/properties/tags", "uniqueItems")},
    ),
    "only itself": (of({"x": {"$ref": "#/properties/x"}}, "x"), {("/properties/x", "$ref")}),
    "nowhere": (of({"x": {"$ref": "#/$defs/no"}, "y": {"$ref": "https://example.invalid/z"}}, "x"),
                {("/properties/x", "$ref"), ("/properties/y", "$ref")}),
    "patterned keys": (
        {"type": "object", "patternProperties": {"^(?=x)": {"type": "string"}}, "additionalProperties": False},
        {("", "patternProperties")},
    ),
    "no value fits": (of({"x": {"type": "integer", "minimum": 5, "maximum": 3}}, "x"), {("/properties/x", "minimum")}),
    "words that nobody knows": (of({"x": {"type": "string", "x-order": 1, "example": "a", "nullable": True}}), set()),
    "numbers of draft 4": (of({"x": {"type": "number", "minimum": 0, "exclusiveMinimum": True}}, "x"), set()),
}  # fmt: skip


def cases() -> list[Any]:
    found = []
    for name, (kind, dropped) in TYPES.items():
        plain = kind in (described, anything)
        schema = from_function(kind).tool.parameters if plain else of({"x": TypeAdapter(kind).json_schema()}, "x")
        if not plain:  # as FastMCP puts a parameter's definitions beside the others
            shared = schema["properties"]["x"].pop("$defs", None)
            schema |= {"$defs": shared} if shared else {}
        found.append(pytest.param(schema, dropped, id=name))
    found += [
        pytest.param(schema, {each for _, each in dropped}, id=name) for name, (schema, dropped) in WRITTEN.items()
    ]
    return found


def said(schema: dict[str, Any], seed: int, longest: int = 3000) -> str | None:
    """The text that a model of pure noise generates under a schema; None if it does not end."""
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, "\n".join([*HEAD, f"start: {json_rule(schema)}"]), log_level=0)
    noise, tokens = random.Random(seed), []
    while len(tokens) < longest:
        mask = matcher.compute_bitmask()
        allowed = [token for token in range(tokenizer.vocab_size) if mask[token // 8] >> token % 8 & 1]
        ends = [token for token in allowed if (token < 256 and chr(token) in '"}],') or token == tokenizer.eos_token]
        token = noise.choice(ends if ends and noise.random() < 0.4 else allowed)
        if token == tokenizer.eos_token:
            return tokenizer.decode_bytes(tokens).decode()
        matcher.consume_token(token)
        assert not matcher.is_error(), matcher.get_error()
        tokens.append(token)
    return None


@pytest.mark.parametrize(("schema", "dropped"), cases())
def test_all_keywords_are_enforced_but_the_reported_ones_and_replies_match_the_rest(
    schema: dict[str, Any], dropped: set[str]
) -> None:
    found = enforceable(schema)
    assert {each.keyword for each in found.unenforced} == dropped
    assert all(each.reason and "\n" not in each.reason for each in found.unenforced)
    assert (found.schema == schema) == (not dropped), "what is guided in full stays as it is"
    replies = [reply for seed in range(3) if (reply := said(found.schema, seed)) is not None]
    assert replies
    for reply in replies:
        checker(found.schema).validate(json.loads(reply))


@pytest.mark.parametrize(("schema", "dropped"), WRITTEN.values(), ids=WRITTEN)
def test_an_unenforced_keyword_is_reported_with_its_pointer(
    schema: dict[str, Any], dropped: set[tuple[str, str]]
) -> None:
    assert {(each.pointer, each.keyword) for each in enforceable(schema).unenforced} == dropped


@pytest.mark.parametrize(("schema", "dropped"), cases())
def test_tagged_arguments_accept_every_schema(schema: dict[str, Any], dropped: set[str]) -> None:
    tags = tool_format("qwen3_coder").syntax.tags
    assert tags is not None
    held, more = tagged_grammar.enforceable(enforceable(schema).schema, tags)
    assert tagged_grammar.why_not(held, tags) == ""
    assert all(each.reason for each in more)


def test_keywords_next_to_a_dropped_one_are_still_enforced() -> None:
    schema = of({"tags": {"type": "array", "uniqueItems": True, "maxItems": 2, "items": {"enum": ["a", "b"]}}}, "tags")
    kept = enforceable(schema).schema["properties"]["tags"]
    assert kept == {"type": "array", "maxItems": 2, "items": {"enum": ["a", "b"]}}


def test_dropping_never_forbids_what_the_schema_allows() -> None:
    """Dropped properties do not become forbidden additional properties."""
    found = enforceable({"type": "object", "patternProperties": {"^(?=x)": {}}, "additionalProperties": False})
    assert "additionalProperties" not in found.schema


def test_a_part_that_is_too_large_is_dropped_and_the_rest_is_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"enum": [f"value {number}" for number in range(40_000)]}
    found = enforceable(of({"of": names, "n": {"type": "integer"}, "path": {"type": "string", "format": "path"}}, "n"))
    assert found.schema["properties"] == {"of": {}, "n": {"type": "integer"}, "path": {"type": "string"}}
    assert [(each.pointer, each.keyword) for each in found.unenforced] == [
        ("/properties/of", "enum"),
        ("/properties/path", "format"),
    ]
    monkeypatch.setattr(schema_support, "LIMITS", LLParserLimits(max_grammar_size=500))
    many = of({f"field_{number}": {"type": "string"} for number in range(300)}, additionalProperties=False)
    (dropped,) = enforceable(many).unenforced
    assert dropped.keyword == "properties"
    assert "too big" in dropped.reason
    assert why_no_grammar(f"start: {json_rule(enforceable(many).schema)}") == ""


def test_nesting_drops_nothing() -> None:
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(60):
        deep = of({"x": deep}, "x")
    assert enforceable(deep) == (deep, ())
