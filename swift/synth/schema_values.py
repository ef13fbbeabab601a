"""A property of a JSON schema -> a parameter of the catalogue: its kind, and values that users could say. Knows no
question.

Values come from the schema (enum, default, examples, limits, formats), from what its description lists or quotes, and
from the kind that the words of its name and description tell (kinds.toml).
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema.exceptions import SchemaError
from num2words import num2words

from swift.agent import schemas
from swift.synth import values
from swift.synth.catalogue import Parameter
from swift.synth.values import in_words

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHINESE = re.compile("[\u3400-\u9fff]")
COUNT = 60
"""Values that are made of a template or a range."""
DEPTH = 6
"""References and objects within each other that are followed."""
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
GENERIC = frozenset(
    [
        "id",
        "ids",
        "number",
        "no",
        "name",
        "value",
        "string",
        "text",
        "code",
        "key",
        "type",
        "of",
        "the",
        "a",
        "an",
        "to",
        "from",
        "in",
        "on",
        "at",
        "for",
        "and",
        "or",
    ]
)
_CLAUSE = re.compile(
    r"[,.;:(\[]| such as | e\.g\.| for example | in which | that | which |"
    r" (?:from|between) (?=\d)|[,。;:(]|例如|比如|如"
)
_EXAMPLES = re.compile(
    r"(?:such as|e\.g\.?,?|for example,?|for instance,?|例如|比如|例:|如:|如)\s*[::]?\s*(.+)", re.IGNORECASE
)
_ONE_OF = re.compile(
    r"(?:one of|either|allowed values(?: are)?|options(?: are)?|possible values(?: are)?|可选值?|取值)[::]?\s*(.+)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"'([^'\n]{1,40})'(?!\w)|\"([^\"\n]{1,40})\"|`([^`\n]{1,40})`|“([^”\n]{1,40})”")
_BETWEEN = re.compile(
    r"(?:between|from)?\s*(?<![\w.])(-?\d+(?:\.\d+)?)\s*%?\s*(?:to|and|-|–|\.\.|~|到|至)\s*(-?\d+(?:\.\d+)?)(?![\w-]|\.\d)"
)
_STAMP = re.compile(r"[YMDHSTZ:\-/. ]*(?:YYYY|HH)[YMDHSTZ:\-/. ]*(?:MM|DD|SS)", re.IGNORECASE)


_FULL: Mapping[str, str] = {
    **{day[:3]: day for day in ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")},
    "wont fix": "won't fix",
    "dont know": "don't know",
}
"""Short values of enums -> how users say them."""
_CAPITALISED = frozenset(
    [
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
        "january",
        "february",
        "march",
        "april",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
        "english",
        "german",
        "french",
        "spanish",
        "chinese",
        "japanese",
        "italian",
    ]
)


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
        if any(re.search(rf"\b{re.escape(str(each).lower())}\b", called.lower()) for each in self.parameter.enum):
            return label(self.name, "")  # the description begins with a value: "Metric or imperial"
        return called


class NoValues(ValueError):
    """A parameter for which no value is known that its schema allows."""


@cache
def kinds() -> Mapping[str, Any]:
    """kinds.toml."""
    made: dict[str, Any] = tomllib.loads(Path(__file__).with_name("kinds.toml").read_text(encoding="utf-8"))
    return made


def properties(
    schema: Mapping[str, Any], rng: random.Random, given: Mapping[str, Sequence[Any]], owner: str
) -> tuple[Property, ...]:
    """The properties of an object's schema. `given`: values from examples, by the path of the property. `owner`: what
    the object is about, for properties that are called "name". Raises NoValues for a required one without values;
    optional ones without values are left out."""
    return tuple(_properties(schema, schema, rng, given, owner, "", 0))


def _properties(
    schema: Mapping[str, Any],
    root: Mapping[str, Any],
    rng: random.Random,
    given: Mapping[str, Sequence[Any]],
    owner: str,
    before: str,
    depth: int,
) -> Iterator[Property]:
    required = schema.get("required", ())
    for name, each in schema.get("properties", {}).items():
        is_optional = name not in required
        try:
            yield _property(name, resolved(each, root), root, rng, given, owner, before, depth, is_optional)
        except NoValues:
            if not is_optional:
                raise


def _property(
    name: str,
    schema: Mapping[str, Any],
    root: Mapping[str, Any],
    rng: random.Random,
    given: Mapping[str, Sequence[Any]],
    owner: str,
    before: str,
    depth: int,
    is_optional: bool,
) -> Property:
    about, type_ = str(schema.get("description", "")), _type(schema)
    path = f"{before}{name}"
    if type_ == "object" and depth == 0 and schema.get("properties"):
        inner = tuple(_properties(schema, root, rng, given, name, f"{path}.", 1))
        if not inner:
            raise NoValues(f"{path}: no value is known")
        parameters = {each.name: each.parameter for each in inner}
        made = Parameter(about, "object", None, is_optional, parameters=parameters)
        return Property(name, about, made, recognised(name, about, "object", owner), inner)
    if type_ == "array":
        items = resolved(schema.get("items") or {}, root)
        shown = {**items, "description": f"{items.get('description', '')} {about}".strip()}
        kind = recognised(singular(name), about, _type(items), owner)
        low, high = max(1, schema.get("minItems", 1)), min(schema.get("maxItems", 3), 8)
        of = _of(singular(name), shown, root, kind, rng, given.get(path, ()), depth)
        if isinstance(of, list) and schema.get("uniqueItems"):
            high = min(high, len(of))
        made = Parameter(about, "array", of, is_optional, count=(low, max(low, high)))
        return Property(name, about, made, kind)
    kind = kind_of(name, schema, owner)
    of = _of(name, schema, root, kind, rng, given.get(path, ()), depth)
    what = about
    if of in ("date", "time"):  # such values are only converted where the description names the format
        what = f"{about} ({'YYYY-MM-DD' if of == 'date' else 'HH:MM'})"
    enum = tuple(schema.get("enum", ()))
    return Property(name, about, Parameter(what, type_, of, is_optional, enum, schema.get("default")), kind)


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


def label(name: str, about: str) -> str:
    """How users call a parameter: the first words of its description if they are few, else its name."""
    if CHINESE.search(about):
        return label_zh(about) or " ".join(tokens(name))
    first = _CLAUSE.split(about.strip())[0].strip()
    first = re.sub(r"^(?:the|an?|your|its|optional|new|only)\s+", "", first, flags=re.IGNORECASE)
    first = re.sub(r"\s(?:on|in|at|by|for|from|of)$", "", first)
    words = first.split()
    is_noun = (
        1 <= len(words) <= 4
        and re.search("[A-Za-z]", first)
        and not re.search(
            r"\b(?:whether|if|those|these|everything|anything|how|what|which|who|where|when|is|are|to|in|they|it|this|each|goes?|takes?|many|much|most|least|per"
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


def tokens(name: str) -> list[str]:
    """The words of a name, in lower case."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\-.\s]+", " ", name)
    return spaced.lower().split()


