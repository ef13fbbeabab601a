"""Reads an OpenAPI document, JSON or YAML, from a file or a URL, and follows its references. Knows no operation."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from swift.agent.jsontext import loads
from swift.system import utf8
from swift.system.nearest import nearest_path
from swift.system.urls import without_secrets
from swift.tools.errors import TimeLimitError
from swift.tools.openapi import yaml_values
from swift.tools.openapi.http_client import Credentials, HttpClient, Request, origin

MAX_BYTES = 32 * 2**20
MAX_VALUES = 3_000_000
"""Values of a document, with YAML aliases counted wherever they are used: a few lines of aliases can stand for many."""
MAX_DEPTH = 200
SECONDS = 60.0
"""Time limit of a document's download."""


class Unsupported(Exception):
    """An operation that cannot be a tool, and why."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document. `name`: for messages, without secrets of its URL. `url`: where it comes from, "" for a file."""

    name: str
    url: str
    root: dict[str, Any]

    def target(self, reference: str, place: str) -> Any:
        """What a `$ref` refers to. Raises ValueError for another document, Unsupported for nothing."""
        if not reference.startswith("#"):
            raise ValueError(
                f"{self.name}: {place}: '$ref: {reference}' leaves the document: bundle it into one file, "
                "such as with `redocly bundle`"
            )
        value: Any = self.root
        for step in pointer_steps(reference):
            if isinstance(value, dict) and step in value:
                value = value[step]
            elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                raise Unsupported(f"{place}: '$ref: {reference}' is not in the document")
        return value

    def resolved(self, value: Any, place: str) -> Any:
        """The value that a Reference Object, or a chain of them, stands for; other values as they are."""
        met: set[str] = set()
        while isinstance(value, dict) and isinstance(reference := value.get("$ref"), str):
            if reference in met:
                raise Unsupported(f"{place}: '$ref: {reference}' refers to itself")
            met.add(reference)
            value = self.target(reference, place)
        return value


def pointer_steps(reference: str) -> Sequence[str]:
    """The keys of a local reference such as `#/components/schemas/Pet` (RFC 6901)."""
    return [unquote(step).replace("~1", "/").replace("~0", "~") for step in reference[1:].split("/")[1:]]


def is_url(document: str) -> bool:
    """Whether a document is named by a URL and not by a path."""
    return document.lower().startswith(("http://", "https://"))


def read(document: str, client: HttpClient, credentials: Credentials) -> Document:
    """The document at a path or URL. `credentials` are sent with the request for it.

    Raises ValueError with name and place for anything but OpenAPI 3, OSError where it cannot be read.
    """
    name, url, data = _downloaded(document, client, credentials) if is_url(document) else _file(document)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name}: larger than {MAX_BYTES // 2**20} MiB")
    try:
        text = utf8.decoded(data)
        root = _parsed(text, name.endswith((".yaml", ".yml")))
        _extent(root, 1, {})
        _check_kind(root)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return Document(name, url, root)


def _file(document: str) -> tuple[str, str, bytes]:
    path = Path(document).expanduser()
    if not path.is_file():
        what = "not a file" if path.exists() else f"no such file{nearest_path(path)}"
        raise ValueError(f"{document}: {what}")
    with path.open("rb") as file:
        return document, "", file.read(MAX_BYTES + 1)


def _downloaded(document: str, client: HttpClient, credentials: Credentials) -> tuple[str, str, bytes]:
    parts = urlsplit(document)
    if parts.username or parts.password:
        raise ValueError(
            f"{without_secrets(document)}: a name or password in the URL is not supported: use --tool_header"
        )
    follow = credentials == Credentials()
    request = Request("GET", document, [("Accept", "application/json, application/yaml, */*;q=0.5")], b"", credentials)
    try:
        reply = client.send(request._replace(follow=follow), SECONDS, MAX_BYTES + 1)
    except TimeLimitError:
        raise OSError(f"{without_secrets(document)}: not read within {SECONDS:g} s") from None
    except OSError as error:
        raise OSError(f"{without_secrets(document)}: {error}") from None
    name = without_secrets(reply.url)
    if not 200 <= reply.status < 300:
        hint = ""
        if reply.status in (401, 403) and follow:
            hint = f"; to send --tool_header for the document too, give --tool_base_url {origin(reply.url)}"
        raise OSError(f"{name}: the server answers {reply.status}{hint}")
    if "html" in reply.headers.get("Content-Type", "") or reply.body.lstrip()[:1] == b"<":
        raise ValueError(f"{name}: an HTML page, not an OpenAPI document; often it is {origin(reply.url)}/openapi.json")
    return name, reply.url, reply.body


# Formats --------------------------------------------------------------------------------------------------------------


def _parsed(text: str, is_yaml: bool) -> Any:
    start = text.lstrip()[:1]
    if not start:
        raise ValueError("an empty file")
    if start == "<":
        raise ValueError("an HTML or XML page, not an OpenAPI document")
    if start == "{" and not is_yaml:
        try:
            return loads(text, once=True)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    return yaml_values.load(text, MAX_DEPTH)


class _Extent(NamedTuple):
    """The values that a value contains, and the levels of their nesting."""

    values: int
    levels: int


def _extent(value: Any, level: int, known: dict[int, _Extent]) -> _Extent:
    """Raises ValueError past the limits. `known`: by identity, because YAML aliases share lists and objects."""
    if not isinstance(value, (dict, list)):
        return _Extent(1, 0)
    if (found := known.get(id(value))) is None:
        if level > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        inner = [_extent(each, level + 1, known) for each in (value.values() if isinstance(value, dict) else value)]
        levels = 1 + max((each.levels for each in inner), default=0)
        known[id(value)] = found = _Extent(1 + sum(each.values for each in inner), levels)
    if level + found.levels > MAX_DEPTH + 1:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if found.values > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES:,} values")
    return found


def _check_kind(root: Any) -> None:
    if not isinstance(root, dict):
        raise ValueError("not an OpenAPI document: it must be an object with 'openapi' and 'paths'")
    if "swagger" in root:
        raise ValueError(
            f"Swagger {str(root['swagger'])[:10]}, and only OpenAPI 3 is supported: convert it, such as with the npm "
            "package swagger2openapi"
        )
    if "openapi" not in root:
        fields = ", ".join(list(root)[:5]) or "none"
        raise ValueError(f"not an OpenAPI document: it has no field 'openapi' (its fields: {fields})"[:300])
    if not re.match(r"3\.[0-2](\.|$)", str(root["openapi"])):
        raise ValueError(f"OpenAPI {str(root['openapi'])[:20]} is not supported, only 3.0, 3.1 and 3.2")
    if not isinstance(root.get("paths"), dict):
        missing = "paths" not in root
        raise ValueError(f"'paths' {'is missing' if missing else 'must be an object'}, so there are no operations")
