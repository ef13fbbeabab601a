"""Grammar rules for values in a notation with its own quotes (Python's, Gemma's). Knows no call and no tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from swift.agent import Notation
from swift.agent.tagged import as_object, definitions, escape, fits, in_order, value_schemas, write_value
from swift.guided.lark import json_rule, quoted

Schema = dict[str, Any]
Literal = Callable[[str], str]
"""Text -> grammar literals, in which special tokens stand for their texts."""

ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "$comment", "$schema"}
ANNOTATIONS |= {"$defs", "definitions"}
ANY_TEXT = r"/(.|\n)*/"
_WORDS: dict[str, tuple[bool | None, ...]] = {"null": (None,), "boolean": (True, False)}
_KEYWORDS = {
    "string": {"minLength", "maxLength", "pattern"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set[str](),
    "null": set[str](),
}
_KEYWORDS["integer"] = _KEYWORDS["number"]
_ALL = ("string", "number", "boolean", "null", "array", "object")


class Values:
    """The rules for the values of one argument. `name`: the prefix of their names."""

    def __init__(self, name: str, notation: Notation, literal: Literal) -> None:
        self._name, self._notation, self._literal = name, notation, literal
        self.rules: list[str] = []
        self._any = ""
        self._references: list[str] = []  # those whose targets are being expanded, outermost first
        letters = re.escape("".join(letter for letter, _ in notation.escapes))
        self._letters = letters.replace("\\\n", r"\n").replace("\\\r", r"\r")

    def rule(self, schema: Schema) -> str:
        """The name of the rule for matching values. Raises ValueError for a schema that the notation cannot follow."""
        texts: list[str] = []
        others = list(self._options(schema, texts))
        others += [self._text(texts)] if texts else []
        if not others:
            raise ValueError("allows nothing")
        return self._made(" | ".join(others))

    def _made(self, body: str) -> str:
        name = f"{self._name}_{len(self.rules)}"
        self.rules.append(f"{name}: {body}")
        return name

    def _options(self, schema: Schema, texts: list[str]) -> Iterator[str]:
        """The alternatives of a value; those between the quotes of a string go into `texts`."""
        keywords, shared = schema.keys() - ANNOTATIONS - {"format"}, definitions(schema)
        if keywords == {"$ref"}:
            place = schema["$ref"]
            target = resolve_reference(place, shared, self._references)
            self._references.append(place)
            yield from self._options(target, texts)
            self._references.pop()
        elif keywords & {"enum", "const"}:
            rest = {key: value for key, value in schema.items() if key != "enum"}
            found = schema["enum"] if "enum" in keywords else [schema["const"]]
            for value in (each for each in found if fits(each, rest)):
                if isinstance(value, str):
                    texts.append(quoted(escape(value, self._notation)))
                else:
                    yield self._literal(write_value(value, self._notation))
        elif keywords == {"anyOf"}:
            for branch in (each for each in schema["anyOf"] if each is not False):
                yield from self._options({**shared, **as_object(branch)}, texts)
        elif not keywords:
            texts.append(self._free())
            yield from self._any_but_text()
        else:
            yield from self._of_types(schema, keywords, texts)

    def _of_types(self, schema: Schema, keywords: set[str], texts: list[str]) -> Iterator[str]:
        named = schema.get("type", [kind for kind in ("array", "object") if keywords & _KEYWORDS[kind]])
        kinds = [named] if isinstance(named, str) else list(named)
        if wrong := sorted(keywords - {"type"}.union(*(_KEYWORDS.get(kind, ()) for kind in kinds))):
            raise ValueError(f"has {wrong[0]!r}, which can be enforced in JSON alone")
        for kind in kinds:
            about = {key: value for key, value in schema.items() if key in _KEYWORDS.get(kind, ())}
            if kind == "string":
                texts.append(self._inner(about))
            elif kind in _WORDS:
                yield from (self._literal(write_value(value, self._notation)) for value in _WORDS[kind])
            elif kind in ("number", "integer") or not self._notation.deep:
                yield self._made(json_rule({**definitions(schema), **about, "type": kind}))
            elif kind == "array":
                yield from self._array({**definitions(schema), **about})
            else:
                yield self._made(self._object({**definitions(schema), **about}))

    # Texts --------------------------------------------------------------------------------------------------------

    def _text(self, texts: Sequence[str]) -> str:
        """A string with its quotes, as one terminal: several that begin alike would be ambiguous."""
        quote, inner = self._literal(self._notation.quote), " | ".join(texts)
        never = "" if self._notation.escapes else f" & ~({ANY_TEXT} {quoted(self._notation.quote)} {ANY_TEXT})"
        if quote != quoted(self._notation.quote):
            term = f"{self._name.upper()}_{len(self.rules)}"
            self.rules.append(f"{term}: ({inner}){never}")
            return f"{quote} {term} {quote}"
        name = f"{self._name}_{len(self.rules)}"
        self.rules.append(f"{name}[lazy]: {quote} (({inner}){never}) {quote}")
        return name

    def _free(self, least: int | str = 0, most: int | str = "") -> str:
        plain = f"[^{self._letters}]" if self._letters else r".|\n"
        either = [plain, *(re.escape(written) for _, written in self._notation.escapes)]
        return f"/({'|'.join(either)}){{{least},{most}}}/"

    def _inner(self, schema: Schema) -> str:
        """The inside of the quotes. With escapes, a string with a pattern contains no escaped letters."""
        free = self._free(schema.get("minLength", 0), schema.get("maxLength", ""))
        if "pattern" not in schema:
            return free
        plain = f" & /[^{self._letters}]*/" if self._letters else ""
        return f"({free} & {pattern(schema['pattern'])}{plain})"

    # Lists and objects --------------------------------------------------------------------------------------------

    def _array(self, schema: Schema) -> Iterator[str]:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if not least:
            yield '"[" "]"'
        if most != 0:
            item = self.rule({**definitions(schema), **as_object(schema.get("items", {}))})
            last = "" if most is None else most - 1
            yield f'"[" {item} ("," {item}){{{max(least - 1, 0)},{last}}} "]"'

    def _object(self, schema: Schema) -> str:
        values, others = value_schemas(schema), schema.get("additionalProperties", True)
        if missing := [key for key in schema.get("required", ()) if key not in values]:
            raise ValueError(f"requires {missing[0]!r}, which it does not describe")
        if values or others is False:
            members = [
                (f"{self._literal(f'{key}:')} {self.rule(about)}", key in schema.get("required", ()))
                for key, about in in_order(values, self._notation)
            ]
            self.rules += (joined := separated(f"{self._name}_{len(self.rules)}", members, '","'))
            return f'"{{" {joined[-1].partition(":")[0]} "}}"'
        member = f'/[^\\s:,{{}}\\[\\]"<>]+/ ":" {self.rule({**definitions(schema), **as_object(others)})}'
        return f'"{{" ({member} ("," {member})*)? "}}"'

    def _any_but_text(self) -> Iterator[str]:
        if not self._notation.deep:
            yield self._made(json_rule({"type": ["number", "array", "object"]}))
            yield from (self._literal(word) for word in self._notation.words)
            return
        if not self._any:
            self._any = f"{self._name}_any"
            text = self._text([self._free()])
            number = self._made(json_rule({"type": "number"}))
            words = " | ".join(map(self._literal, self._notation.words))
            either = f"{self._any} | {text}"
            member = f'/[^\\s:,{{}}\\[\\]"<>]+/ ":" ({either})'
            lists = f'"[" (({either}) ("," ({either}))*)? "]" | "{{" ({member} ("," {member})*)? "}}"'
            self.rules.append(f"{self._any}: {number} | {words} | {lists}")
        yield self._any


def separated(name: str, members: Sequence[tuple[str, bool]], between: str) -> list[str]:
    """Rules whose last is `name`: (member, required) in their order, separated by `between`."""
    more, first = [f'{name}_more_{len(members)}: ""'], [f'{name}_first_{len(members)}: ""']
    for index, (member, required) in reversed(list(enumerate(members))):
        rest = f"{name}_more_{index + 1}"
        more.append(f"{name}_more_{index}: ({between} {member}){'' if required else '?'} {rest}")
        first.append(f"{name}_first_{index}: {member} {rest}{'' if required else f' | {name}_first_{index + 1}'}")
    return [*more, *first, f"{name}: {name}_first_0"]


def resolve_reference(place: str, shared: Schema, within: Sequence[str]) -> Schema:
    """The target of a reference. Raises ValueError for one that has none, or that is within itself (`within`)."""
    _, *path = place.split("/")
    found: Any = shared if place.startswith("#/") and place not in within else None
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"refers to {place}")
    return {**shared, **found}


def pattern(text: str) -> str:
    """A terminal for text that contains a match of the regular expression; anchors are allowed at its ends."""
    start, end = text.startswith("^"), re.search(r"(?<!\\)(\\\\)*\$\Z", text) is not None
    bare = re.sub(r"\\.|\[[^]]*\]", "", text)
    while (without := re.sub(r"\([^()]*\)", "", bare)) != bare:
        bare = without
    if (start or end) and "|" in bare:
        raise ValueError("has a pattern with anchors on one side of |")
    inner = re.sub(r"(?<!\\)/", r"\/", text[start : len(text) - end])
    return f"({'' if start else f'{ANY_TEXT} '}/(?:{inner})/{'' if end else f' {ANY_TEXT}'})"