def recognised(name: str, about: str, type_: str, owner: str) -> Kind:
    """The kind of a parameter by the words of its name, then of its description."""
    words, low = tokens(name), about.lower()
    role = next((ROLES[word] for word in words if word in ROLES), "")
    if type_ == "boolean":
        return Kind("bool", (), (), "", role)
    is_number = type_ in ("integer", "number")
    rows = kinds()["number" if is_number else "kind"]
    found = _by_name(rows, words, owner, low) or _by_about(rows, low) or rows[-1]
    if "code" in words and re.search(r"source|python|script|program|snippet", low) and not is_number:
        found = _row("code")
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
    if name is None and (found := _STAMP.search(about)) and _type(schema) == "string" and not schema.get("enum"):
        name = "datetime" if "Y" in found[0] and "H" in found[0] else "date" if "Y" in found[0] else "time"
    if name is None:
        return None
    row = _row(name)
    words = [word for word in re.findall("[a-z]+", about.lower())[:3] if word not in ("from", "to", "by")]
    role = next((ROLES[word] for word in (*tokens(parameter), *words) if word in ROLES), "")
    return Kind(name, tuple(row["phrases"]), tuple(row["phrases_zh"]), str(row.get("merge", "")), role)


def kind_of(name: str, schema: Mapping[str, Any], owner: str) -> Kind:
    """The kind of a parameter with a schema; of an array, that of its elements."""
    about, type_ = str(schema.get("description", "")), _type(schema)
    if type_ == "array":
        return recognised(singular(name), about, _type(schema.get("items") or {}), owner)
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


