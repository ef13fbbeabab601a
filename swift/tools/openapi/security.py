"""Keys and passwords: from headers and environment variables to what a request carries, and out of what comes back.

Knows no operation. Nothing here appears in a message but names.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

from swift.tools.openapi.http_client import Credentials

VARIABLE = "SWIFT_TOOL_"
"""Prefix of the environment variables: `SWIFT_TOOL_` and the name of the security scheme in capitals."""
SECRET_NAMES = re.compile("auth|cookie|credential|key|passw|secret|session|signature|token", re.IGNORECASE)
"""Names of headers whose values are secrets."""
LEAST = 4
"""Characters of a secret that is looked for in results: shorter ones would replace parts of words."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TOKEN_SCHEMES = ("oauth2", "openIdConnect")


class Found(NamedTuple):
    """How an operation is authenticated. `fixed`: (place, name in lower case) of parameters that the user has set.

    `missing`: what the user should set, "" if nothing is missing. `variables`: the environment variables it comes from.
    """

    credentials: Credentials
    fixed: frozenset[tuple[str, str]]
    missing: str = ""
    variables: tuple[str, ...] = ()


class Security:
    """The user's headers and environment, and the security schemes of a document.

    `secrets`: what has been found so far. `used`: the environment variables that are sent.
    """

    def __init__(self, headers: Mapping[str, str], environ: Mapping[str, str], schemes: Mapping[str, Any]) -> None:
        """Raises ValueError, without its value, for what cannot be a header."""
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"--tool_header: '{name[:40]}' is not the name of a header; write 'Name: value'")
            if re.search(r"[\0\r\n]", value):
                raise ValueError(f"--tool_header: the value of {name} contains a line break")
            if not value.isascii():
                raise ValueError(f"--tool_header: the value of {name} contains characters that are not ASCII")
        self._given = Credentials(tuple(headers.items()))
        self._schemes, self._environ = schemes, environ
        self._sent = {name.lower() for name in headers}
        self.secrets = Secrets()
        self.used: set[str] = set()
        for name, value in headers.items():
            if SECRET_NAMES.search(name):
                self.secrets.add(value)

    @property
    def given(self) -> Credentials:
        """The user's headers."""
        return self._given

    def find(self, requirements: Sequence[Any]) -> Found:
        """The credentials for the first of an operation's alternatives for which all values are set."""
        fixed = {("header", name) for name in self._sent}
        missing: list[str] = []
        alternatives = [each for each in requirements if isinstance(each, dict)]
        for alternative in alternatives:
            parts = [self._scheme(str(name)) for name in alternative]
            absent = [part for part in parts if isinstance(part, str)]
            if not absent:
                credentials = self._given
                for part in parts:
                    assert isinstance(part, Found), part
                    credentials += part.credentials
                    fixed |= part.fixed
                    self.used.update(part.variables)
                return Found(credentials, frozenset(fixed))
            missing.append(" and ".join(absent))
        needed = bool(alternatives) and {} not in alternatives
        return Found(self._given, frozenset(fixed), " or ".join(missing) if needed else "")

    def _scheme(self, name: str) -> Found | str:
        """The credentials of a scheme, or what the user should set."""
        scheme = self._schemes.get(name)
        kind = str(scheme.get("type")) if isinstance(scheme, dict) else ""
        variable = VARIABLE + re.sub(r"\W", "_", name, flags=re.ASCII).upper()
        value = self._environ.get(variable, "")
        if isinstance(scheme, dict) and kind == "apiKey":
            place, field = str(scheme.get("in")), str(scheme.get("name"))
            if place not in ("header", "query", "cookie"):
                return f"{name} (a key in '{place}' is not supported)"
            return self._key(place, field, value, variable)
        bearer = kind in _TOKEN_SCHEMES
        if isinstance(scheme, dict) and kind == "http":
            method = str(scheme.get("scheme")).lower()
            if method == "basic":
                return self._basic(value, variable)
            bearer = method == "bearer"
        if not bearer:
            return f"{name} (its type is not supported)"
        return self._key("header", "Authorization", value and f"Bearer {value}", variable)

    def _basic(self, value: str, variable: str) -> Found | str:
        if value and ":" not in value:
            raise ValueError(f"environment variable {variable}: must be user:password")
        if value:
            self.secrets.add(value)
            self.secrets.add(value.partition(":")[2])
        encoded = base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
        return self._key("header", "Authorization", value and f"Basic {encoded}", variable)

    def _key(self, place: str, field: str, value: str, variable: str) -> Found | str:
        if (place == "header" and field.lower() in self._sent) or (place == "cookie" and "cookie" in self._sent):
            return Found(Credentials(), frozenset())
        if not value:
            hint = f" (or --tool_header '{field}: ...')" if place == "header" else ""
            return f"{variable}{hint}"
        if not value.isascii() or re.search(r"[\0-\x1f]", value) or (place == "cookie" and ";" in value):
            raise ValueError(f"environment variable {variable}: its value contains characters that cannot be sent")
        self.secrets.add(value)
        pair = ((field, value),)
        made = Credentials(
            headers=pair if place == "header" else (),
            query=pair if place == "query" else (),
            cookies=pair if place == "cookie" else (),
        )
        fixed = frozenset({(place, field.lower() if place == "header" else field)})
        return Found(made, fixed, variables=(variable,))


class Secrets:
    """Values that must not appear in results."""

    def __init__(self) -> None:
        self._written: list[str] = []

    def add(self, value: str) -> None:
        """A secret, or the value of a header such as `Bearer SECRET`."""
        for secret in {value, value.partition(" ")[2].strip(), *_decoded(value)}:
            if len(secret) >= LEAST:
                self._written += _writings(secret)
        self._written = sorted(set(self._written), key=len, reverse=True)

    def hidden(self, text: str, is_cut: bool = False) -> str:
        """A text with `[secret]` for each secret and, where the text is cut, for the beginning of one at its end."""
        for secret in self._written:
            text = text.replace(secret, "[secret]")
        for secret in self._written if is_cut else ():
            for length in range(len(secret) - 1, LEAST - 1, -1):
                if text.endswith(secret[:length]):
                    return text[:-length] + "[secret]"
        return text


def _decoded(value: str) -> Iterable[str]:
    """The user:password of `Basic ...`, and its password."""
    method, _, encoded = value.partition(" ")
    if method.lower() != "basic":
        return
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return
    yield pair
    yield pair.partition(":")[2]


def _writings(secret: str) -> list[str]:
    """A secret as servers may write it: in a URL, in JSON."""
    return [secret, quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1]]
