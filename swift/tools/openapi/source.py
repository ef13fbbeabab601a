"""The operations of a service as a source of tools. Knows no model and no dialogue."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from swift.agent.arguments import excerpt
from swift.system.nearest import closest
from swift.tools.bound_tool import BoundTool, Invoke, from_schema
from swift.tools.errors import ToolError
from swift.tools.openapi import operations, reply_text
from swift.tools.openapi.document import Document, Unsupported, is_url
from swift.tools.openapi.document import read as read_document
from swift.tools.openapi.http_client import Credentials, HttpClient, origin
from swift.tools.openapi.operations import Named, Operation
from swift.tools.openapi.request import build
from swift.tools.openapi.security import Found, Security

MAX_BODY = 1_000_000
"""Bytes of a reply that are read; the connection is closed on the rest."""
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class OpenApi:
    """The operations of the OpenAPI 3 document at a path or URL, as tools that call the service.

    `headers` are sent with every call. `base_url` replaces the document's servers. `keep`: names or patterns
    (`get_*`) of the operations to offer; without it all are. Operations that cannot be tools are named on standard
    error. Raises ValueError for a document, header or name that is wrong, OSError for a document that cannot be read.
    """

    def __init__(
        self,
        document: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        base_url: str | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        self._client = HttpClient()
        try:
            base = None if base_url is None else operations.base_url(base_url, "--tool_base_url")
            given = Security(headers, os.environ, {}).given
            same_host = base is not None and is_url(document) and origin(document) == origin(base)
            self._document = read_document(document, self._client, given if same_host else Credentials())
            self._security = Security(headers, os.environ, _schemes(self._document))
            self._home, self._hosts = self._home_of(document), set[str]()
            self._tools = self._read(base, keep)
        except BaseException as error:
            self._client.close()
            if type(error) in (ValueError, OSError):
                raise type(error)(_line(str(error))) from error.__cause__
            raise

    @property
    def name(self) -> str:
        """The stem of the document's file if it says something, or the document's title."""
        stem = "" if self._document.url else Path(self._document.name).stem
        info = self._document.root.get("info")
        title = str(info.get("title", "")) if isinstance(info, dict) else ""
        generic = stem.lower() in ("", "openapi", "api", "schema", "spec")
        name = (title if generic else stem) or urlsplit(self._document.url).hostname or "openapi"
        return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()[:24].rstrip("_") or "openapi"

    @property
    def tools(self) -> Sequence[BoundTool]:
        return self._tools

    @property
    def variables(self) -> frozenset[str]:
        """The environment variables whose values are sent to the service."""
        return frozenset(self._security.used)

    def close(self) -> None:
        self._client.close()

    def _read(self, base: str | None, keep: Sequence[str]) -> tuple[BoundTool, ...]:
        name = self._document.name
        found, problems, renamed = operations.listed(self._document)
        kept = _kept(found, keep, name)
        left_out = [] if keep else problems
        tools = []
        missing: dict[str, int] = {}
        for named in kept:
            try:
                tool, lacks = self._tool(named, base)
            except (Unsupported, _NoTool) as error:
                if named.name in keep or named.identifier in keep:
                    raise ValueError(f"{name}: {named.name} cannot be a tool: {error}") from None
                left_out.append(f"{named.label} ({error})")
                continue
            tools.append(tool)
            if lacks:
                missing[lacks] = missing.get(lacks, 0) + 1
        if not tools:
            reason = f"none of {len(left_out)} can be a tool: {excerpt('; '.join(left_out))}" if left_out else "none"
            raise ValueError(f"{name}: no operations: {reason}")
        if self._document.url and base is None and (elsewhere := sorted(self._hosts - {self._home})):
            print(_line(f"swift: {name}: its operations are on another host, {', '.join(elsewhere)}"), file=sys.stderr)
        for line in _warnings(len(kept), left_out, renamed, missing):
            print(_line(f"swift: {name}: {line}"), file=sys.stderr)
        return tuple(tools)

    def _tool(self, named: Named, base: str | None) -> tuple[BoundTool, str]:
        """(the tool, the missing credentials)."""
        requirements = named.operation.get("security", self._document.root.get("security")) or []
        if not isinstance(requirements, list):
            raise Unsupported(f"{named.place}.security: must be a list")
        found = self._security.find(requirements)
        operation = operations.read(self._document, named, base, lambda place, name: (place, name) in found.fixed)
        self._check_host(operation, base, found)
        spec = {"name": operation.name, "description": operation.description, "parameters": operation.schema}
        try:
            invoke = self._invoke(operation, found.credentials)
            read_only = operation.method in operations.READ_ONLY
            return from_schema(spec, invoke, read_only, self._document.name), found.missing
        except ValueError as error:
            raise _NoTool(str(error).removeprefix(f"tool '{operation.name}': ")) from None

    def _check_host(self, operation: Operation, base: str | None, found: Found) -> None:
        """Credentials go to no host that only a document from elsewhere, or one of its operations, names."""
        target = origin(operation.base)
        self._hosts.add(target)
        if base is not None or found.credentials == Credentials():
            return
        if target == self._home:
            return
        if not self._document.url:
            raise _NoTool(f"it is on another host, {target}, which gets no keys")
        raise ValueError(
            f"{self._document.name}: its operations are on another host, {target}: to send your keys there, give "
            f"--tool_base_url {operation.base}"
        )

    def _home_of(self, document: str) -> str:
        """The host that the user has named: the document's, or the one that a file of the user names."""
        if is_url(document):
            return origin(document)
        try:
            return origin(operations.server(self._document))
        except ValueError:  # operations may have servers of their own
            return ""

    def _invoke(self, operation: Operation, credentials: Credentials) -> Invoke:
        def invoke(arguments: dict[str, Any], seconds: float) -> object:
            request = build(operation, arguments, credentials)
            try:
                reply = self._client.send(request, seconds, MAX_BODY)
            except OSError as error:
                raise ToolError(self._security.secrets.hidden(str(error))) from None
            return reply_text.text_of(reply, self._security.secrets)

        return invoke