def _type(schema: Mapping[str, Any]) -> str:
    if isinstance(schema.get("type"), str):
        return str(schema["type"])
    if schema.get("enum"):
        kinds_ = {bool: "boolean", int: "integer", float: "number"}
        return kinds_.get(type(schema["enum"][0]), "string")
    return "object" if schema.get("properties") else "array" if "items" in schema else "string"


# --- values ---------------------------------------------------------------------------------------------------------


def _of(
    name: str,
    schema: Mapping[str, Any],
    root: Mapping[str, Any],
    kind: Kind,
    rng: random.Random,
    given: Sequence[Any],
    depth: int,
) -> Any:
    """Values, as `swift.synth.values.draw` takes them. Raises NoValues if the schema allows none that is known."""
    about, type_ = str(schema.get("description", "")), _type(schema)
    if schema.get("enum"):
        return [[said, each] for each in schema["enum"] for said in enum_words(each, about)]
    if type_ == "boolean":
        return "bool"
    if type_ == "object":
        return _objects(schema, root, rng, name, depth)
    if type_ == "array":
        raise NoValues(f"{name}: arrays within arrays are not supported")
    if type_ in ("integer", "number"):
        return _numbers(name, schema, about, kind, rng, given)
    made = _strings(name, schema, about, kind, rng, given)
    return _allowed(name, made, {key: each for key, each in schema.items() if key not in ("$defs",)}, rng)


def _allowed(name: str, of: Any, schema: Mapping[str, Any], rng: random.Random) -> Any:
    """The values that the schema allows."""
    try:
        checker = schemas.checker({"type": "string", **schema})
    except SchemaError as error:
        raise NoValues(f"{name}: {error.message}") from None
    limited = any(key in schema for key in ("pattern", "minLength", "maxLength", "not"))
    if not limited or not isinstance(of, list):
        return of
    kept = [each for each in of if all(checker.is_valid(values.draw([each], rng).value) for _ in range(3))]
    if not kept:
        rule = next(f"{key} {schema[key]}" for key in ("pattern", "minLength", "maxLength", "not") if key in schema)
        raise NoValues(f"{name}: no value is known that its {rule} allows: give examples in its description")
    return kept


def enum_words(value: Any, about: str) -> list[str]:
    """How users say a value of an enum: its words, and what the description says it means."""
    text = in_words(value)
    plain = " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).replace("_", " ").split()) or text
    if isinstance(value, str) and not text.isupper():
        plain = plain.lower() if re.search("[A-Z].*[A-Z]", text) else plain
    plain = _FULL.get(plain, plain)
    said = [plain.title()] if plain in _CAPITALISED else [plain]
    quoted = rf"['\"`]?{re.escape(text)}['\"`]?"
    meaning = re.search(
        rf"(?<![\w-]){quoted}\s*(?:\(([^()]{{2,40}})\)|(?:=|:|means|for|is|表示|代表|为)\s*([^,.;()/,。;、]{{1,40}}))",
        about,
    )
    if meaning:
        explained = (meaning[1] or meaning[2]).strip(" '\"")
        if explained and explained.lower() != plain.lower() and len(explained.split()) <= 5:
            said = [explained, explained, *said] if len(text) <= 2 or isinstance(value, int) else [explained, *said]
    return said


def listed(about: str) -> tuple[list[str], bool]:
    """(values that a description names, whether they are all there are)."""
    for pattern, closed in ((_ONE_OF, True), (_EXAMPLES, False)):
        found = pattern.search(about)
        if found:
            rest = re.split(r"(?:[.;)](?=\s|$)|[。;)]|; | - )", found[1])[0]
            quoted = [next(filter(None, each)) for each in _QUOTED.findall(rest)]
            parts = quoted or [each.strip(" '\"") for each in re.split(r",\s+|\s+or\s+|\s+and\s+|、|或|,", rest)]
            parts = [part.removeprefix("or ").strip() for part in parts]
            kept = [each for each in parts if 0 < len(each) <= 40 and len(each.split()) <= 6]
            if kept:
                return kept, closed and len(kept) > 1
    quoted = [next(filter(None, each)) for each in _QUOTED.findall(about)]
    if quoted:
        return quoted, len(quoted) > 1 and " or " in about
    words = re.fullmatch(r"(?:\w+: )?(\w+)(?:, (\w+))*,? or (\w+)\.?", about.strip())
    if words:
        return re.split(r",\s*|\s+or\s+", about.strip().rstrip(".").split(": ")[-1]), True
    return [], False


