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
from swift.chat import Delta, Message
from swift.guided.grammar import Rules
from swift.guided.guide import Guide, UnsupportedSchema
from swift.guided.schema_support import Unenforced
from swift.serve.bad_request import BadRequest, invalid
from swift.serve.request_bodies import ChatRequest
from swift.serve.response_bodies import ChatCompletionBuilder, ResponseOptions

log = logging.getLogger("swift.serve")

MAX_REMEMBERED = 1000
"""Unenforced parts of schemas that are remembered, so that each is logged once; clients' tools come and go."""


class Guides:
    """Builds the guides of requests with `make`; None refuses requests that need one."""

    def __init__(self, make: Callable[[Rules], Guide] | None) -> None:
        self._make = make
        self._logged: set[Unenforced] = set()

    def guide(self, rules: Rules, request: ChatRequest) -> Guide:
        """Compiles the grammar of a request, which can take seconds. Raises BadRequest with the field of the schema."""
        field = "tool_choice" if rules.tools else "response_format"
        if self._make is None:
            raise invalid(field, "this server does not support guided decoding")
        try:
            guide = self._make(rules)
        except UnsupportedSchema as error:
            raise invalid(request.schema_field(error.tool), str(error)) from error
        except ValueError as error:
            raise BadRequest(f"{field}: {error}", param=field) from error
        for each in guide.unenforced:
            self._log(each)
        return guide

    def _log(self, part: Unenforced) -> None:
        if part in self._logged:
            return
        if len(self._logged) >= MAX_REMEMBERED:
            self._logged.clear()
        self._logged.add(part)
        log.warning("%s: the grammar does not enforce %s; replies are validated afterwards", _owner(part.tool), part)


class CheckedChatBuilder(ChatCompletionBuilder):
    """Validates each finished choice against its schemas. A violation is logged; the reply is sent all the same."""

    def __init__(self, options: ResponseOptions, rules: Rules, unenforced: Sequence[Unenforced]) -> None:
        super().__init__(options)
        self._schemas: dict[str, dict[str, Any]] = {tool.name: argument_schema(tool) for tool in rules.tools}
        if rules.schema is not None:
            self._schemas[""] = rules.schema
        self._unenforced = unenforced

    def add(self, index: int, delta: Delta) -> list[BaseModel]:
        events = super().add(index, delta)
        if delta.finish in ("stop", "tool_calls"):
            self._check(self.drafts[index].message)
        return events

    def _check(self, message: Message) -> None:
        texts = [(call.name, call.arguments) for call in message.tool_calls] or [("", message.content)]
        for tool, text in texts:
            unenforced = any(each.tool == tool for each in self._unenforced)
            if unenforced and tool in self._schemas and (reason := _violation(self._schemas[tool], text)):
                log.warning("%s: a reply violates the schema at %s", _owner(tool), reason)


def _owner(tool: str) -> str:
    return f"tool '{tool}'" if tool else "response_format"


def _violation(schema: dict[str, Any], text: str) -> str:
    """Where the JSON text violates the schema, with the keyword and the reason; "" if it does not."""
    try:
        error = best_match(checker(schema).iter_errors(json.loads(text)))
    except (ValueError, RecursionError, Unresolvable, re.error) as failed:
        return f"/: it cannot be validated: {str(failed)[:200]}"
    if error is None:
        return ""
    return f"/{'/'.join(map(str, error.absolute_path))}: {error.validator!r}: {error.message[:200]}"
