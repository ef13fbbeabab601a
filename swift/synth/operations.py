"""Operations of services, of which only facts are known (names, types, enums, what is required) -> functions of the
catalogue. Reads no file.

Every sentence is made here or by the grammar of `described`, from names and types.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from swift.agent import schemas
from swift.chat import Tool
from swift.synth import described, kinds, verbs
from swift.synth.catalogue import Domain, Function
from swift.synth.names import singular

MOST_PARAMETERS = 8
MOST_LETTERS = 4
"""Letters of a word in capitals that stays so, as in "VPC"."""
_TECHNICAL = re.compile(
    r"(?:next|page|continuation|client|idempotency|request|sync|task|session|start|clientrequest|nextpage)_?token|\w*marker|"
    r"dry_?run|e_?tag|fields|alt|kind|self_?link|.*(?:md5|sha1|sha256|crc\w*|checksum)\w*|expected_?bucket_?owner|"
    r"request_?payer|if_(?:none_)?match\w*|.*signature|starting_?after|start_?cursor|cursor|client_?request_?id|"
    r"request_?id|quota_?user|on_behalf_of_\w+|supports_\w+|include_items_from_\w+",
    re.IGNORECASE,
)
"""Parameters that programs fill in and people never say."""


class Field(NamedTuple):
    """A parameter. `type`: string, integer, number, boolean or time, or empty for another; `is_list`: a list of them.
    `is_id`: its values name a thing, whatever its name."""

    name: str
    type: str
    required: bool
    is_list: bool = False
    enum: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    pattern: str = ""
    least_letters: int = 0
    most_letters: int = 0
    is_id: bool = False


class Operation(NamedTuple):
    """An operation of a service. `words`: its name, the verb first. `is_code`: its values are names as programs have
    them, such as "nightly-backup"."""

    service: str
    title: str
    words: tuple[str, ...]
    fields: tuple[Field, ...]
    is_code: bool = True


@dataclass(frozen=True)
class Made:
    """Functions of a service. `skipped`: operations that nobody could ask for in words."""

    domain: Domain
    skipped: int


def domain(service: str, operations: Sequence[Operation], most: int) -> Made:
    """The functions of a service as a domain, at most `most` of them, which the name of the service draws."""
    tools: dict[str, Tool] = {}
    for operation in operations:
        if (made := tool(operation)) is not None:
            tools.setdefault(made.name, made)
    names = random.Random(zlib.crc32(service.encode())).sample(sorted(tools), len(tools))
    functions: dict[str, Function] = {}
    tried = 0
    while tried < len(names) and len(functions) < most:
        some = names[tried : tried + most - len(functions)]
        tried += len(some)
        offered = (_offered(each, service) for each in described.functions([tools[name] for name in some]).functions)
        functions |= {each.name: each for each in offered if len(each.ask) >= described.LEAST}
    skipped = len({operation.words for operation in operations}) - len(tools) + tried - len(functions)
    return Made(Domain(service, False, functions, ()), skipped)


def _offered(function: Function, service: str) -> Function:
    """A function that conversations may rename and describe in fewer words, like those of the catalogue. Questions with
    a value within a compound noun are left out: "the bucket sales-logs policy"."""
    nouns = "|".join(re.escape(word) for word in function.name.split("_")[1:])
    within = re.compile(rf"\}}[\"”]? (?:the )?(?:{nouns})s?\b|\b(?:an?|the) \w+ the\b", re.IGNORECASE)

    def whole(texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(text for text in texts if not within.search(text))

    missing = {path: texts for path, texts in function.missing.items() if not within.search(texts[0])}
    return replace(
        function, domain=service, given=None, ask=whole(function.ask), pair=whole(function.pair), missing=missing
    )


def tool(operation: Operation) -> Tool | None:
    """The operation as a tool; None if it has no parameter or too many, or requires one that nobody says."""
    fields = []
    for field in operation.fields:
        if _is_said(field, operation):
            fields.append(field)
        elif field.required:
            return None
    words = [word.lower() for word in operation.words]
    if not 1 <= len(fields) <= MOST_PARAMETERS or len(words) < 2 or {words[1], words[-1]} & _PREPOSITIONS:
        return None
    if words[0] in ("batch", "quick") or words[-1] in ("recursive", "async", "batch"):
        return None
    nouns = [word.lower() for word in operation.words[1:]]
    properties = {field.name: _schema(field, nouns, operation) for field in fields}
    schema = {
        "type": "object",
        "properties": properties,
        "required": [field.name for field in fields if field.required],
    }
    name = "_".join(word.lower() for word in operation.words)
    function = {"name": name, "description": description(operation), "parameters": schema}
    return Tool({"type": "function", "function": function})


def _is_said(field: Field, operation: Operation) -> bool:
    """Whether a person could say a value of a parameter, and its values are known."""
    if not field.type or _TECHNICAL.fullmatch(_snake(field.name)):
        return False
    if field.type != "string" or field.enum:
        return True
    if _of_string(field, operation.words[1:], operation).get("examples"):
        return True
    kind = kinds.recognised(field.name, about(field, operation.words[1:]), "string", operation.words[-1])
    return kind.name in (_SAID if operation.is_code else _SAID | _SAID_IN_OFFICES)


_SAID = frozenset((
    "email", "phone", "url", "ip", "host", "file", "folder", "date", "time", "weekday", "timezone", "country",
    "language", "currency", "message", "reason", "query",
))  # fmt: skip
"""Kinds of texts whose values fit any service."""
_SAID_IN_OFFICES = frozenset(("title", "person", "task", "address", "city", "company", "username", "colour"))


# --- sentences --------------------------------------------------------------------------------------------------------


def description(operation: Operation) -> str:
    """What an operation does, from its name: ("Create", "DB", "Cluster") -> "Create a DB cluster in RDS."."""
    verb, *rest = operation.words
    of = _owner_in(rest, operation.fields)
    noun = " ".join(_shown(word) for word in rest[of:])
    whole = f" of {_one(' '.join(_shown(word) for word in rest[:of]))}" if of else ""
    named = f"the {noun}" if of else _with_article(noun, verb.lower())
    return f"{verb.capitalize()} {named}{whole} in {operation.title}."


def _owner_in(nouns: Sequence[str], fields: Sequence[Field]) -> int:
    """How many of the nouns name what a required parameter names, if others follow: 1 for "bucket policy"."""
    low = [noun.lower() for noun in nouns]
    for field in fields:
        words = [word.lower() for word in split(field.name) if word.lower() not in _ENDS]
        if field.required and words and len(words) < len(low) and low[: len(words)] == words:
            return len(words)
    return 0


_ENDS = frozenset(("name", "id", "ids", "arn", "url", "identifier"))


def about(field: Field, nouns: Sequence[str]) -> str:
    """What a parameter is, from its name and type."""
    words = [_shown(word) for word in split(field.name)]
    low = [word.lower() for word in words]
    text = _noun_phrase(words, low, nouns, field)
    if field.type == "time":
        return f"{text} (YYYY-MM-DDTHH:MM:SS)"
    return text


def _noun_phrase(words: list[str], low: list[str], nouns: Sequence[str], field: Field) -> str:
    owner = " ".join(_shown(each) for each in nouns) if nouns else "resource"
    if field.type == "boolean":
        return _switch(words, low)
    if low[0] == "max" and len(low) > 1:
        return f"Maximum number of {' '.join(words[1:])}" if low[-1].endswith("s") else f"Maximum {' '.join(words[1:])}"
    if low[0] == "min" and len(low) > 1:
        return f"Minimum {' '.join(words[1:])}"
    last = low[-1]
    for end, shown in (("name", "Name"), ("id", "Id"), ("arn", "ARN"), ("identifier", "Identifier"), ("url", "URL")):
        if last == end:
            of = " ".join(words[:-1]) or singular(owner)
            return f"{shown} of the {of}"
        if last == f"{end}s":
            of = " ".join(words[:-1]) or singular(owner)
            return f"{shown}s of the {of if of.endswith('s') else f'{of}s'}"
    text = " ".join(words)
    return f"Id of the {text}" if field.is_id else text[:1].upper() + text[1:]


def _switch(words: list[str], low: list[str]) -> str:
    if low[0] in _VERBS or verbs.verb_of(low[0], "") == low[0]:
        return f"Whether to {' '.join([low[0], *words[1:]])}"
    if low[0] in ("is", "has"):
        return f"Whether it {' '.join(words)}"
    rest = " ".join(words[:-1])
    if low[-1] in _STATES and rest:
        return f"Whether {rest} {'are' if verbs.is_plural(rest) else 'is'} {low[-1]}"
    return f"Whether to use {' '.join(words)}"


_STATES = frozenset(("enabled", "disabled", "required", "allowed", "encrypted", "deleted", "protected", "hidden"))
_PREPOSITIONS = frozenset(("with", "as", "from", "to", "for", "by", "on", "in"))
_VERBS = frozenset((
    "include", "exclude", "force", "skip", "enable", "disable", "show", "send", "delete", "retain", "overwrite",
    "apply", "use", "ignore", "allow", "copy", "keep", "create", "reverse", "return", "recurse", "recursive",
    "reboot", "start", "stop", "wait", "encrypt", "terminate", "sync", "publish", "require",
))  # fmt: skip


_MAKES = frozenset(("create", "add", "put", "register", "insert", "import", "allocate", "start", "send", "publish"))


def _with_article(noun: str, verb: str) -> str:
    if verbs.is_plural(noun):
        return noun if verb in ("list", "search", "find", "describe", "get", "scan") else f"the {noun}"
    if verb not in _MAKES:
        return f"the {noun}"
    return _one(noun)


def _one(noun: str) -> str:
    """A noun phrase with the indefinite article."""
    first = noun.split()[0]
    has_vowel = first[0] in "AEFHILMNORSX" if first.isupper() else first[0] in "aeio"
    return f"{'an' if has_vowel else 'a'} {noun}"


def split(name: str) -> list[str]:
    """The words of a name, in the letters that they have: "DBInstanceIds" -> DB, Instance, Ids."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\-.\s]+", " ", name)
    return spaced.split()


