"""An HTTP reply -> the text of a tool's result, or the error that the model reads. Knows no operation."""

from __future__ import annotations

import codecs
import json
import re
from http import HTTPStatus

from swift.agent.jsontext import loads
from swift.tools.errors import ToolError
from swift.tools.openapi.http_client import Reply
from swift.tools.openapi.security import Secrets

MAX_ERROR = 2_000
"""Characters of a body that an error quotes."""
_TEXT = re.compile(r"text/|application/(.+\+)?(json|xml|yaml|javascript|x-ndjson|jsonl|x-www-form-urlencoded|sql)\b")


def text_of(reply: Reply, secrets: Secrets) -> str:
    """The body of a 2xx reply: compact JSON, text, or a placeholder. Raises ToolError for any other status.

    Bytes that are not UTF-8 become lone surrogates.
    """
    body = secrets.hidden(_body(reply), is_cut=not reply.complete)
    if 200 <= reply.status < 300:
        return body or _empty(reply, secrets)
    status = f"{reply.status} {_phrase(reply.status)}".strip()
    shown = body if len(body) <= MAX_ERROR else f"{body[:MAX_ERROR]}..."
    raise ToolError(f"{status}: {shown}" if shown else status)


def _body(reply: Reply) -> str:
    if not reply.body:
        return ""
    kind = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    cut = "" if reply.complete else f"[the body is longer than {len(reply.body):,} bytes, this is its beginning]\n"
    if (kind and not _TEXT.match(kind)) or b"\0" in reply.body[:1000]:
        return f"[binary: {kind or 'unknown type'}, {_size(reply)} bytes]"
    text = _decoded(reply)
    if kind == "application/json" or kind.endswith("+json") or not kind:
        text = _compact(text)
    return cut + text


def _compact(text: str) -> str:
    try:
        return json.dumps(loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):  # cut, or not what its type says
        return text


def _decoded(reply: Reply) -> str:
    try:
        codec = codecs.lookup(reply.charset or "utf-8").name
        if codec != "utf-8":
            return reply.body.decode(codec, "replace")
    except (LookupError, UnicodeError):  # the first for an unknown name, and for codecs of no text, such as hex
        pass
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    return decoder.decode(reply.body, final=reply.complete).removeprefix("\ufeff")


def _size(reply: Reply) -> str:
    length = str(reply.headers.get("Content-Length", ""))
    if reply.complete or not length.isdecimal():
        return f"{'' if reply.complete else 'more than '}{len(reply.body)}"
    return length


def _empty(reply: Reply, secrets: Secrets) -> str:
    location = reply.headers.get("Location")
    about = f", location: {secrets.hidden(location)[:200]}" if location else ""
    return f"[{reply.status} {_phrase(reply.status)}, no body{about}]"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
