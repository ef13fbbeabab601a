"""What a function does: a verb and its object, from the name and the first sentence of the description; forms of verbs.

verbs.toml has the words. Knows no parameters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from swift.synth.names import tokens
from swift.system import toml_file

CREATES = frozenset(
    ("create", "make", "add", "new", "register", "open", "start", "book", "schedule", "write", "draft", "set",
     "save", "record", "insert")
)  # fmt: skip
"""Verbs whose object is new: it gets a name."""
SETS = frozenset(
    ("set", "change", "adjust", "update", "raise", "lower", "dim", "turn", "put", "switch", "move", "increase",
     "decrease", "rename", "reschedule")
)  # fmt: skip
"""Verbs that give something a value: the brightness to 40."""
_CUT = re.compile(
    r"\s*(?:[,;:(]|\.\s|\.$| that | which | who | whose | where | (?:after|before|once) (?:it|they|he|she|this) |"
    r" so that | using | based on | given | including |"
    r" according to | if | when | as | then | and returns? | with its | with their | by its | such as )"
)
_NOUNS = frozenset(
    ("balance", "book", "call", "change", "check", "claim", "count", "decrease", "draft", "estimate", "forecast",
     "increase", "list", "log", "measure", "message", "note", "order", "plan", "play", "price", "query", "rank",
     "rate", "record", "report", "request", "return", "review", "schedule", "set", "share", "sort", "state", "test",
     "transfer", "update")
)  # fmt: skip
"""Verbs that are nouns too: in "Record of a patient" they are."""
_OPPOSITES = ({"raise", "lower"}, {"increase", "decrease"})
_DETERMINERS = frozenset(["a", "an", "the", "one", "all", "some", "any", "your", "this", "that", "every", "each", "no"])
PREPOSITIONS = frozenset(["in", "into", "from", "to", "on", "onto", "of", "for", "by", "with", "at"])
_MEASURED = frozenset(
    ("status", "state", "details", "history", "list", "info", "information", "level", "rate", "price", "number",
     "count", "balance", "score", "time", "date", "report", "summary", "result", "results", "name", "size", "range",
     "limit")
)  # fmt: skip
"""Last words of names that are nouns, although they begin with a verb: claim_status, charge_level."""
_LISTED_NOUNS = re.compile(
    r"([\w-]+(?: [\w-]+){0,2}(?:, [\w-]+(?: [\w-]+){0,2})+ and [\w-]+(?: [\w-]+){0,3}? (?:of|for|in|on|at) )(.+)"
)
"""Several nouns with one owner: "Area, perimeter and angle of a polygon"."""
_ATTRIBUTES = re.compile(r"\b(?:with|including|and) (?:its|their) ([a-z ,]+)")
ARTICLE = (
    r"(?:(?:(?:one|two) or more|several|an?|the|one|this|that|your|some|any|another|each|every|specific|given|single|"
    r"specified|certain)\s+)+"
)


class Head(NamedTuple):
    """A verb and its object: ("cancel", "act", "an order")."""

    verb: str
    kind: str
    object: str


@cache
def table() -> Mapping[str, Any]:
    """verbs.toml."""
    return toml_file.read(Path(__file__).with_name("verbs.toml"))


@cache
def _groups() -> Mapping[str, Mapping[str, Any]]:
    return {verb: group for group in reversed(table()["group"]) for verb in group["verbs"]}


def heads(name: str, description: str) -> list[Head]:
    """The verbs and objects of a function: of its description first, of its name last."""
    words = tokens(name)
    found = [head] if (head := _of_description(words, description)) else []
    if found and head and head.kind == "ask" and (named := _ATTRIBUTES.search(description.split(". ")[0])):
        for attribute in re.split(r",\s*(?:and )?|\s+and\s+", named[1].strip()):
            if 0 < len(attribute.split()) <= 2:
                found.append(Head("get", "ask", f"the {attribute} of {head.object}"))
    verb, rest = _verb_of(words)
    if found and (rest[:1] and rest[0] in PREPOSITIONS):
        return found
    is_noun = rest[-1:] and rest[-1] in _MEASURED
    if found and found[0].kind == "ask" and verb and _kind(verb) == "act" and (is_noun or not rest):
        found.append(Head("get", "ask", _with_article(words)))  # the claim status: a noun
    elif verb and rest:
        found.append(Head(verb, _kind(verb), _with_article(rest)))
    elif verb and not found:
        found.append(Head(verb, _kind(verb), ""))
    elif not found:
        found.append(Head("get", "ask", _with_article(words)))
    return found


def known() -> Collection[str]:
    """The verbs that have a group."""
    return _groups().keys()


def verb_of(name: str, description: str) -> str:
    """The verb that a function begins with; empty for none."""
    return _verb_of(tokens(name))[0] or next((head.verb for head in heads(name, description)), "")


_ABOUT_API = re.compile(
    r"^call this tool to interact with the .+? API\.\s*(?:what is the .+? api useful for\?\s*)?"
    r"(?:(?:this|the) api (?:is used to|is used for|is for|will|can|should)\s+)?", re.IGNORECASE
)  # fmt: skip
"""How the rows of ms-agent begin every description."""


def _of_description(named: Sequence[str], description: str) -> Head | None:
    description = _ABOUT_API.sub("", description.strip())
    first = re.split(r"(?<=[.!?])\s", description.strip())[0].strip().rstrip(".")
    first = re.sub(
        r"^(?:this (?:function|tool)|(?:a |the )?(?:function|tool) (?:that|to)|use(?:d)? (?:this )?to|"
        r"allows? (?:you|users?) to)\s+",
        "", first, flags=re.IGNORECASE,
    )  # fmt: skip
    words = first.split()
    if not words:
        return None
    if words[0].lower() in ("what", "which", "how", "whether", "who", "when", "where"):
        return Head(
            "get", "ask", lower_first(_CUT.split(" " + first)[0].strip()) if "," in first else lower_first(first)
        )
    verb = base_form(words[0].lower().strip(",:"))
    two = f"{verb} {words[1].lower()}" if len(words) > 1 else verb
    rest = words[1:]
    if two in _groups():
        verb, rest = two, words[2:]
    after = words[1].lower() if len(words) > 1 else ""
    is_noun = verb in _NOUNS and after in ("of", "that", "needed", "at", "between", "is", "are", "held")
    if (words[0].endswith("s") and after == "of") or (after == "that" and verb not in _groups()):
        is_noun = True  # "Cars that can be rented"
    if after == "and" and len(words) > 2 and base_form(words[2].lower().strip(",")) not in _groups():
        is_noun = True  # "Charge and energy of a capacitor"
    if words[0].endswith(",") and base_form(after.strip(",")) not in _groups():
        is_noun = True  # "Make, model and year"
    known = (verb in _groups() or two in _groups()) and not (is_noun and two not in _groups())
    known = known or (
        len(words) > 1 and not is_noun and words[1].lower() in _DETERMINERS and words[0].lower() not in _DETERMINERS
    )
    if not known:
        listed = _LISTED_NOUNS.match(first)
        phrase = lower_first(listed[1]) + _trimmed(listed[2]) if listed else _trimmed(lower_first(first))
        if len(phrase.split()) < 2:
            return None
        return Head("get", "ask", phrase if words[0].lower() in _DETERMINERS or is_plural(phrase) else f"the {phrase}")
    if verb == "return" and (not named or named[0] != "return"):
        verb = "get"  # "Returns the weather": documentation, not a deed
    if len(rest) > 1 and rest[0].lower() == "or" and {verb, rest[1].lower()} in _OPPOSITES:
        verb = "change"
    if len(rest) > 1 and rest[0].lower() in ("or", "and") and base_form(rest[1].lower()) in _groups():
        rest = rest[2:]  # "Create or replace a note": the object is what counts
    return Head(verb, _kind(verb), _trimmed(" ".join(rest)))


def _verb_of(words: Sequence[str]) -> tuple[str, list[str]]:
    if not words:
        return "", []
    if " ".join(words[:2]) in _groups():
        return " ".join(words[:2]), list(words[2:])
    verb = base_form(words[0])
    if verb == "new":
        verb = "create"
    return (verb, list(words[1:])) if verb in _groups() else ("", list(words))


def _kind(verb: str) -> str:
    return str(_groups()[verb]["kind"]) if verb in _groups() else "act"


def base_form(word: str) -> str:
    """The base form of a verb in the third person: "searches" -> "search"."""
    if word in _groups() or not word.endswith("s") or word.endswith("ss"):
        return word
    for end, new in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(end) and (made := word[: -len(end)] + new) in _groups():
            return made
    return word[:-1] if len(word) > 3 else word


def said_for(verb: str) -> Sequence[str]:
    """What users say for a verb of a description; empty if it is only said as it is."""
    said: Sequence[str] = _groups().get(verb, {}).get("said", [])
    return said if verb not in ("give", "make") else ()  # "make a key invalid" is not "set up a key invalid"


def participle(verb: str) -> str:
    """The past participle of a verb; of a phrasal verb, that of its first word with the rest."""
    first, _, rest = verb.partition(" ")
    irregular: Mapping[str, str] = table()["participles"]
    if first in irregular:
        made = irregular[first]
    elif first.endswith("e"):
        made = f"{first}d"
    elif first.endswith("y") and first[-2:-1] not in "aeiou":
        made = f"{first[:-1]}ied"
    elif re.fullmatch(r"[^aeiou]*[aeiou][bdgmnprt]", first):
        made = f"{first}{first[-1]}ed"
    else:
        made = f"{first}ed"
    return f"{made} {rest}" if rest else made


def _with_article(words: Sequence[str]) -> str:
    text = " ".join(words)
    if not text or words[0] in ("the", "a", "an", "all", "my", "me", "us", "to", "from", "in", "by", "for", "with"):
        return text
    return text if is_plural(text) else f"the {text}"


def is_plural(phrase: str) -> bool:
    """Whether a noun phrase is in the plural, by its head: the last word before a preposition."""
    head = re.split(r"\s(?:of|in|for|from|to|at|on|by|with|between)\s", f"{phrase} ")[0].split()
    last = head[-1].lower() if head else ""
    return last.endswith("s") and not last.endswith(("ss", "us", "is", "news"))


def _trimmed(text: str) -> str:
    if text.startswith("that "):  # "note that a plant has a pest"
        return text
    cut = _CUT.split(f" {text}")[0].strip() or text.strip()
    return re.sub(r"\s(?:on|in|for|of|to|with|by|at|from)(?:\s(?:an?|the))?$", "", cut)


def lower_first(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[:2] == "A " else text
