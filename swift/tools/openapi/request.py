"""Arguments of a call -> the HTTP request of an operation (styles of OpenAPI 3.1, section 4.8.12). Sends nothing."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlencode

from swift.tools.errors import ToolError
from swift.tools.openapi.http_client import Credentials, Request
from swift.tools.openapi.operations import Body, Operation, Parameter

Pairs = list[tuple[str, str]]
RESERVED = ":/?@!$'()*,;"
"""Reserved characters that stay as they are with `allowReserved`, without those that end a value."""
_DELIMITERS = {"form": ",", "spaceDelimited": "%20", "pipeDelimited": "%7C"}


def build(operation: Operation, arguments: Mapping[str, Any], credentials: Credentials) -> Request:
    """The request of a call. Raises ToolError for arguments that cannot be sent."""
    path, query, headers, cookies = operation.path, Pairs(), Pairs(), Pairs()
    for parameter in operation.parameters:
        value = arguments.get(parameter.argument)
        if parameter.as_json and parameter.argument in arguments:
            value = _json(value)
        if parameter.place == "path":
            path = path.replace(f"{{{parameter.name}}}", _path_value(parameter, value))
        elif value is None:
            continue
        elif parameter.place == "query":
            query += _query(parameter, value)
        elif parameter.place == "header":
            headers.append((parameter.name, _header(parameter, value)))
        else:
            cookies += [(parameter.name, quote(_listed(value, parameter.explode), safe=""))]
    if cookies:
        headers.append(("Cookie", "; ".join(f"{name}={value}" for name, value in cookies)))
    content = b""
    if operation.body is not None and (sent := _body(operation.body, arguments)) is not None:
        content_type, content = sent
        headers.append(("Content-Type", content_type))
    url = operation.base + quote(path, safe="/%:@!$&'()*+,;=~")
    if query:
        url += "?" + "&".join(f"{name}={value}" for name, value in query)
    return Request(operation.method, url, headers, content, credentials)


# Parameters -----------------------------------------------------------------------------------------------------------


def _path_value(parameter: Parameter, value: Any) -> str:
    """One segment of the path, escaped. A model must not reach other paths: no slash, no dots alone, not empty."""
    name = parameter.name
    texts = [_text(each) for each in _flat(value)]
    if value is None or not texts or "" in texts:
        raise ToolError(f"'{name}' is part of the path and must not be empty")
    for text in texts:
        if "/" in text:
            raise ToolError(f"'{name}' is one part of the path and must not contain '/': {text[:100]}")
        if {".", ".."} & set(re.split(r"[/\\]", unquote(text))):
            raise ToolError(f"'{name}' is part of the path and must not be '.' or '..': {text[:100]}")
    escaped = [quote(text, safe="") for text in texts]
    if parameter.style == "simple":
        joined = ",".join(_members(value, escaped, parameter.explode))
    elif parameter.style == "label":
        joined = "." + ("." if parameter.explode else ",").join(_members(value, escaped, parameter.explode))
    elif not parameter.explode or not isinstance(value, (list, dict)):
        joined = f";{quote(name, safe='')}=" + ",".join(_members(value, escaped, False))
    elif isinstance(value, list):
        joined = "".join(f";{quote(name, safe='')}={each}" for each in escaped)
    else:
        joined = "".join(f";{each}" for each in _members(value, escaped, True))
    return joined


def _query(parameter: Parameter, value: Any) -> Pairs:
    name = quote(parameter.name, safe="")
    safe = RESERVED if parameter.allow_reserved else ""

    def escaped(part: Any) -> str:
        return quote(_text(part), safe=safe)

    if parameter.style == "deepObject":
        return [(quote(key, safe=""), escaped(each)) for key, each in _deep(parameter.name, value)]
    if isinstance(value, dict):
        if parameter.explode:
            return [(quote(key, safe=""), escaped(each)) for key, each in value.items() if each is not None]
        return [(name, _DELIMITERS[parameter.style].join(map(escaped, _flat(value))))] if value else []
    if isinstance(value, list):
        if parameter.explode:
            return [(name, escaped(each)) for each in value]
        return [(name, _DELIMITERS[parameter.style].join(map(escaped, value)))] if value else []
    return [(name, escaped(value))]


def _deep(name: str, value: Any) -> Pairs:
    """`name[key]=value`; inner objects go on with brackets, lists repeat the name."""
    if isinstance(value, dict):
        return [pair for key, each in value.items() for pair in _deep(f"{name}[{key}]", each)]
    if isinstance(value, list):
        return [pair for each in value for pair in _deep(name, each)]
    return [] if value is None else [(name, _text(value))]


def _header(parameter: Parameter, value: Any) -> str:
    text = _listed(value, parameter.explode)
    if re.search(r"[\0-\x08\x0a-\x1f\x7f]", text):
        raise ToolError(f"'{parameter.argument}' is a header and must not contain line breaks or control characters")
    return text.strip()


def _listed(value: Any, explode: bool) -> str:
    """The style `simple` without escapes."""
    return ",".join(_members(value, [_text(each) for each in _flat(value)], explode))


def _flat(value: Any) -> list[Any]:
    """A value, the values of a list, or the keys and values of an object in turn."""
    if isinstance(value, dict):
        return [part for key, each in value.items() for part in (key, each)]
    return value if isinstance(value, list) else [value]


def _members(value: Any, texts: list[str], explode: bool) -> list[str]:
    """The texts of `_flat(value)`, with the keys and values of an object as `key=value` where it is exploded."""
    if isinstance(value, dict) and explode:
        return [f"{key}={each}" for key, each in zip(texts[::2], texts[1::2], strict=True)]
    return texts


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # 3.0 is an integer in JSON Schema, but not to most servers
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# Bodies ---------------------------------------------------------------------------------------------------------------


def _body(body: Body, arguments: Mapping[str, Any]) -> tuple[str, bytes] | None:
    """(content type, content); None if no argument belongs to the body and it may be missing."""
    if body.argument:
        if body.argument not in arguments:
            return None
        value = arguments[body.argument]
    else:
        value = {name: arguments[name] for name in body.fields if name in arguments}
        if not value and not body.required:
            return None
    try:
        if body.kind == "json":
            return body.content_type, _json(value).encode()
        if body.kind == "text":
            return body.content_type, _text(value).encode()
        if body.kind == "form":
            return body.content_type, urlencode(_fields(value)).encode()
        return _multipart(_fields(value), body.files)
    except UnicodeEncodeError:
        raise ToolError("the arguments contain a lone surrogate, which cannot be sent") from None


def _fields(value: Any) -> Pairs:
    """The fields of a form: lists repeat the name, inner objects are JSON."""
    found: Pairs = []
    for name, each in value.items() if isinstance(value, dict) else ():
        found += [(name, _text(part)) for part in (each if isinstance(each, list) else [each]) if part is not None]
    return found


def _multipart(fields: Pairs, files: frozenset[str]) -> tuple[str, bytes]:
    """multipart/form-data (RFC 7578). A file has the name of its field."""
    boundary = secrets.token_hex(16)
    parts = []
    for name, value in fields:
        quoted = re.sub(r'[\r\n"]', lambda match: f"%{ord(match[0]):02X}", name)
        about = f'Content-Disposition: form-data; name="{quoted}"'
        if name in files:
            about += f'; filename="{quoted}"\r\nContent-Type: application/octet-stream'
        parts.append(f"--{boundary}\r\n{about}\r\n\r\n{value}\r\n")
    return f"multipart/form-data; boundary={boundary}", ("".join(parts) + f"--{boundary}--\r\n").encode()