def _strings(
    name: str, schema: Mapping[str, Any], about: str, kind: Kind, rng: random.Random, given: Sequence[Any]
) -> Any:
    zh = bool(CHINESE.search(about))
    names, closed = listed(about)
    names = [each for each in names if not re.search(r"YYYY|HH:|[#^]", each)]
    if closed:
        return [[said, each] for each in names for said in enum_words(each, about)]
    stamps = _moments(schema, about, kind, rng, zh)
    if stamps:
        return stamps
    own = [str(each) for each in [*given, *names, *_own(schema)] if not re.search("[#^]", str(each))]
    if schema.get("format") == "uuid":
        return [str_uuid(rng) for _ in range(COUNT)]
    pattern = _from_pattern(str(schema.get("pattern", "")))
    if pattern:
        return pattern
    row = _row(
        kind.name
        if schema.get("format") not in ("email", "uri")
        else {"email": "email", "uri": "url"}[schema["format"]]
    )
    if kind.name == "id" and not own and (counted := _counted(about)):
        return [counted]
    if kind.name == "id" and own:  # codes like the examples: the same letters with other digits, or another code
        shapes = [shape(each) for each in own]
        return [*own, *[each for each in shapes if re.search("[#^]", each)] * 8]
    made = _expanded(row, rng, zh)
    if own and kind.name == "text":  # nothing but the examples tells what the values are
        shapes = [each for each in map(shape, own) if "#" in each]
        return own * max(1, 20 // len(own)) + shapes + (made[: COUNT // 3] if isinstance(made, list) else [])
    if isinstance(made, str):
        made = (
            list(values.LISTS[made]) if made in values.LISTS else [values.draw(made, rng).words for _ in range(COUNT)]
        )
    return [*own, *own, *made]


def _counted(about: str) -> str:
    """The pattern of a description such as "13 digits" or "three-letter code"; empty for none."""
    names = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
    found = re.search(r"\b(\d+|two|three|four|five|six)[- ](digit|letter|位数字)s?\b", about.lower())
    if not found:
        return ""
    count = names.get(found[1]) or int(found[1])
    return ("^" if found[2] == "letter" else "#") * min(count, 20)


def _own(schema: Mapping[str, Any]) -> list[Any]:
    examples = schema.get("examples")
    found = list(examples) if isinstance(examples, list) else []
    return [
        *found,
        *(schema[key] for key in ("example", "default") if isinstance(schema.get(key), str) and schema[key]),
    ]


def shape(text: str) -> str:
    """A code as a pattern of the catalogue: "HB-1234" -> "HB-####", and "MUG-BLUE" -> "^^^-^^^^"."""
    if any(each.isdigit() for each in text):
        return re.sub(r"\d", "#", text)
    return re.sub("[A-Z]", "^", text) if text.isupper() else text


def str_uuid(rng: random.Random) -> str:
    digits = "".join(rng.choice("0123456789abcdef") for _ in range(32))
    return "-".join((digits[:8], digits[8:12], f"4{digits[13:16]}", f"a{digits[17:20]}", digits[20:]))


def pool(name: str) -> list[str]:
    """The elements of a pool of kinds.toml."""
    text = str(kinds()["pools"][name])
    return text.split("|") if "|" in text else text.split()


def _row(name: str) -> Mapping[str, Any]:
    return next(row for row in kinds()["kind"] if row["name"] == name)


def _expanded(row: Mapping[str, Any], rng: random.Random, zh: bool) -> Any:
    templates = row.get("values_zh" if zh else "values", row["values"])
    if isinstance(templates, str):
        return templates
    made: dict[str, None] = {}
    for _ in range(3 * COUNT):
        text = rng.choice(rng.choice(templates).split("|"))
        text = re.sub(r"<(\w+)>", lambda found: rng.choice(pool(found[1])), text)
        if row.get("lower"):
            text = text.lower()
        if rng.random() < row.get("capital", 0):
            text = text[:1].upper() + text[1:]
        made[text] = None
        if len(made) == COUNT:
            break
    return list(made)


def _from_pattern(pattern: str) -> list[str]:
    """A regular expression of fixed length as a pattern of the catalogue; empty for any other."""
    body = pattern.removeprefix("^").removesuffix("$")
    made, at = "", 0
    part = re.compile(r"(\[A-Z\]|\\d|\[0-9\]|\[1-9\]|\\?[\w\-/ :#.]|\\[.+\-])(?:\{(\d+)(?:,(\d+))?\})?")
    while at < len(body):
        found = part.match(body, at)
        if not found:
            return []
        one = {"[A-Z]": "^", "\\d": "#", "[0-9]": "#", "[1-9]": "#"}.get(found[1], found[1].removeprefix("\\"))
        made += one * int(found[2] or 1)
        at = found.end()
    return [made] if made else []


def _moments(schema: Mapping[str, Any], about: str, kind: Kind, rng: random.Random, zh: bool) -> Any:
    """Dates and times: what is said, and the value in the format that the schema or the description states."""
    stated = {"date": "YYYY-MM-DD", "time": "HH:MM", "date-time": "YYYY-MM-DDTHH:MM:SS"}.get(schema.get("format", ""))
    found = _STAMP.search(about)
    text = found[0].strip() if found else stated
    if not text and kind.name in ("date", "time", "datetime") and re.search(r"\bISO\b", about):
        text = {"date": "YYYY-MM-DD", "time": "HH:MM", "datetime": "YYYY-MM-DDTHH:MM:SS"}[kind.name]
    if not text:
        if kind.name in ("date", "datetime", "time"):
            return _loose_moments(kind.name, rng, zh)
        return None
    if text == "YYYY-MM-DD" and not zh:
        return "date"
    if text == "HH:MM" and not zh:
        return "time"
    form = re.sub("YYYY", "%Y", text.upper())
    form = re.sub("(?<=HH[:.])MM", "%M", form)
    form = form.replace("MM", "%m", 1) if "%M" in form or "HH" not in form else form
    form = form.replace("DD", "%d").replace("HH", "%H").replace("SS", "%S")
    pairs = []
    for _ in range(COUNT):
        moment = datetime(2025, 1, 1) + timedelta(days=rng.randrange(1000), minutes=15 * rng.randrange(96))
        pairs.append([_said_moment(moment, form, rng, zh), moment.strftime(form)])
    return pairs


def _said_moment(moment: datetime, form: str, rng: random.Random, zh: bool) -> str:
    has_day, has_time = "%d" in form, "%H" in form
    if zh:
        day = f"{moment.year}年{moment.month}月{moment.day}日"
        return (day if has_day else "") + (f"{moment:%H:%M}" if has_time else "")
    day = rng.choice(
        (f"{moment:%B} {moment.day}, {moment.year}", f"{moment.day} {moment:%B} {moment.year}", f"{moment:%Y-%m-%d}")
    )
    clock = rng.choice(
        (f"{moment:%H:%M}", f"{moment.hour % 12 or 12}:{moment:%M} {'am' if moment.hour < 12 else 'pm'}")
    )
    return f"{day} at {clock}" if has_day and has_time else day if has_day else clock


def _loose_moments(name: str, rng: random.Random, zh: bool) -> list[str]:
    """Dates and times that are copied as they are said: no format is stated."""
    days = ["tomorrow", "today", "next Friday", "Monday", "the 5th of May", "Tuesday morning", "this weekend", "June 3"]
    clocks = ["noon", "8 pm", "7:30", "half past nine", "18:45", "6 am", "10:15", "midnight"]
    if zh:
        days, clocks = (
            ["明天", "后天", "下周一", "周五", "5月3日", "今天"],
            ["下午3点", "晚上8点", "早上7点半", "18:30", "中午"],
        )
    of = "date" if name != "time" else "time"
    if name == "datetime":
        return [f"{rng.choice(days)}{'' if zh else ' at '}{rng.choice(clocks)}" for _ in range(COUNT)]
    drawn = [] if zh else [values.draw(of, rng).words for _ in range(COUNT // 2)]
    return [*(days if of == "date" else clocks), *drawn]


def _numbers(
    name: str, schema: Mapping[str, Any], about: str, kind: Kind, rng: random.Random, given: Sequence[Any]
) -> Any:
    is_whole = _type(schema) == "integer"
    unit = unit_of(name, about)
    low, high = _range(schema, about, unit, kind.name)
    zh = bool(CHINESE.search(about))
    step = schema.get("multipleOf")
    if unit is None and is_whole and not step and not given:
        return f"int {int(low)}..{int(high)}"
    drawn: dict[str, float | int] = {}
    for each in given:
        if isinstance(each, int | float):
            drawn[str(each)] = each
    for _ in range(3 * COUNT):
        number: float | int = rng.randint(int(low), int(high)) if high - low >= 1 or is_whole else low
        if step:
            number = round(number / step) * step
        elif not is_whole and (rng.random() < 0.5 or high - low < 1):
            number = round(rng.uniform(low, high), rng.choice((1, 2)))
        if low <= number <= high:
            number = int(number) if number == int(number) else number
            drawn[str(number)] = number
        if len(drawn) >= COUNT:
            break
    if not drawn:
        raise NoValues(f"{name}: no number is known that its schema allows")
    if unit is None:
        return list(drawn.values())
    says = unit.get("says_zh", unit["says"]) if zh else unit["says"]
    worded = {text: num2words(each) for text, each in drawn.items() if not zh and isinstance(each, int) and each <= 20}
    shown = {text: worded[text] if text in worded and rng.random() < 0.3 else text for text in drawn}
    forms = {
        text: [form for form in says if shown[text].isascii() and (shown[text] == text or " " in form)]
        for text in drawn
    }
    pairs: list[list[Any]] = [[rng.choice(forms[text]).replace("#", shown[text]), each] for text, each in drawn.items()]
    pairs += [] if zh else [pair for pair in unit.get("also", ()) if low <= pair[1] <= high]
    return pairs


def _range(schema: Mapping[str, Any], about: str, unit: Mapping[str, Any] | None, kind: str) -> tuple[float, float]:
    row = next(each for each in kinds()["number"] if each["name"] == kind)
    low, high = (unit or row)["range"]
    found = _BETWEEN.search(re.sub(r"\s*\([^()]*\)", "", about))
    if found and float(found[1]) < float(found[2]):
        low, high = float(found[1]), float(found[2])
    elif atmost := re.search(r"(?:at most|up to|maximum(?: is)?|最多|不超过)\s*(\d+)", about):
        high = float(atmost[1])
        low = min(low, high)
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    whole = 1 if _type(schema) == "integer" else 0.01
    if isinstance(least, int | float):
        least += whole if "minimum" not in schema else 0
        high = max(high, least + (high - low))
        low = max(low, least)
    if isinstance(most, int | float):
        most -= whole if "maximum" not in schema else 0
        low, high = (low if low <= most else least if isinstance(least, int | float) else most - 10), min(high, most)
        if found is None and isinstance(least, int | float):
            low, high = least, most
    return float(low), float(max(low, high))


def _objects(schema: Mapping[str, Any], root: Mapping[str, Any], rng: random.Random, name: str, depth: int) -> Any:
    """Objects of a list, or within an object: pairs of their words and their value."""
    if depth > DEPTH:
        raise NoValues(f"{name}: its schema contains itself")
    fields = list(_properties(schema, root, rng, {}, name, "", depth + 2))
    if not fields:
        keys = ["colour", "size", "weight", "owner", "source", "level"]
        return [[f"{key} {each}", {key: each}] for key in keys for each in ("red", "large", "7", "kim")]
    pairs = []
    for _ in range(COUNT):
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
        pairs.append(
            [
                " ".join((texts[0], f"({', '.join(texts[1:])})")) if texts[1:] else texts[0],
                {each: said.value for each, said in drawn.items()},
            ]
        )
    return pairs


def nouns_of(name: str) -> list[str]:
    """The nouns of a function's name, in the singular."""
    words = tokens(name)
    rest = [word for word in words[1:] or words if word not in GENERIC and len(word) > 1]
    return [singular(word) for word in rest]


def singular(name: str) -> str:
    if name.endswith("ies") and len(name) > 4:
        return f"{name[:-3]}y"
    if name.endswith(("sses", "shes", "ches", "xes")):
        return name[:-2]
    return name[:-1] if name.endswith("s") and not name.endswith(("ss", "us", "is")) and len(name) > 3 else name
