"""OpenAPI document -> its operations, each with the schema of a tool's arguments. Sends nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import urljoin, urlsplit

from swift.tools.openapi.document import Document, Unsupported
from swift.tools.openapi.schemas import Schema, Schemas

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
READ_ONLY = ("GET", "HEAD", "OPTIONS")
IGNORED_HEADERS = (
    "accept",
    "content-type",
    "authorization",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
)
"""Header parameters that are no arguments: OpenAPI describes the first three elsewhere, HTTP itself sets the others."""
STYLES = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form",),
}
MAX_DESCRIPTION = 1024
"""Characters of a tool's description; OpenAI's API has the same limit."""
MAX_NAME = 64
MAX_SCHEMA = 200_000
"""Characters of a tool's schema, about 50,000 tokens of each prompt."""
_SIMPLE_OBJECT = {"type", "properties", "required", "additionalProperties", "description", "default"}
"""The keywords of an object whose properties may stand beside parameters."""

BodyKind = Literal["json", "form", "multipart", "text"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter. `argument`: its name in the tool's schema. `as_json`: its value is written as JSON text."""

    name: str
    argument: str
    place: str
    style: str
    explode: bool
    as_json: bool = False
    allow_reserved: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """A request body. `argument`: the argument that is the whole body; "" if `fields` are arguments of their own.

    `files`: the fields that are sent as files, in multipart bodies.
    """

    kind: BodyKind
    content_type: str
    required: bool
    argument: str = ""
    fields: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation. `identifier`: its operationId, "" without one. `base`: the URL that `path` is appended to."""

    name: str
    identifier: str
    method: str
    path: str
    base: str
    description: str
    schema: Schema
    parameters: tuple[Parameter, ...]
    body: Body | None


class Named(NamedTuple):
    """An operation that is not yet read. `place`: `paths./items.get`."""

    name: str
    identifier: str
    method: str
    path: str
    place: str
    item: Mapping[str, Any]
    operation: Mapping[str, Any]

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"


class Listed(NamedTuple):
    """`problems`: why something in the document is not an operation. `renamed`: the names that occurred twice."""

    operations: list[Named]
    problems: list[str]
    renamed: list[str]


def listed(document: Document) -> Listed:
    """The operations of a document under distinct names that are valid names of tools."""
    found: list[Named] = []
    problems: list[str] = []
    renamed: list[str] = []
    taken: set[str] = set()
    for path, item in document.root["paths"].items():
        if path.startswith("x-"):
            continue
        place = f"paths.{path}"
        try:
            item = _path_item(document, item, place)
        except Unsupported as error:
            problems.append(str(error))
            continue
        for method in [key for key in item if key in METHODS]:
            at = f"{place}.{method}"
            operation = item[method]
            if not isinstance(operation, dict):
                problems.append(f"{at}: must be an object")
                continue
            identifier = str(operation.get("operationId") or "")
            wished = _tool_name(identifier) or _tool_name(f"{method}_{path.strip('/{}')}")
            name = _unused(wished, taken)
            if name != wished:
                renamed.append(f"{method.upper()} {path} is '{name}' ('{wished}' is another)")
            taken.add(name)
            found.append(Named(name, identifier, method.upper(), path, at, item, operation))
        if "additionalOperations" in item:
            problems.append(f"{place}.additionalOperations: not supported")
    return Listed(found, problems, renamed)


def read(document: Document, named: Named, base: str | None, is_fixed: Callable[[str, str], bool]) -> Operation:
    """An operation. `base`: the URL of the service; None: the document's. `is_fixed(place, name)`: whether the user has
    set a parameter, which is no argument then.

    Raises Unsupported with the reason, ValueError for a reference that leaves the document.
    """
    if named.method in ("TRACE", "QUERY"):
        raise Unsupported(f"the method {named.method} is not supported")
    schemas = Schemas(document)
    try:
        reader = _Reader(document, named, schemas, is_fixed)
        parameters = reader.parameters()
        body = reader.body()
        schema = schemas.complete(reader.schema(body))
        size = len(json.dumps(schema))
    except RecursionError:
        raise Unsupported("its schema is nested too deep") from None
    if size > MAX_SCHEMA:
        raise Unsupported(f"its schema has {size:,} characters, and {MAX_SCHEMA:,} are possible")
    return Operation(
        name=named.name,
        identifier=named.identifier,
        method=named.method,
        path=named.path,
        base=server(document, named) if base is None else base,
        description=_description(named),
        schema=schema,
        parameters=tuple(parameters),
        body=body,
    )


def server(document: Document, named: Named | None = None) -> str:
    """The URL of the service: the first server of an operation, of its path or of the document, without a slash at its
    end. Raises ValueError."""
    lists: list[tuple[str, Any]] = [("servers", document.root.get("servers"))]
    if named is not None:
        lists = [
            (f"{named.place}.servers", named.operation.get("servers")),
            (f"paths.{named.path}.servers", named.item.get("servers")),
            *lists,
        ]
    place, servers = next(((place, servers) for place, servers in lists if servers), ("servers", [{"url": "/"}]))
    if not isinstance(servers, list) or not isinstance(servers[0], dict) or not isinstance(servers[0].get("url"), str):
        raise ValueError(f"{document.name}: {place}: must be a list of objects with a url")
    written, variables = servers[0]["url"], servers[0].get("variables")

    def value(match: re.Match[str]) -> str:
        variable = variables.get(match[1]) if isinstance(variables, dict) else None
        if not isinstance(variable, dict) or "default" not in variable:
            raise ValueError(
                f"{document.name}: {place}[0].url: the variable {match[0]} has no default: give --tool_base_url"
            )
        return str(variable["default"])

    url = re.sub(r"\{([^{}]*)\}", value, written)
    if not document.url and not urlsplit(url).netloc:
        what = f"{place}[0].url is '{url}', without a host" if document.root.get("servers") else "it names no server"
        raise ValueError(f"{document.name}: {what}: give the URL of the service with --tool_base_url")
    return base_url(urljoin(document.url, url), f"{document.name}: {place}[0].url")


def base_url(url: str, place: str) -> str:
    """A URL that paths are appended to, without a slash at its end. Raises ValueError."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        parts, valid = urlsplit(""), False
    if not valid:
        hint = f"; did you mean http://{url}?" if re.match(r"[\w.-]+(:\d+)?(/|$)", url) else ""
        raise ValueError(f"{place}: '{url}' is not an http or https URL{hint}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{place}: a name or password in the URL is not supported: use --tool_header")
    if parts.query or parts.fragment:
        raise ValueError(f"{place}: '{url.partition('?')[0]}' must not go on with ? or #")
    return url.rstrip("/")


class _Reader:
    """Reads parameters and body of one operation, and collects the properties of its tool."""

    def __init__(
        self, document: Document, named: Named, schemas: Schemas, is_fixed: Callable[[str, str], bool]
    ) -> None:
        self._document, self._named, self._schemas, self._is_fixed = document, named, schemas, is_fixed
        self._properties: dict[str, Any] = {}
        self._required: list[str] = []

    def schema(self, body: Body | None) -> Schema:
        made: Schema = {"type": "object", "properties": self._properties, "required": self._required}
        return {**made, "additionalProperties": False}

    def parameters(self) -> list[Parameter]:
        found: dict[tuple[str, str], tuple[dict[str, Any], str]] = {}
        path_place = f"paths.{self._named.path}"
        for holder, place in ((self._named.item, path_place), (self._named.operation, self._named.place)):
            parameters = holder.get("parameters", [])
            if not isinstance(parameters, list):
                raise Unsupported(f"{place}.parameters: must be a list")
            for number, written in enumerate(parameters):
                at = f"{place}.parameters[{number}]"
                parameter = self._document.resolved(written, at)
                if not isinstance(parameter, dict) or not isinstance(parameter.get("name"), str):
                    raise Unsupported(f"{at}: must be an object with a name")
                kind = str(parameter.get("in"))
                if kind not in STYLES:
                    raise Unsupported(f"{at}: a parameter in '{kind}' is not supported")
                found[kind, parameter["name"]] = (parameter, at)
        in_path = re.findall(r"\{([^{}]*)\}", self._named.path)
        declared = [name for place, name in found if place == "path"]
        if odd := next((name for name in in_path if name not in declared), None):
            raise Unsupported(f"the path has '{{{odd}}}', which is no parameter")
        if odd := next((name for name in declared if name not in in_path), None):
            raise Unsupported(f"the path parameter '{odd}' is not in the path")
        made = [self._parameter(parameter, at) for parameter, at in found.values()]
        return [each for each in made if each is not None]

    def _parameter(self, parameter: Mapping[str, Any], at: str) -> Parameter | None:
        name, place = str(parameter["name"]), str(parameter["in"])
        if place == "header" and name.lower() in IGNORED_HEADERS:
            return None
        if self._is_fixed(place, name.lower() if place == "header" else name):
            return None
        content = parameter.get("content")
        schema, as_json = parameter.get("schema", {}), False
        if isinstance(content, dict) and content:
            kind, media = next(iter(content.items()))
            if not _is_json(kind):
                raise Unsupported(f"{at}: a parameter as {kind} is not supported")
            schema, as_json = media.get("schema", {}) if isinstance(media, dict) else {}, True
        style = str(parameter.get("style") or STYLES[place][0])
        if style not in STYLES[place]:
            raise Unsupported(f"{at}: the style '{style}' is not supported in {place}")
        explode = parameter.get("explode")
        argument = name if name not in self._properties else _unused(f"{place}_{name}", self._properties)
        converted = self._schemas.converted(schema, f"{at}.schema")
        self._add(argument, converted, place == "path" or parameter.get("required") is True, parameter)
        exploded = style == "form" if explode is None else explode is True
        reserved = parameter.get("allowReserved") is True
        return Parameter(name, argument, place, style, exploded, as_json, reserved)

    def body(self) -> Body | None:
        at = f"{self._named.place}.requestBody"
        body = self._document.resolved(self._named.operation.get("requestBody"), at)
        if body is None:
            return None
        content = body.get("content") if isinstance(body, dict) else None
        if not isinstance(content, dict) or not content:
            raise Unsupported(f"{at}.content: must be an object with a media type")
        kind, content_type, media = self._media(content)
        schema = media.get("schema", {}) if isinstance(media, dict) else {}
        place = f"{at}.content.{content_type}.schema"
        plain = self._document.resolved(schema, place)
        required = body.get("required") is True
        files = _files(plain) if kind == "multipart" else frozenset()
        if kind in ("form", "multipart") and not _is_object(plain):
            raise Unsupported(f"{place}: a body as {content_type} must be an object")
        own = self._schemas.converted(plain if _is_object(plain) else schema, place)
        if self._can_be_merged(own, required):
            for name, each in own["properties"].items():
                self._add(name, each, name in own.get("required", ()), {})
            return Body(kind, content_type, required, fields=tuple(own["properties"]), files=files)
        argument = "body" if "body" not in self._properties else _unused("request_body", self._properties)
        whole = self._schemas.converted(schema, place)
        self._add(argument, whole, required, body)
        return Body(kind, content_type, required, argument, files=files)

    def _media(self, content: Mapping[str, Any]) -> tuple[BodyKind, str, Any]:
        """The media type that is sent: JSON, a form, or text, in this order."""
        kinds: list[tuple[BodyKind, Callable[[str, Any], bool]]] = [
            ("json", lambda kind, media: kind.partition(";")[0].strip().lower() == "application/json"),
            ("json", lambda kind, media: _is_json(kind)),
            ("form", lambda kind, media: kind.lower().startswith("application/x-www-form-urlencoded")),
            ("multipart", lambda kind, media: kind.lower().startswith("multipart/form-data")),
            ("json", lambda kind, media: kind in ("*/*", "application/*")),
            ("text", self._is_text),
        ]
        for kind, matches in kinds:
            for written, media in content.items():
                if matches(written, media):
                    return kind, "application/json" if "*" in written and kind == "json" else written, media
        raise Unsupported(f"a body as {', '.join(content)} is not supported")

    def _is_text(self, kind: str, media: Any) -> bool:
        if "*" in kind.partition("/")[2]:
            return False
        schema = self._document.resolved(media.get("schema", {}), kind) if isinstance(media, dict) else {}
        return isinstance(schema, dict) and schema.get("type") in ("string", None) and not _is_object(schema)

    def _can_be_merged(self, schema: Any, required: bool) -> bool:
        if not isinstance(schema, dict) or not schema.keys() <= _SIMPLE_OBJECT:
            return False
        if not isinstance(schema.get("properties"), dict) or not isinstance(schema.get("required", []), list):
            return False
        closed = schema.get("additionalProperties", False) is False
        whole = required or not schema.get("required")  # an optional body with required fields is all or nothing
        return (
            bool(schema["properties"])
            and closed
            and whole
            and not schema["properties"].keys() & self._properties.keys()
        )

    def _add(self, argument: str, schema: Any, required: bool, holder: Mapping[str, Any]) -> None:
        about = holder.get("description")
        if isinstance(about, str) and about.strip() and not (isinstance(schema, dict) and "description" in schema):
            schema = {**schema, "description": about.strip()} if isinstance(schema, dict) else {"description": about}
        self._properties[argument] = schema
        if required:
            self._required.append(argument)


def _path_item(document: Document, item: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise Unsupported(f"{place}: must be an object")
    if not place.startswith("paths./"):
        raise Unsupported(f"{place}: a path must begin with /")
    if "$ref" not in item:
        return item
    target = document.resolved(item, place)
    if not isinstance(target, dict):
        raise Unsupported(f"{place}: '$ref: {item['$ref']}' is no path item")
    return {**target, **{key: value for key, value in item.items() if key != "$ref"}}


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict) and (schema.get("type") == "object" or "properties" in schema)


def _files(schema: Any) -> frozenset[str]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return frozenset()
    return frozenset(name for name, each in properties.items() if _is_file(each))


def _is_file(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    binary = schema.get("format") == "binary" or schema.get("contentMediaType") == "application/octet-stream"
    return binary or (schema.get("type") == "array" and _is_file(schema.get("items")))


def _description(named: Named) -> str:
    summary, about = _about(named.operation)
    if not summary and not about:
        summary, about = _about(named.item)
    words, name = (re.sub(r"\W|_", "", text).lower() for text in (summary, named.identifier))
    if about and (name.startswith(words) or about.startswith(summary)):  # FastAPI makes summaries of names
        summary = ""
    text = f"{summary.rstrip('.')}. {about}" if summary and about else summary or about
    text = text or named.label
    if named.operation.get("deprecated") is True:
        text = f"(deprecated) {text}"
    return text if len(text) <= MAX_DESCRIPTION else text[: MAX_DESCRIPTION - 3] + "..."


def _about(holder: Mapping[str, Any]) -> tuple[str, str]:
    summary, about = (str(holder.get(key) or "").strip() for key in ("summary", "description"))
    return summary, about


def _tool_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:MAX_NAME]


def _unused(name: str, taken: Any) -> str:
    number, free = 2, name
    while free in taken:
        ending = f"_{number}"
        free, number = name[: MAX_NAME - len(ending)] + ending, number + 1
    return free