def _line(text: str) -> str:
    """A text that quotes a document, as one line that a terminal only shows."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


class _NoTool(Exception):
    """Why an operation cannot be a tool, beyond what its description says."""


def _schemes(document: Document) -> Mapping[str, Any]:
    components = document.root.get("components")
    schemes = components.get("securitySchemes") if isinstance(components, dict) else None
    if not isinstance(schemes, dict):
        return {}
    resolved = {}
    for name, scheme in schemes.items():
        try:
            resolved[name] = document.resolved(scheme, f"components.securitySchemes.{name}")
        except Unsupported:
            resolved[name] = None
    return resolved


def _kept(found: Sequence[Named], keep: Sequence[str], document: str) -> list[Named]:
    """The operations that `keep` names. Raises ValueError for a name or pattern that matches none."""
    for pattern in keep:
        if not any(_matches(each, pattern) for each in found):
            names = [each.name for each in found]
            near = closest(pattern, names, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f" ({excerpt(', '.join(names))})"
            raise ValueError(f"{document}: no operation is named '{pattern}'{hint}")
    return [each for each in found if not keep or any(_matches(each, pattern) for pattern in keep)]


def _matches(named: Named, pattern: str) -> bool:
    names = [name for name in (named.name, named.identifier) if name]
    return pattern in names or any(fnmatchcase(name, pattern) for name in names)


def _warnings(count: int, left_out: Sequence[str], renamed: Sequence[str], missing: Mapping[str, int]) -> Iterator[str]:
    if left_out:
        yield f"left out {len(left_out)} of {max(count, len(left_out))} operations: {'; '.join(left_out)}"
    if renamed:
        yield f"two operations have one name: {'; '.join(renamed)}"
    for variable, times in missing.items():
        yield f"{times} operation{'s' if times > 1 else ''} without credentials: set {variable}"