def _shown(word: str) -> str:
    return word if word.isupper() and 1 < len(word) <= MOST_LETTERS else word.lower()


def _snake(name: str) -> str:
    return "_".join(split(name)).lower()


# --- values -----------------------------------------------------------------------------------------------------------


def _schema(field: Field, nouns: Sequence[str], operation: Operation) -> dict[str, Any]:
    """The JSON schema of a parameter, with examples where `kinds.toml` would say what no service
    takes."""
    each: dict[str, Any] = {"type": "string" if field.type == "time" else field.type}
    if field.type == "time":
        each["format"] = "date-time"
    if field.enum:
        each["enum"] = list(field.enum)
    for word, limit in (("minimum", field.minimum), ("maximum", field.maximum)):
        if limit is not None:
            each[word] = limit
    if field.type == "string" and not field.enum:
        each |= _of_string(field, nouns, operation)
    text = about(field, nouns)
    if field.is_list:
        return {"type": "array", "items": each, "description": text, "maxItems": 3}
    return {**each, "description": text}


def _of_string(field: Field, nouns: Sequence[str], operation: Operation) -> dict[str, Any]:
    words = [word.lower() for word in split(field.name)]
    last = singular(words[-1]) if field.is_list else words[-1]
    noun = (words[:-1] or list(nouns) or ["item"])[-1]
    rng = random.Random(zlib.crc32(f"{operation.service} {field.name}".encode()))
    if "region" in words:
        return _fitting(field, _REGIONS, r"^[a-z]{2}-[a-z]+-\d$")
    if last == "id" and "account" in words:
        return _fitting(field, [str(rng.randrange(10**11, 10**12)) for _ in range(24)], r"^\d{12}$")
    if last == "arn":
        heads = [
            f"arn:aws:{operation.service}:{rng.choice(_REGIONS)}:{rng.randrange(10**11, 10**12)}" for _ in range(24)
        ]
        return _fitting(field, [f"{head}:{noun}/{_slug(rng)}" for head in heads], "^arn:.+$")
    if last in ("id", "identifier") or field.is_id:
        if operation.is_code:
            ids = [f"{noun[:4]}-{rng.getrandbits(32):08x}" for _ in range(24)]
            return _fitting(field, ids, r"^[a-z]{1,4}-[0-9a-f]{8}$")
        return _fitting(field, [f"{rng.getrandbits(40):010x}" for _ in range(24)], r"^[0-9a-f]{10}$")
    if operation.is_code and (last in _NAMED or last == noun or last in nouns or words[-1] in _NAMED):
        return _fitting(field, [_slug(rng) for _ in range(24)], r"^[a-z]+-[a-z]+(?:-\d+)?$")
    return _limits(field)


