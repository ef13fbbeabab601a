"""Grammars for requests; what they cannot enforce is logged once and validated at the end. Knows no HTTP."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from jsonschema.exceptions import best_match
from pydantic import BaseModel
from referencing.exceptions import Unresolvable

from swift.agent.schemas import argument_schema, checker
from swift.chat import Delta, Draft, Message, Usage
from swift.guided.grammar import Rules
from swift.guided.guide import Guide, UnsupportedSchema
from swift.guided.schema_support import Unenforced
from swift.serve.bad_request import BadRequest, invalid
from swift.serve.inner_request import Fields
from swift.serve.response_builder import ResponseBuilder

log = logging.getLogger("swift.serve")

MAX_REMEMBERED = 1000
"""Unenforced parts of schemas that are remembered, so that each is logged once; clients' tools come and go."""


class Guides:
    """Builds the guides of requests with `make`; None refuses requests that need one."""

    def __init__(self, make: Callable[[Rules], Guide] | None) -> None:
        self._make = make
        self._logged: set[Unenforced] = set()

    def guide(self, rules: Rules, fields: Fields) -> Guide:
        """Compiles the grammar of a request, which can take seconds. Raises BadRequest with the field of the schema."""
        field = fields.tool_choice if rules.tools else fields.response_format
        if self._make is None:
            raise invalid(field, "this server does not support guided decoding")
        try:
            guide = self._make(rules)
        except UnsupportedSchema as error:
            raise invalid(fields.schema(error.tool), str(error)) from error
        except ValueError as error:
            raise BadRequest(f"{field}: {error}", param=field) from error
        for each in guide.unenforced:
            self._log(each, fields.response_format)
        return guide

    def _log(self, part: Unenforced, content_field: str) -> None:
        if part in self._logged:
            return
        if len(self._logged) >= MAX_REMEMBERED:
            self._logged.clear()
        self._logged.add(part)
        owner = _owner(part.tool, content_field)
        log.warning("%s: the grammar does not enforce %s; replies are validated afterwards", owner, part)


class CheckedBuilder:
    """A builder that also validates each finished choice of another against the schemas of `rules`.

    A violation is logged; the reply is sent all the same.
    """

    def __init__(
        self, builder: ResponseBuilder, rules: Rules, unenforced: Sequence[Unenforced], fields: Fields
    ) -> None:
        self._builder, self._content_field = builder, fields.response_format
        self._schemas: dict[str, dict[str, Any]] = {tool.name: argument_schema(tool) for tool in rules.tools}
        if rules.schema is not None:
            self._schemas[""] = rules.schema
        self._unenforced = unenforced

    @property
    def drafts(self) -> Sequence[Draft]:
        return self._builder.drafts

    @property
    def usage(self) -> Usage:
        return self._builder.usage

    def start(self) -> list[BaseModel]:
        return self._builder.start()

    def add(self, index: int, delta: Delta) -> list[BaseModel]:
        events = self._builder.add(index, delta)
        if delta.finish in ("stop", "tool_calls"):
            self._check(self.drafts[index].message)
        return events

    def end(self) -> str:
        return self._builder.end()

    def frame(self, event: BaseModel) -> str:
        return self._builder.frame(event)

    def failed(self, message: str) -> str:
        return self._builder.failed(message)

    def response(self) -> BaseModel:
        return self._builder.response()

    def _check(self, message: Message) -> None:
        texts = [(call.name, call.arguments) for call in message.tool_calls] or [("", message.content)]
        for tool, text in texts:
            unenforced = any(each.tool == tool for each in self._unenforced)
            if unenforced and tool in self._schemas and (reason := _violation(self._schemas[tool], text)):
                log.warning("%s: a reply violates the schema at %s", _owner(tool, self._content_field), reason)


def _owner(tool: str, content_field: str) -> str:
    return f"tool '{tool}'" if tool else content_field


def _violation(schema: dict[str, Any], text: str) -> str:
    """Where the JSON text violates the schema, with the keyword and the reason; "" if it does not."""
    try:
        error = best_match(checker(schema).iter_errors(json.loads(text)))
    except (ValueError, RecursionError, Unresolvable, re.error) as failed:
        return f"/: it cannot be validated: {str(failed)[:200]}"
    if error is None:
        return ""
    return f"/{'/'.join(map(str, error.absolute_path))}: {error.validator!r}: {error.message[:200]}"
