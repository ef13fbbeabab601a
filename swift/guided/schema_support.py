"""The part of a JSON schema that llguidance can enforce, and what is left to validate. Knows no tool-call format.

Support is found by trial: parts of the schema are compiled until those that fail are found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from swift.guided.lark import HEAD, json_rule

MAX_SYMBOLS = 20_000
"""Symbols of a grammar: compiling thousands of optional fields takes seconds, and the time grows quadratically."""
MAX_LENGTH = 400_000
"""Characters of a schema: the values of a long `enum` are not symbols, but take as long to compile."""
LIMITS = LLParserLimits(max_grammar_size=MAX_SYMBOLS)

Schema = dict[str, Any]


class Unenforced(NamedTuple):
    """A part of a schema that the grammar does not enforce. `pointer`: its JSON pointer; `keyword`: "" for the whole
    subschema. `tool`: the tool with the schema; "" for the schema of the content."""

    pointer: str
    keyword: str
    reason: str
    tool: str = ""

    def __str__(self) -> str:
        if not self.keyword:
            return f"{self.pointer or 'the schema'}: {self.reason}"
        return f"{self.keyword!r} at {self.pointer or 'the top level'}: {self.reason}"


class EnforceableSchema(NamedTuple):
    """A schema that llguidance supports and that allows everything the original allows, and what it leaves out."""

    schema: Schema
    unenforced: tuple[Unenforced, ...] = ()


def enforceable(schema: Schema) -> EnforceableSchema:
    """The schema without what llguidance does not support, at every depth; unchanged if it supports all of it."""
    return _enforceable(json.dumps(schema, ensure_ascii=False))


def why_no_grammar(rules: str) -> str:
    """Why llguidance cannot compile these rules; "" if it can."""
    if len(rules) > MAX_LENGTH:
        return f"it is longer than {MAX_LENGTH:,} characters"
    return grammar_error(LLMatcher(_bytes(), "\n".join([*HEAD, rules]), log_level=0, limits=LIMITS))


def grammar_error(matcher: LLMatcher) -> str:
    """The error of a grammar in one short line; "" if there is none."""
    matcher.compute_bitmask()  # a grammar that matches nothing fails only here
    if not matcher.is_error():
        return ""
    message = matcher.get_error().split("\n   1 | ")[0]
    if message.startswith("NoExtensionBias"):
        return _SELF_REFERENCE
    message = re.sub(r"^at \d+\(\d+\): |failed to compile JSON schema: ", "", message)
    if "\nerror: " in message:  # about a pattern, which the lines before quote
        message = "the pattern: " + message.split("\nerror: ")[-1]
    elif len(lines := message.splitlines()) > 1:
        message = lines[0]
    return re.sub(r"\s+", " ", message).strip()[:200]


@cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")


@lru_cache(maxsize=512)
def _enforceable(text: str) -> EnforceableSchema:
    schema = json.loads(text)
    return _Pruned(schema).guided() if _why_not(schema) else EnforceableSchema(schema)


def _why_not(schema: Schema) -> str:
    return _circular(schema) or why_no_grammar(f"start: {json_rule(schema)}")


_ONE = ("additionalProperties", "items", "additionalItems")
_MANY = ("prefixItems", "items", "anyOf", "oneOf", "allOf")
_NAMED = ("properties", "patternProperties")
_RELAXED = {"properties": "additionalProperties", "patternProperties": "additionalProperties", "prefixItems": "items"}
"""Keyword -> the keyword that it relaxes: without the first, the second would forbid too much."""
_SHARED = "#/$defs/"
_SELF_REFERENCE = "it matches nothing, or refers only to itself"
_TOO_LARGE = re.compile("too big|longer than")
_LAST = ("oneOf", "anyOf", "allOf", "$ref", "const", "enum", "items", "required", "properties", "type")
"""Keywords that constrain most: dropped last if only a combination of keywords fails."""


class _Pruned:
    """Finds the unsupported parts of a schema by compiling its parts one by one."""

    def __init__(self, root: Schema) -> None:
        self._dropped: dict[tuple[str, str], str] = {}
        self._places: dict[str, str] = {}  # JSON pointer of a reference -> our name
        root = self._referring(root, root)
        self._root = {key: value for key, value in root.items() if key not in ("$defs", "definitions")}
        targets = {name: _at(root, place) for place, name in self._places.items()}
        places = {name: place for place, name in self._places.items()}
        # Each on its own first, so that none is pruned for another's sake; then together.
        self._shared: Schema = {name: {} for name in targets}
        pruned = {name: self._prune(each, places[name]) for name, each in targets.items()}
        self._shared = pruned
        for name in pruned:
            self._shared = {**self._shared, name: self._prune(self._shared[name], places[name])}

    def guided(self) -> EnforceableSchema:
        schema = self._prune(self._root, "")
        dropped = tuple(Unenforced(place, keyword, reason) for (place, keyword), reason in self._dropped.items())
        return EnforceableSchema(self._with_shared(schema), dropped)

    def _referring(self, part: Any, root: Schema) -> Any:
        """The same with local references renamed, so that parts can be compiled without the rest."""
        if isinstance(part, list):
            return [self._referring(each, root) for each in part]
        if not isinstance(part, dict):
            return part
        place = part.get("$ref")
        made = {key: self._referring(value, root) for key, value in part.items()}
        if isinstance(place, str) and re.match(r"#(/|$)", place) and _at(root, place[1:]) is not None:
            name = self._places.setdefault(place[1:], f"r{len(self._places)}")
            made["$ref"] = _SHARED + name
        return made

    def _with_shared(self, part: Any) -> Any:
        """The part with the targets of its references, direct and indirect."""
        found: dict[str, Any] = {}
        waiting = [part]
        while waiting:
            for name in (place.removeprefix(_SHARED) for place in _places(waiting.pop())):
                if name in self._shared and name not in found:
                    found[name] = self._shared[name]
                    waiting.append(found[name])
        return {**part, "$defs": found} if found else part

    def _why_not(self, part: Any) -> str:
        return _why_not(self._with_shared(part))

    def _drop(self, place: str, keyword: str, reason: str) -> None:
        self._dropped.setdefault((place, keyword), reason)

    def _prune(self, part: Any, place: str) -> Any:
        if not isinstance(part, dict) or not (reason := self._why_not(part)):
            return part
        if _TOO_LARGE.search(reason):  # compiling thousands of parts one by one would take even longer
            before, part = part, self._pruned_within(part, place, least=len(json.dumps(part)) // 10)
            reason = reason if part == before else self._why_not(part)
        while _TOO_LARGE.search(reason) and len(part) > 1:
            part = self._without(part, max(part, key=lambda key: len(json.dumps(part[key]))), place, reason)
            reason = self._why_not(part)
        if reason and not _TOO_LARGE.search(reason):
            part = self._pruned_within(part, place)
            reason = self._why_not(part)
        if not reason:
            return part
        for keyword in list(part):
            if keyword in part and (reason := self._why_not({keyword: part[keyword]})):
                part = self._without(part, keyword, place, reason)
        while reason := self._why_not(part):
            order = sorted(part, key=lambda each: _LAST.index(each) if each in _LAST else -1)
            culprits = [each for each in order if not self._why_not(_less(part, each))]
            if culprits:
                part = self._without(part, culprits[0], place, reason)
                continue
            self._drop(place, "", reason)
            kind = {"type": part["type"]} if "type" in part else {}
            return kind if not self._why_not(kind) else {}
        return part

    def _without(self, part: Schema, keyword: str, place: str, reason: str) -> Schema:
        either = {**_less(part, keyword), "anyOf": part[keyword]} if keyword == "oneOf" else {}
        if either and "anyOf" not in part and not self._why_not({"anyOf": part[keyword]}):
            self._drop(place, keyword, "enforced as anyOf: several alternatives may match")
            return either
        self._drop(place, keyword, reason)
        return _less(part, keyword)

    def _pruned_within(self, part: Schema, place: str, least: int = 0) -> Schema:
        """The part with its subschemas of at least `least` characters pruned."""
        made = dict(part)
        for key, value in part.items():
            if least and len(json.dumps(value)) < least:
                continue
            at = f"{place}/{token(key)}"
            if key in _NAMED and isinstance(value, dict):
                made[key] = {
                    name: self._prune(each, f"{at}/{token(name)}") if len(json.dumps(each)) >= least else each
                    for name, each in value.items()
                }
            elif key in _MANY and isinstance(value, list):
                made[key] = [self._prune(each, f"{at}/{index}") for index, each in enumerate(value)]
            elif key in _ONE:
                made[key] = self._prune(value, at)
        return made


def _less(part: Schema, keyword: str) -> Schema:
    return {key: value for key, value in part.items() if key not in (keyword, _RELAXED.get(keyword))}


def token(key: str) -> str:
    """A key as a token of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _at(root: Any, pointer: str) -> Any:
    """The value at a JSON pointer; None if there is none."""
    for step in pointer.split("/")[1:]:
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(root, dict):
            root = root.get(step)
        elif isinstance(root, list) and step.isdecimal() and int(step) < len(root):
            root = root[int(step)]
        else:
            return None
    return root


def _circular(root: Schema) -> str:
    """Why a chain of references cannot be resolved, which llguidance finds only while generating; "" if all can."""
    within: set[str] = set()
    done: set[str] = set()

    def meets(part: Any) -> bool:
        if not isinstance(part, dict):
            return False
        place = part.get("$ref")
        if isinstance(place, str) and place.startswith("#") and place not in done:
            if place in within:
                return True
            within.add(place)
            if meets(_at(root, place[1:])):
                return True
            within.discard(place)
            done.add(place)
        return any(meets(each) for key in ("allOf", "anyOf", "oneOf") for each in part.get(key) or ())

    try:
        circles = any(meets({"$ref": place}) for place in _places(root))
    except RecursionError:
        return "its references are nested too deeply"
    return _SELF_REFERENCE if circles else ""


def _places(part: Any) -> Iterator[str]:
    """The target of every `$ref`, at any depth."""
    if isinstance(part, dict):
        if isinstance(place := part.get("$ref"), str):
            yield place
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from _places(each)