def _fitting(field: Field, examples: Sequence[str], pattern: str) -> dict[str, Any]:
    """The examples that the service takes; any of its own limits that none of them meets is returned instead."""
    limits = _limits(field)
    checker = schemas.checker(limits)
    kept = [each for each in examples if checker.is_valid(each)]
    return {"examples": kept, "pattern": pattern} if kept else limits


def _limits(field: Field) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if field.pattern:
        try:
            re.compile(field.pattern)
        except re.error:  # of another dialect
            limits["pattern"] = r"^[A-Za-z0-9\-]+$"
        else:
            limits["pattern"] = f"^(?:{field.pattern})$"
    if field.least_letters:
        limits["minLength"] = field.least_letters
    if field.most_letters:
        limits["maxLength"] = field.most_letters
    return limits


_NAMED = frozenset(("name", "prefix", "alias", "bucket", "key", "cluster", "queue", "role", "user", "group", "topic"))
_REGIONS = ("eu-west-1", "eu-central-1", "us-east-1", "us-west-2", "ap-south-1", "ap-northeast-1", "sa-east-1")
_FIRST = (
    "orders", "billing", "web", "team", "nightly", "staging", "audit", "mobile", "sales", "payments", "photo",
    "weekly", "partner", "search", "beta",
)  # fmt: skip
_SECOND = (
    "archive", "logs", "backup", "service", "events", "reports", "images", "jobs", "worker", "cache", "users",
    "metrics", "uploads", "export",
)  # fmt: skip


