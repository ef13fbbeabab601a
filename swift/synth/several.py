"""Several things in one message: lists of values for one function, and requests that are joined. Knows no call.

A question of the catalogue asks for one call. `template` makes one for two to four calls of it; what is said once is
the same in all of them. `joined` makes one message of several requests.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from swift.synth import kinds, phrasing
from swift.synth.catalogue import SLOT, Function
from swift.synth.names import tokens
from swift.synth.phrasing import Request

Phrases = Mapping[str, Any]
LONGEST_ITEM = 48
"""Characters of a value in a list; longer ones are not listed in one sentence."""
_PREPOSITION = re.compile(r"\b(in|into|from|to|on|onto|of|for|by|with|at|about|under|near|through)\s+$", re.IGNORECASE)
_NO_LIST_AFTER = re.compile(
    r"(?:^|\b(?:an?|one|this|between|versus|vs|and|or|plus|minus|times)\s+|[-–/×*+=^(]\s*)$", re.I
)
_VERB_AFTER = re.compile(
    r"\s*(?:(?:and|or|to|times|plus|minus)\b|[-–/×*+=^]|\s(?:is|has|was|wants?|needs?|comes?|goes|gets|does|asks|should"
    r"|can|will|would|must|just|have|had)\b)",
    re.IGNORECASE,
)
_THIRD_PERSON = re.compile(r"\s+[a-z]+s\s")
_UNIT_AFTER = re.compile(r"\s[a-zA-Z°%/]+(?=[.,;:?!]|$)")
_STATEMENT_AFTER = re.compile(r"\s+[\w]")


class Item(NamedTuple):
    """A slot of a text with what belongs to it: quotes, a currency, a unit. `start`, `end`: its place in the text."""

    path: str
    start: int
    end: int


def question(
    function: Function, count: int, rng: random.Random, phrases: Phrases, language: str
) -> tuple[str, tuple[Request, ...]] | None:
    """One question for `count` calls of a function, in the order of the question. None where its questions allow no
    list, or values are drawn that do not stand well in one."""
    texts = function.zh if language == "zh" else function.ask
    if not texts:
        return None
    made = template(function, phrasing.with_parts(rng.choice(texts), rng, rng.choice((0.0, 0.3))), count, rng, phrases)
    if made is None:
        return None
    text, found = phrasing.requests(function, made, rng, language)
    differ = [path for path in found[0].said if len({each.said[path].words for each in found}) > 1]
    for path in differ:
        words = [each.said[path].words for each in found]
        if len(set(words)) < len(words) or any(re.search(r"[,;\n。,]| and |和", each) for each in words):
            return None
        if max(map(len, words)) > LONGEST_ITEM:
            return None
    return (text, found) if differ else None


def template(function: Function, text: str, count: int, rng: random.Random, phrases: Phrases) -> str | None:
    """A template without optional parts -> one with slots {1.x}, {2.x} ... that differ between calls."""
    items = [each for each in _items(text) if _varies(function, each.path)]
    required = [each for each in items if each.path in function.required()]
    items = required or items
    if not items:
        return None
    ways = [_listed, _listed, _listed_with_preposition, _spans, _spans, _respectively, _below, _same_again]
    if "lists_only" in phrases:  # a language without prepositions
        ways = [_listed]
    rng.shuffle(ways)
    for way in ways:
        made = way(function, text, items, count, rng, phrases)
        if made is not None:
            return made
    return None


def _varies(function: Function, path: str) -> bool:
    about = function.parameter(path)
    return about.type in ("string", "integer", "number") and not (about.enum and about.optional) and about.of != "bool"


def _items(text: str) -> list[Item]:
    """The slots that a text has once, each with its quotes, sign or unit, if nothing but one slot is in there."""
    found = []
    slots = list(SLOT.finditer(text))
    for slot in slots:
        if slot[2] is not None or sum(each[1] == slot[1] for each in slots) > 1:
            continue
        start, end = slot.span()
        while (
            start
            and not text[start - 1].isspace()
            and text[start - 1] not in "([,;:,。、{}"
            and text[start - 1] < "\u3000"
        ):
            start -= 1
        while (
            end < len(text)
            and not text[end].isspace()
            and text[end] not in ".,;:?!)],。、?!{}"
            and text[end] < "\u3000"
        ):
            end += 1
        if len(SLOT.findall(text[start:end])) == 1 and text[start:end].count("{") == 1:
            found.append(Item(slot[1], start, end))
    return found


def _numbered(text: str, paths: Sequence[str], number: int) -> str:
    for path in paths:
        text = text.replace(f"{{{path}}}", f"{{{number}.{path}}}")
    return text


def _list_fits(text: str, item: Item, is_number: bool) -> bool:
    before, after = text[: item.start], text[item.end :]
    is_subject = not before.strip() or before.rstrip()[-1:] in ".?!,;:"
    if is_subject and _STATEMENT_AFTER.match(after):
        return False
    if re.search(r"\}\S*\s+(?:to|and|or|by|x)\s+$", before) and is_number:
        return False
    if re.search(r"\}[^\w{}]*$", before) or re.match(r"[^\w{}]*\{", after):  # "48.2, 16.4": a pair of values
        return False
    if is_number and re.match(r"\s+\w+,?\s+\{", after):  # "5 feet 10 inches"
        return False
    if not is_number and _THIRD_PERSON.match(after):
        return False
    return not (_NO_LIST_AFTER.search(before) or _VERB_AFTER.match(after)) or (not before and not after.strip(" .?!"))


def _is_number(function: Function, path: str) -> bool:
    about = function.parameter(path)
    return about.type != "string" or about.of in ("date", "time")


def _links(links: Sequence[Sequence[str]], count: int, rng: random.Random) -> Sequence[str]:
    """What stands between the parts of a list, and before the last; nothing is final after one thing."""
    return rng.choice([each for each in links if count > 2 or "finally" not in each[1]])


def _together(parts: Sequence[str], between: str, last: str) -> str:
    return last.join([between.join(parts[:-1]), parts[-1]])


def _plural_before(function: Function, before: str, path: str) -> str:
    """ "Cancel booking " -> "Cancel bookings ", where the last word is what the parameter names."""
    found = re.search(r"(?<![\w'])([a-z]{3,})(\s)$", before)
    nouns = {word for name in (path, function.name) for word in tokens(name)}
    if (
        not found
        or found[1] not in nouns
        or found[1].endswith(("s", "y", "ch", "sh", "x"))
        or _PREPOSITION.search(before)
    ):
        return before
    return f"{before[: found.end(1)]}s{found[2]}"


def _listed(
    function: Function, text: str, items: Sequence[Item], count: int, rng: random.Random, phrases: Phrases
) -> str | None:
    """ "Weather in Paris, London and Rome" """
    fitting = [each for each in items if _list_fits(text, each, _is_number(function, each.path))]
    if not fitting:
        return None
    item = rng.choice(fitting)
    parts = [_numbered(text[item.start : item.end], [item.path], number) for number in range(1, count + 1)]
    before = text[: item.start]
    listed = _together(parts, *_links(phrases["lists"], count, rng))
    if count == 2 and _PREPOSITION.search(before) and rng.random() < 0.2 and phrases["both"]:
        listed = rng.choice(phrases["both"]).format(list=_together(parts, "", " and "))
    elif "lists_only" not in phrases:
        before = _plural_before(function, before, item.path)
    return before + listed + text[item.end :]


def _listed_with_preposition(
    function: Function, text: str, items: Sequence[Item], count: int, rng: random.Random, phrases: Phrases
) -> str | None:
    """ "Weather first in Paris, then in London and finally in Rome" """
    fitting = [each for each in items if _list_fits(text, each, True) and _PREPOSITION.search(text[: each.start])]
    return _repeated(text, [rng.choice(fitting)], count, rng, phrases) if fitting else None


def _spans(
    function: Function, text: str, items: Sequence[Item], count: int, rng: random.Random, phrases: Phrases
) -> str | None:
    """ "Book H-1 for Anna and H-2 for Ben" """
    runs = []
    for at in range(len(items)):
        for end in range(at + 2, min(len(items), at + 3) + 1):
            run = items[at:end]
            inner = SLOT.sub("", text[run[0].start : run[-1].end])
            if inner.count("(") != inner.count(")"):
                continue
            slots = len(SLOT.findall(text[run[0].start : run[-1].end]))
            if slots == len(run) and len(inner) <= 40 and not re.search(r"[.?!;:\n]", inner):
                runs.append(run)
    runs = [
        run for run in runs if not re.search(r"(?:^|[.?!,;:])\s*$", text[: run[0].start]) or run[-1].end > len(text) - 2
    ]
    if not runs:
        return None
    run = rng.choice(runs)
    if _is_number(function, run[-1].path) and (unit := _UNIT_AFTER.match(text[run[-1].end :])):
        run = [*run[:-1], run[-1]._replace(end=run[-1].end + unit.end())]
    return _repeated(text, run, count, rng, phrases)


def _repeated(text: str, run: Sequence[Item], count: int, rng: random.Random, phrases: Phrases) -> str | None:
    start, end = run[0].start, run[-1].end
    if before := _PREPOSITION.search(text[:start]):
        start = before.start(1)
    elif re.search(r"\b(?:an?|one|this|between)\s+$", text[:start]):
        return None
    paths = [each.path for each in run]
    span = text[start:end]
    parts = [_numbered(span, paths, number) for number in range(1, count + 1)]
    between, last = _links(phrases["spans"] if len(run) > 1 else phrases["lists"], count, rng)
    first = "first " if between == ", then " and text[:start].strip() and rng.random() < 0.5 else ""
    return text[:start] + first + _together(parts, between, last) + text[end:]


def _respectively(
    function: Function, text: str, items: Sequence[Item], count: int, rng: random.Random, phrases: Phrases
) -> str | None:
    """ "Book H-1 and H-2 for Anna and Ben, respectively" """
    fitting = [each for each in items if _list_fits(text, each, True)]
    bare = text.rstrip(" .?!")
    if len(fitting) < 2 or re.search(r"[.?!;:\n]\s", bare):
        return None
    pair = sorted(rng.sample(fitting, 2), key=lambda each: each.start)
    for item in reversed(pair):
        parts = [_numbered(text[item.start : item.end], [item.path], number) for number in range(1, count + 1)]
        listed = _together(parts, ", ", " and ")
        before = _plural_before(function, text[: item.start], item.path)
        text = before + listed + text[item.end :]
    bare = text.rstrip(" .?!")
    return f"{bare}{rng.choice((', respectively', ' respectively', ', in that order'))}{text[len(bare) :]}"


def _below(
    function: Function, text: str, items: Sequence[Item], count: int, rng: random.Random, phrases: Phrases
) -> str | None:
    """ "Weather in each of these: 1. Paris 2. London" """
    fitting = [each for each in items if _list_fits(text, each, True) and _PREPOSITION.search(text[: each.start])]
    bare = text.rstrip(" .?!")
    if not fitting or re.search(r"[.?!;:\n]\s", bare):
        return None
    item = rng.choice(fitting)
    mark = rng.choice(("{}. ", "{}) ", "- ", "* ", "({}) "))
    lines = [
        mark.format(number) + _numbered(text[item.start : item.end], [item.path], number)
        for number in range(1, count + 1)
    ]
    rest = text[item.end :].rstrip(" .?!")
    separator = rng.choice(("\n", "\n", " "))
    if separator == " " and "{}" not in mark:
        separator = "\n"
    return f"{text[: item.start]}{rng.choice(phrases['these'])}{rest}:{separator}" + separator.join(lines)


def _same_again(
    function: Function, text: str, items: Sequence[Item], count: int, rng: random.Random, phrases: Phrases
) -> str | None:
    """ "Weather in Paris. The same for London and Rome, please." """
    item = rng.choice(items)
    paths = [path for path in (each.path for each in items) if not _is_number(function, path)]
    label = kinds.label(item.path.rpartition(".")[2], function.parameter(item.path).what)
    the = "the " if text[: item.start].endswith(" the ") else ""
    others = [f"{the}{{{number}.{item.path}}}" for number in range(2, count + 1)]
    listed = _together(others, ", ", " and ") if len(others) > 1 else others[0]
    clear = [*paths] == [item.path]
    sentence = rng.choice(phrases["same_for"] if clear else phrases["same_with"]).format(words=listed, label=label)
    first = _numbered(text, [item.path], 1)
    return f"{first if first[-1:] in '.?!' else first + '.'} {sentence}"


# --- requests that are joined ---------------------------------------------------------------------------------------


def joined(texts: Sequence[str], fixed: Sequence[bool], rng: random.Random, phrases: Phrases, language: str) -> str:
    """Several requests as one message. `fixed`: whether a request begins with a value, whose first letter stays."""
    if language == "zh":
        return _sentences([each if each[-1:] in ".?!。?!" else f"{each}。" for each in texts], fixed, rng, phrases)
    way = rng.random()
    if way < 0.3 and (flowing := _flowing(texts, fixed, rng, phrases)):
        return flowing
    if way < 0.45 or (way < 0.6 and len(texts) > 2):
        return _counted(texts, rng, phrases)
    return _sentences([each if each[-1:] in ".?!" else f"{each}." for each in texts], fixed, rng, phrases)


def _flowing(texts: Sequence[str], fixed: Sequence[bool], rng: random.Random, phrases: Phrases) -> str:
    """One sentence, if the requests are all questions or all none and one sentence each."""
    bare = [each.rstrip(" .?!") for each in texts]
    if len({each.rstrip().endswith("?") for each in texts}) > 1 or any(re.search(r"[.?!:\n]\s", each) for each in bare):
        return ""
    parts = [bare[0], *(each if is_fixed else _lower(each) for each, is_fixed in zip(bare[1:], fixed[1:], strict=True))]
    end = "?" if texts[-1].rstrip().endswith("?") else rng.choice((".", ".", ""))
    return _together(parts, rng.choice(phrases["flowing"]), rng.choice(phrases["flowing_last"])) + end


def _counted(texts: Sequence[str], rng: random.Random, phrases: Phrases) -> str:
    """A numbered list, bullets or lines, sometimes after a sentence."""
    mark = rng.choice(("{}. ", "{}. ", "{}) ", "({}) ", "- ", "* ", ""))
    lines = [mark.format(number) + text for number, text in enumerate(texts, 1)]
    separator = rng.choice(("\n", "\n", " ")) if "{}" in mark else "\n"
    intro = ""
    if rng.random() < 0.5:
        intro = rng.choice(phrases["intros"]).format(count=phrases["numbers"][len(texts) - 1])
        intro = intro[:1].upper() + intro[1:] + separator
    return intro + separator.join(lines)


def _sentences(texts: Sequence[str], fixed: Sequence[bool], rng: random.Random, phrases: Phrases) -> str:
    made = texts[0]
    ordered = rng.random() < 0.2 and len(phrases["ordered"]) >= len(texts) and not fixed[0]
    if ordered:
        made = phrases["ordered"][0] + _lower(made)
    for at, (text, is_fixed) in enumerate(zip(texts[1:], fixed[1:], strict=True), 1):
        is_last = at == len(texts) - 1
        if ordered:
            link = phrases["finally"] if is_last and len(texts) > 2 else phrases["ordered"][at]
        else:
            link = rng.choice(
                phrases["links_last"] if is_last and len(texts) > 2 and rng.random() < 0.5 else phrases["links"]
            )
        is_lowered = link[-1:] == " " and link.strip() and link.strip()[-1:] not in ".:!?" and not is_fixed
        made += link + (_lower(text) if is_lowered else text)
    return made


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[:2] == "A " else text
