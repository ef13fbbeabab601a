"""What a parameter is about, by the words of its name and description (kinds.toml), and how users call it. Knows no
values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from swift.synth.names import CHINESE, singular, tokens
from swift.system import toml_file

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("from", "origin", "source", "src", "departure", "sender"), "from"),
    **dict.fromkeys(("to", "destination", "dest", "target", "arrival", "recipient", "receiver"), "to"),
    **dict.fromkeys(("start", "begin", "since", "checkin", "first", "earliest"), "start"),
    **dict.fromkeys(("after",), "after"),
    **dict.fromkeys(("end", "until", "till", "through", "checkout", "before", "last", "stop"), "end"),
    **dict.fromkeys(("due", "deadline", "by", "latest"), "due"),
    **dict.fromkeys(("min", "minimum", "lowest", "least"), "min"),
    **dict.fromkeys(("max", "maximum", "highest", "most"), "max"),
}
_ENDS = {"from": "from", "to": "to", "start": "from", "end": "to"}
_ADDRESSEES = frozenset(("address", "recipient", "shipping", "billing", "contact", "addressee"))
"""What has the name of a person, not its own."""
_POINTS = frozenset(("point", "location", "place", "position"))
_SAID = (
    (r"\bremind(?:ed)?\b", "task"),
    (r"\biata\b|\bairport code", "airport"),
    (r"^(?:\w+ ){0,3}e-?mail address", "email"),
)
"""Words of a description -> a kind, whatever the name is."""
_CLAUSE = re.compile(
    r"[,.;:(\[]| such as | as | e\.g\.| for example | in which | that | which |"
    r" (?:from|between) (?=\d)|[,。;:(\uff0c\uff1b\uff1a\uff08]|例如|比如|如"
)
STAMP = re.compile(
    r"(?<![a-z])(?=[MDS:\-/., ]*(?:YYYY|HH))(?:YYYY|MM|DD|HH|SS)(?:(?:, |[:\-/.T ])?(?:YYYY|MM|DD|HH|SS))+Z?(?![a-z])",
    re.IGNORECASE,
)
"""A format of dates and times within a description: parts of a date or a time, with a year or an hour among them."""


class Kind(NamedTuple):
    """What a parameter is about. `phrases`: how its value stands in a sentence, with {p} for the slot and {label}.
    `merge`: how the value joins the noun that it names. `role`: from, to, min ... or empty. `unit`: whether the words
    of a value contain its unit."""

    name: str
    phrases: tuple[str, ...]
    phrases_zh: tuple[str, ...]
    merge: str
    role: str
    unit: bool = False


@cache
def kinds() -> Mapping[str, Any]:
    """kinds.toml."""
    return toml_file.read(Path(__file__).with_name("kinds.toml"))


def pool(name: str) -> list[str]:
    """The elements of a pool of kinds.toml."""
    text = str(kinds()["pools"][name])
    return text.split("|") if "|" in text else text.split()


def kind_row(name: str) -> Mapping[str, Any]:
    """The row of a kind of texts in kinds.toml."""
    return next(row for row in kinds()["kind"] if row["name"] == name)


def label(name: str, about: str) -> str:
    """How users call a parameter: the first words of its description if they are few, else its name."""
    if CHINESE.search(about):
        return label_zh(about) or " ".join(tokens(name))
    first = _CLAUSE.split(about.strip())[0].strip()
    first = re.sub(r"^(?:the|an?|your|its|optional|new|only)\s+", "", first, flags=re.IGNORECASE)
    first = re.sub(r" with (?:its|their|the) .+$", "", first)
    first = re.sub(r"^(?:ISO(?:[- ]?8601)?|IATA) ", "", first)
    first = re.sub(r"\s(?:on|in|at|by|for|from|of)$", "", first)
    first = re.sub(r"^(?:full )?(?:name|title) of (?:the |an? )?([a-z]+)$", r"\1", first, flags=re.IGNORECASE)
    words = first.split()
    is_noun = (
        1 <= len(words) <= 4
        and re.search("[A-Za-z]", first)
        and not re.search(
            r"\b(?:whether|if|those|these|everything|anything|how|what|which|who|where|when|why|is|are|to|in|they|it|this|each|goes?|takes?|many|much|most|least|per"
            r"|must|can|should|count|hh|yyyy)\b",
            first.lower(),
        )
    )
    if is_noun:
        return first if first[:2].isupper() else first[:1].lower() + first[1:]
    named = [each for each in tokens(name) if each not in ("str", "value")]
    if len(named) > 1 and any(named[-1] in row["words"] for row in kinds()["unit"]):
        named = named[:-1]  # values have their unit
    return " ".join(named) or name


def label_zh(about: str) -> str:
    """The first words of a Chinese description, without what only describes: "城市名称,例如北京" -> "城市"."""
    first = _CLAUSE.split(about.strip())[0].strip()
    first = re.sub(r"^(?:要|需要|用户的?|想要)?(?:查询|搜索|设置|添加|取消|修改|删除)?的", "", first)
    return re.sub(r"(?:名称|名字)$", "", first)[:8]


def role_of(name: str) -> str:
    """What a parameter is by its name: where something starts or ends, the least or the most; empty for neither."""
    words = tokens(name)
    return next((ROLES[word] for word in ("".join(words), *words) if word in ROLES), "")


def recognised(name: str, about: str, type_: str, owner: str) -> Kind:
    """The kind of a parameter by the words of its name, then of its description."""
    words, low = tokens(name), about.lower()
    role = role_of(name)
    if type_ == "boolean":
        return Kind("bool", (), (), "", role)
    is_number = type_ in ("integer", "number")
    rows = kinds()["number" if is_number else "kind"]
    found = _by_name(rows, words, owner, low) or _by_about(rows, low) or rows[-1]
    if found["name"] == "text" and role in _ENDS and set(words) <= ROLES.keys() | _POINTS:  # where a way starts
        found, role = kind_row("place"), _ENDS[role]
    if found["name"] in ("first_name", "last_name"):
        role = ""  # the first and the last of a name are no ends
    stated = next((each for pattern, each in _SAID if re.search(pattern, low)), "")
    if stated and not is_number:
        found = kind_row(stated)
    if "code" in words and re.search(r"source|python|script|program|snippet", low) and not is_number:
        found = kind_row("code")
    unit = unit_of(name, about) if is_number else None
    if is_number and re.search(r"\bchange\b|\bby how (?:many|much)\b|\bdifference\b", low):
        role = role or "by"
    return Kind(
        str(found["name"]),
        tuple(found["phrases"]),
        tuple(found.get("phrases_zh", ())) or ("{label}{p}", "{label}是{p}"),
        str(found.get("merge", "")),
        role,
        unit is not None,
    )


def _stated(parameter: str, schema: Mapping[str, Any], about: str) -> Kind | None:
    """The kind of a text whose schema or description states its format."""
    name = {"date": "date", "time": "time", "date-time": "datetime", "email": "email", "uri": "url"}.get(
        str(schema.get("format", ""))
    )
    if name is None and (found := STAMP.search(about)) and type_of(schema) == "string" and not schema.get("enum"):
        parts = found[0].upper()
        name = "datetime" if "Y" in parts and "H" in parts else "date" if "Y" in parts else "time"
    if name is None:
        return None
    row = kind_row(name)
    words = [word for word in re.findall("[a-z]+", about.lower())[:3] if word not in ("from", "to", "by")]
    role = role_of(parameter) or next((ROLES[word] for word in words if word in ROLES), "")
    return Kind(name, tuple(row["phrases"]), tuple(row["phrases_zh"]), str(row.get("merge", "")), role)


def kind_of(name: str, schema: Mapping[str, Any], owner: str) -> Kind:
    """The kind of a parameter with a schema; of an array, that of its elements."""
    about, type_ = str(schema.get("description", "")), type_of(schema)
    if type_ == "array":
        return recognised(singular(name), about, type_of(schema.get("items") or {}), owner)
    return _stated(name, schema, about) or recognised(name, about, type_, owner)


def unit_of(name: str, about: str) -> Mapping[str, Any] | None:
    """The unit that a name or a description states."""
    words, low = tokens(name), about.lower()
    rows: Sequence[Mapping[str, Any]] = kinds()["unit"]
    for row in rows:
        if words and words[-1] in row["words"] and len(words[-1]) > 1:
            return row
    for row in rows:
        if any(re.search(rf"\b{re.escape(each.strip())}\b", low) for each in row["about"]):
            return row
        if any(each in about for each in row.get("zh", ())):
            return row
    return None


def _by_name(rows: Sequence[Mapping[str, Any]], words: Sequence[str], owner: str, low: str) -> Mapping[str, Any] | None:
    core = [word for word in words if word not in ("str", "value", "new", "old", "text" if len(words) > 1 else "")]
    if core == ["name"] and _ADDRESSEES & set(tokens(owner)):
        return kind_row("person")
    if core == ["name"]:
        said = _by_about(
            [row for row in rows if row["name"] in ("host", "person", "company", "city", "product", "file")], low
        )
        return (
            said or _by_words(rows, tokens(owner)[::-1]) or next((row for row in rows if row["name"] == "title"), None)
        )
    if core[-1:] == ["name"]:
        core = core[:-1]
    return _by_words(rows, ["".join(words), "_".join(words), *core[::-1]])


def _by_words(rows: Sequence[Mapping[str, Any]], words: Sequence[str]) -> Mapping[str, Any] | None:
    for word in words:
        for row in rows:
            if word in row["words"] or singular(word) in row["words"]:
                return row
    return None


def _by_about(rows: Sequence[Mapping[str, Any]], low: str) -> Mapping[str, Any] | None:
    best: tuple[int, Mapping[str, Any]] | None = None
    for row in rows:
        for text in (*row.get("about", ()), *row.get("zh", ())):
            if CHINESE.search(text):
                at = low.find(text.lower())
            else:
                found = re.search(rf"\b{re.escape(text.strip())}\b", low)
                at = found.start() if found else -1
            if at >= 0 and (best is None or at < best[0]):
                best = at, row
    return best[1] if best else None


def type_of(schema: Mapping[str, Any]) -> str:
    """The JSON type of a schema, which need not state it."""
    if isinstance(schema.get("type"), str):
        return str(schema["type"])
    if schema.get("enum"):
        kinds_ = {bool: "boolean", int: "integer", float: "number"}
        return kinds_.get(type(schema["enum"][0]), "string")
    return "object" if schema.get("properties") else "array" if "items" in schema else "string"