def _slug(rng: random.Random) -> str:
    text = f"{rng.choice(_FIRST)}-{rng.choice(_SECOND)}"
    return f"{text}-{rng.randint(2, 99)}" if rng.random() < 0.4 else text


# --- service models ---------------------------------------------------------------------------------------------------

_SCALARS: Mapping[str, str] = {
    "string": "string",
    "character": "string",
    "integer": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "boolean": "boolean",
    "timestamp": "time",
}


def of_botocore(service: str, model: Mapping[str, Any]) -> Iterator[Operation]:
    """The operations of a botocore service model (service-2.json)."""
    shapes = model["shapes"]
    title = str(model["metadata"].get("serviceId") or service)
    for operation in model["operations"].values():
        if operation.get("deprecated") or "input" not in operation:
            continue
        shape = shapes[operation["input"]["shape"]]
        required = set(shape.get("required", ()))
        fields = tuple(
            _botocore_field(name, member, shapes, name in required)
            for name, member in shape.get("members", {}).items()
            if not member.get("idempotencyToken") and not member.get("deprecated")
        )
        words = [word for word in split(operation["name"]) if not re.fullmatch(r"V?\d+", word)]
        yield Operation(service, title, tuple(words), fields)


def _botocore_field(name: str, member: Mapping[str, Any], shapes: Mapping[str, Any], required: bool) -> Field:
    shape = shapes[member["shape"]]
    is_list = shape["type"] == "list"
    if is_list:
        shape = shapes[shape["member"]["shape"]]
    type_ = "" if shape.get("sensitive") else _SCALARS.get(shape["type"], "")
    is_text = type_ == "string"
    low, high = shape.get("min"), shape.get("max")
    return Field(
        name,
        type_,
        required,
        is_list,
        tuple(shape.get("enum", ())),
        None if is_text else low,
        None if is_text else high,
        shape.get("pattern", "") if is_text else "",
        int(low or 0) if is_text else 0,
        int(high or 0) if is_text else 0,
    )


