"""A JSON schema -> the part of it that a grammar can hold a reply to, and what is left to check. Knows no text form.

llguidance itself says what it takes: parts of the schema are compiled until what fails is found.
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

LARGEST = 20_000
"""Symbols of a grammar: schemas of thousands of optional fields take seconds to compile, and twice as many four times
as long."""
LONGEST = 400_000
"""Characters of a schema that is compiled at all: values of a long `enum` are no symbols, and take as long."""
LIMITS = LLParserLimits(max_grammar_size=LARGEST)

Schema = dict[str, Any]


class Unenforced(NamedTuple):
    """What a grammar does not hold. `pointer` (JSON pointer): where in the schema; `keyword` "": all that stands there.
    `tool`: whose arguments; "" for what a reply says."""

    pointer: str
    keyword: str
    reason: str
    tool: str = ""

    def __str__(self) -> str:
        if not self.keyword:
            return f"{self.pointer or 'the schema'}: {self.reason}"
        return f"{self.keyword!r} at {self.pointer or 'its top'}: {self.reason}"


class EnforceableSchema(NamedTuple):
    """A schema for grammars, which allows all that the original does, and what it lacks."""

    schema: Schema
    unenforced: tuple[Unenforced, ...] = ()


def enforceable(schema: Schema) -> EnforceableSchema:
    """The schema without what llguidance does not take, at every depth; the same one where it takes all of it."""
    return _enforceable(json.dumps(schema, ensure_ascii=False))


def why_no_grammar(rules: str) -> str:
    """Why llguidance cannot make a grammar of these rules in its dialect of Lark; "" if it can."""
    if len(rules) > LONGEST:
        return f"it is longer than {LONGEST:,} characters"
    return grammar_error(LLMatcher(_bytes(), "\n".join([*HEAD, rules]), log_level=0, limits=LIMITS))


def grammar_error(matcher: LLMatcher) -> str:
    """What is wrong with a grammar in one short line; "" if nothing is."""
    matcher.compute_bitmask()  # some grammars, as one that only holds itself, show here that they allow nothing
    if not matcher.is_error():
        return ""
    told = matcher.get_error().split("\n   1 | ")[0]
    if told.startswith("NoExtensionBias"):
        return _ITSELF
    told = re.sub(r"^at \d+\(\d+\): |failed to compile JSON schema: ", "", told)
    if "\nerror: " in told:  # of a pattern, which is drawn before
        told = "the pattern: " + told.split("\nerror: ")[-1]
    elif len(lines := told.splitlines()) > 1:
        told = lines[0]
    return re.sub(r"\s+", " ", told).strip()[:200]


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
_NARROWED = {"properties": "additionalProperties", "patternProperties": "additionalProperties", "prefixItems": "items"}
"""Keywords, and those that mean less where these stand beside them: without the first, the second allows too little."""
_SHARED = "#/$defs/"
_ITSELF = "nothing fits it, or it only refers to itself"
_TOO_LARGE = re.compile("too big|longer than")
_LAST = ("oneOf", "anyOf", "allOf", "$ref", "const", "enum", "items", "required", "properties", "type")
"""Tells most of a value: dropped last where only several keywords together cannot be held."""


class _Pruned:
    """A schema of which some cannot be held, its parts compiled one by one."""

    def __init__(self, root: Schema) -> None:
        self._dropped: dict[tuple[str, str], str] = {}
        self._places: dict[str, str] = {}  # JSON pointer of a reference -> our name
        root = self._referring(root, root)
        self._root = {key: value for key, value in root.items() if key not in ("$defs", "definitions")}
        targets = {name: _at(root, place) for place, name in self._places.items()}
        places = {name: place for place, name in self._places.items()}
        # Each by itself first, so that none is blamed for another; then together.
        self._shared: Schema = {name: {} for name in targets}
        alone = {name: self._prune(each, places[name]) for name, each in targets.items()}
        self._shared = alone
        for name in alone:
            self._shared = {**self._shared, name: self._prune(self._shared[name], places[name])}

    def guided(self) -> EnforceableSchema:
        schema = self._prune(self._root, "")
        dropped = tuple(Unenforced(place, keyword, reason) for (place, keyword), reason in self._dropped.items())
        return EnforceableSchema(self._with_shared(schema), dropped)

    def _referring(self, part: Any, root: Schema) -> Any:
        """The same, with references to places of the schema by names of ours: parts are compiled without the rest."""
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
        """The part with what it refers to, and what that refers to."""
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
        if _TOO_LARGE.search(reason):  # compiling each of thousands of parts would take longer still
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
            self._drop(place, keyword, "held as anyOf: more than one of them may fit")
            return either
        self._drop(place, keyword, reason)
        return _less(part, keyword)

    def _pruned_within(self, part: Schema, place: str, least: int = 0) -> Schema:
        """The part with the schemas in it pruned, those of `least` characters and more."""
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
    return {key: value for key, value in part.items() if key not in (keyword, _NARROWED.get(keyword))}


def token(key: str) -> str:
    """A key as a step of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _at(root: Any, pointer: str) -> Any:
    """What stands there; None for nothing."""
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
    """Whether a schema is itself, which llguidance notices when a reply has come there; "" if none is."""
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
        return "its references are too deep"
    return _ITSELF if circles else ""


def _places(part: Any) -> Iterator[str]:
    """The target of every `$ref`, at any depth."""
    if isinstance(part, dict):
        if isinstance(place := part.get("$ref"), str):
            yield place
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from _places(each)
