"""What a grammar cannot hold of a client's schemas: told once, and checked when a reply has ended. Knows no HTTP."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from jsonschema.exceptions import best_match
from pydantic import BaseModel
from referencing.exceptions import Unresolvable

from swift.agent.tools import argument_schema, checker
from swift.chat import Delta, Message
from swift.guided.grammar import Rules
from swift.guided.guide import Guide, UnsupportedSchema
from swift.guided.schema_support import Unenforced
from swift.serve.bad_request import BadRequest, invalid
from swift.serve.request_bodies import ChatRequest
from swift.serve.response_bodies import ChatCompletionBuilder, ResponseOptions

log = logging.getLogger("swift.serve")

MOST_TOLD = 1000
"""Of what was dropped, kept in mind so that it is told once; tools of clients come and go."""


class Guides:
    """Makes what holds replies, by `make`; None refuses that."""

    def __init__(self, make: Callable[[Rules], Guide] | None) -> None:
        self._make = make
        self._told: set[Unenforced] = set()

    def guide(self, rules: Rules, request: ChatRequest) -> Guide:
        """Takes as long as compiling a grammar does. Raises BadRequest that names the field with the schema."""
        what = "tool_choice" if rules.tools else "response_format"
        if self._make is None:
            raise invalid(what, "this server cannot hold replies to it")
        try:
            guide = self._make(rules)
        except UnsupportedSchema as error:
            raise invalid(request.place_of_schema(error.tool), str(error)) from error
        except ValueError as error:
            raise BadRequest(f"{what}: {error}", param=what) from error
        for each in guide.unenforced:
            self._tell(each)
        return guide

    def _tell(self, dropped: Unenforced) -> None:
        if dropped in self._told:
            return
        if len(self._told) >= MOST_TOLD:
            self._told.clear()
        self._told.add(dropped)
        log.warning("%s: replies are not held to %s; it is checked afterwards", _whose(dropped.tool), dropped)


class CheckedChatBuilder(ChatCompletionBuilder):
    """A reply whose schemas are checked where it ends: what breaks them is told in the log, and sent all the same."""

    def __init__(self, asked: ResponseOptions, rules: Rules, dropped: Sequence[Unenforced]) -> None:
        super().__init__(asked)
        self._schemas: dict[str, dict[str, Any]] = {tool.name: argument_schema(tool) for tool in rules.tools}
        if rules.schema is not None:
            self._schemas[""] = rules.schema
        self._dropped = dropped

    def add(self, index: int, delta: Delta) -> list[BaseModel]:
        events = super().add(index, delta)
        if delta.finish in ("stop", "tool_calls"):
            self._check(self.drafts[index].message)
        return events

    def _check(self, message: Message) -> None:
        said = [(call.name, call.arguments) for call in message.tool_calls] or [("", message.content)]
        for tool, text in said:
            dropped = [each for each in self._dropped if each.tool == tool]
            if dropped and tool in self._schemas and (reason := _misfit(self._schemas[tool], text)):
                log.warning("%s: a reply breaks its schema at %s", _whose(tool), reason)


def _whose(tool: str) -> str:
    return f"tool '{tool}'" if tool else "response_format"


def _misfit(schema: dict[str, Any], text: str) -> str:
    """Where the text's value breaks the schema, by which keyword and why; "" where it does not."""
    try:
        error = best_match(checker(schema).iter_errors(json.loads(text)))
    except (ValueError, RecursionError, Unresolvable, re.error) as failed:
        return f"/: it cannot be checked: {str(failed)[:200]}"
    if error is None:
        return ""
    return f"/{'/'.join(map(str, error.absolute_path))}: {error.validator!r}: {error.message[:200]}"