_DISCOVERY: Mapping[str, str] = {"string": "string", "integer": "integer", "number": "number", "boolean": "boolean"}
_VERBS_OF_METHODS: Mapping[str, str] = {"insert": "create", "patch": "update"}


def of_discovery(service: str, document: Mapping[str, Any]) -> Iterator[Operation]:
    """The methods of a discovery document, with the simple properties of their bodies."""
    title = re.sub(r"\s*(?:(?:Data|JSON) )*API(?: v\d+)?$", "", str(document.get("title", service))) or service
    if document.get("ownerName") == "Google" and not re.search("Google|YouTube|Gmail", title):
        title = f"Google {title}"
    for path, method in _methods(document):
        resource, action = path[-2], split(path[-1])
        verb = action[0].lower()
        verb = _VERBS_OF_METHODS.get(verb, verb)
        noun = split(resource)
        if verb not in ("list", "search"):
            noun = [*noun[:-1], singular(noun[-1])]
        fields = [_discovery_field(name, each) for name, each in method.get("parameters", {}).items()]
        body = document.get("schemas", {}).get(method.get("request", {}).get("$ref", ""), {})
        known = {field.name for field in fields}
        for name, each in body.get("properties", {}).items():
            if (
                name not in known
                and not _BY_SERVICE.fullmatch(name)
                and not each.get("readOnly")
                and not each.get("deprecated")
            ):
                fields.append(_discovery_field(name, each))
        yield Operation(service, title, (verb, *noun, *action[1:]), tuple(fields), is_code=False)


def _methods(
    part: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    for name, method in part.get("methods", {}).items():
        if path and not method.get("deprecated"):
            yield (*path, name), method
    for name, resource in part.get("resources", {}).items():
        yield from _methods(resource, (*path, name))


def _discovery_field(name: str, given: Mapping[str, Any]) -> Field:
    each, is_list = given, bool(given.get("repeated"))
    if given.get("type") == "array":
        each, is_list = given.get("items", {}), True
    type_ = _DISCOVERY.get(str(each.get("type", "")), "")
    form = str(each.get("format", ""))
    if type_ == "string":
        type_ = {"date-time": "time", "google-datetime": "time", "int64": "integer", "uint64": "integer"}.get(
            form, type_
        )
        type_ = "" if form in ("byte", "google-fieldmask", "google-duration") else type_
    low, high = (_number(each.get(word)) if type_ != "string" else None for word in ("minimum", "maximum"))
    enum = tuple(value for value in each.get("enum", ()) if not value.endswith("_UNSPECIFIED"))
    pattern = str(each.get("pattern", ""))
    is_id = given.get("location") == "path" and split(name)[-1].lower() not in _PLAIN_PATHS
    return Field(name, type_, bool(given.get("required")), is_list, enum, low, high, pattern, is_id=is_id)


_PLAIN_PATHS = frozenset(("email", "date", "language", "region", "country"))
_BY_SERVICE = re.compile(
    r"id|created\w*|updated\w*|modified\w*|deleted|last[A-Z]\w*|\w*(?:creation|update)Time", re.ASCII
)
"""Properties of bodies that the service sets, whatever its document says."""


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return int(number) if number == int(number) else number
