"""A parameter's schema -> values that users could say.

They come from the schema (enum, default, examples, limits, formats), from what its description lists or quotes, and
from the parameter's kind.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema.exceptions import SchemaError
from num2words import num2words

from swift.agent import schemas
from swift.synth import kinds, values, wording
from swift.synth.kinds import Kind, type_of, unit_of
from swift.synth.moments import moments
from swift.synth.names import CHINESE, tokens
from swift.synth.pattern_values import matching
from swift.synth.values import COUNT, in_words

FEW = 10
"""Values of a pattern below which others that match it are made."""
ALSO = 3
"""How often each phrase for a certain number is among the values: "half an hour"."""
_EXAMPLES = re.compile(
    r"(?:such as|e\.g\.?,?|for example,?|for instance,?|例如|比如|例:|例\uff1a|如:|如\uff1a|如)"
    r"\s*[:\uff1a]?\s*(.+)",
    re.IGNORECASE,
)
_ONE_OF = re.compile(
    r"(?:one of|either|allowed values(?: are)?|options(?: are)?|possible values(?: are)?|可选值?|取值)"
    r"[:\uff1a]?\s*(.+)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"'([^'\n]{1,40})'(?!\w)|\"([^\"\n]{1,40})\"|`([^`\n]{1,40})`|“([^”\n]{1,40})”")
_BETWEEN = re.compile(
    r"(?:between|from)?\s*(?<![\w.])(-?\d+(?:\.\d+)?)\s*%?\s*(?:to|and|-|–|\.\.|~|到|至)\s*(-?\d+(?:\.\d+)?)(?![\w-]|\.\d)"
)

_VAGUE = frozenset(
    (
        "text",
        "mode",
        "status",
        "club",
        "line",
        "seat",
        "scene",
        "size",
        "part_of",
        "role",
        "vehicle",
        "warehouse",
        "stop",
    )
)
"""Kinds whose values are less certain than the examples of a description."""
_RATES = frozenset(("rate", "interest", "discount", "tax", "vat", "tip", "commission", "margin", "inflation"))
_LARGE = frozenset(
    ("principal", "salary", "income", "loan", "mortgage", "revenue", "capital", "investment", "turnover")
)
"""Words of names -> numbers that are smaller, or larger, than those of their kind."""
_DEVICES = frozenset(("device", "appliance", "machine", "sensor"))
"""Words of names that have the phrases of rooms, but values of their own: "the dishwasher"."""
_DAYS = frozenset(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"))
_MONTHS = frozenset(
    ("january", "february", "march", "april", "june", "july", "august", "september", "october", "november", "december")
)
_LANGUAGES = frozenset(("english", "german", "french", "spanish", "chinese", "japanese", "italian"))
_CAPITALISED = _DAYS | _MONTHS | _LANGUAGES
_FULL: Mapping[str, str] = {
    **{day[:3]: day for day in _DAYS},
    "wont fix": "won't fix",
    "dont know": "don't know",
}
"""Short values of enums -> how users say them."""


class NoValues(ValueError):
    """A parameter for which no value is known that its schema allows."""


def values_of(name: str, schema: Mapping[str, Any], kind: Kind, rng: random.Random, given: Sequence[Any]) -> Any:
    """Values of a text, a number, a boolean or an enum, as `swift.synth.values.draw` takes them. `given`: values from
    examples. Raises NoValues if the schema allows none that is known."""
    about, type_ = str(schema.get("description", "")), type_of(schema)
    if schema.get("enum"):
        return _worded(schema["enum"], about)
    if type_ == "boolean":
        return "bool"
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
    if "pattern" in schema and len(kept) < FEW:  # such as a few examples in the description
        made = matching(schema, COUNT, rng)
        kept += [each for each in made if checker.is_valid(each) and not re.search("[#^]", each)]
    if not kept:
        rule = next(f"{key} {schema[key]}" for key in ("pattern", "minLength", "maxLength", "not") if key in schema)
        raise NoValues(f"{name}: no value is known that its {rule} allows: give examples in its description")
    return kept


def _worded(choices: Sequence[Any], about: str) -> list[list[Any]]:
    """Pairs of the words and the value of each choice: half of them in its own words, the others in other words. Words
    that may mean two of the choices are left out."""
    own = {str(each): enum_words(each, about) for each in choices}
    more = {each: [word for text in said for word in wording.of_value(text)] for each, said in own.items()}
    meant = Counter(word.lower() for each in own for word in {*own[each], *more[each]})
    pairs: list[list[Any]] = []
    for each in choices:
        said = own[str(each)]
        others = [word for word in more[str(each)] if meant[word.lower()] == 1]
        pairs += [[word, each] for word in said * max(1, len(others) // len(said)) + others]
    return pairs


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
            rest = re.split(r"(?:[.;)](?=\s|$)|[。;)\uff1b\uff09]|; | - )", found[1])[0]
            quoted = [next(filter(None, each)) for each in _QUOTED.findall(rest)]
            parts = quoted or [each.strip(" '\"") for each in re.split(r",\s+|\s+or\s+|\s+and\s+|、|或|,|\uff0c", rest)]
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
        return _worded(names, about)
    stamps = moments(schema, about, kind, rng, zh)
    if stamps:
        return stamps
    own = [str(each) for each in [*given, *names, *_own(schema)] if not re.search("[#^]", str(each))]
    if schema.get("format") == "uuid":
        return [str_uuid(rng) for _ in range(COUNT)]
    pattern = _from_pattern(str(schema.get("pattern", "")))
    if pattern:
        return pattern
    stated = {"email": "email", "uri": "url"}.get(str(schema.get("format")), kind.name)
    row = kinds.kind_row("device" if stated == "room" and _DEVICES & set(tokens(name)) else stated)
    if row.get("codes") and re.search(r"\bISO\b|\bcode\b", about):  # people say the word, or the code
        return [*row["codes"], *([code, code] for _, code in row["codes"])]
    if kind.name == "id" and not own and (counted := _counted(about)):
        return [counted]
    if kind.name == "id" and own:  # codes like the examples: the same letters with other digits, or another code
        shapes = [shape(each) for each in own]
        return [*own, *[each for each in shapes if re.search("[#^]", each)] * 8]
    made = _expanded(row, rng, zh)
    if own and kind.name in _VAGUE:  # nothing but the examples tells what the values are
        shapes = [each for each in map(shape, own) if "#" in each]
        others = made[: COUNT // 3] if isinstance(made, list) and (kind.name == "text" or not shapes) else []
        return own * max(1, 20 // len(own)) + shapes + others
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


def _expanded(row: Mapping[str, Any], rng: random.Random, zh: bool) -> Any:
    templates = row.get("values_zh" if zh else "values", row["values"])
    if isinstance(templates, str):
        return templates
    made: dict[str, None] = {}
    for _ in range(3 * COUNT):
        text = rng.choice(rng.choice(templates).split("|"))
        text = re.sub(r"<(\w+)>", lambda found: rng.choice(kinds.pool(found[1])), text)
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


def _numbers(
    name: str, schema: Mapping[str, Any], about: str, kind: Kind, rng: random.Random, given: Sequence[Any]
) -> Any:
    is_whole = type_of(schema) == "integer"
    unit = unit_of(name, about)
    low, high = _range(name, schema, about, unit, kind.name)
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
    worded = {text: num2words(each) for text, each in drawn.items() if not zh and values.is_worded(each)}
    shown = {text: worded[text] if text in worded and rng.random() < 0.3 else text for text in drawn}
    forms = {
        text: [form for form in says if shown[text].isascii() and (shown[text] == text or " " in form)]
        for text in drawn
    }
    pairs: list[list[Any]] = [[rng.choice(forms[text]).replace("#", shown[text]), each] for text, each in drawn.items()]
    limits = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    is_free = [low, high] == list(unit["range"]) and not set(limits) & schema.keys()  # only usual values are drawn
    pairs += [] if zh else ALSO * [pair for pair in unit.get("also", ()) if is_free or low <= pair[1] <= high]
    return pairs


def _range(
    name: str, schema: Mapping[str, Any], about: str, unit: Mapping[str, Any] | None, kind: str
) -> tuple[float, float]:
    row = next(each for each in kinds.kinds()["number"] if each["name"] == kind)
    low, high = (unit or row)["range"]
    if _RATES & set(tokens(name)):
        low, high = (1, 25)
    elif kind == "price" and _LARGE & set(tokens(name)):
        low, high = (2_000, 400_000)
    found = _BETWEEN.search(re.sub(r"\s*\([^()]*\)", "", about))
    if found and float(found[1]) < float(found[2]):
        low, high = float(found[1]), float(found[2])
    elif atmost := re.search(r"(?:at most|up to|maximum(?: is)?|最多|不超过)\s*(\d+)", about):
        high = float(atmost[1])
        low = min(low, high)
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    whole = 1 if type_of(schema) == "integer" else 0.01
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
