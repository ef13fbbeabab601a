"""Variables for the model's own chat template, which requests of OpenAI's formats set. Knows no format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from swift.serve.bad_request import invalid

_OF_PROMPT = frozenset(("messages", "conversation", "tools", "documents", "chat_template"))
_OF_REPLY = frozenset(("add_generation_prompt", "continue_final_message", "tokenize"))
RESERVED_VARIABLES = _OF_PROMPT | _OF_REPLY
"""Variables of chat templates that the server sets itself."""


def _free(value: dict[str, Any]) -> dict[str, Any]:
    """The variables of a chat template that a request sets. Raises ValueError for one that is not its to set."""
    if taken := sorted(value.keys() & RESERVED_VARIABLES):
        raise ValueError(f"{taken[0]} is set by the server and cannot be sent")
    return value


TemplateVariables = Annotated[dict[str, Any], AfterValidator(_free)]


def template_variables(
    given: Mapping[str, Any] | None, thinking: bool | None, effort: str | None, effort_field: str
) -> dict[str, Any]:
    """All variables of the chat template: `given`, and those of fields of their own. `effort` none is no thinking.

    Raises BadRequest for two values of one variable.
    """
    named: list[tuple[str, str, Any]] = []
    if thinking is not None:
        named.append(("enable_thinking", "enable_thinking", thinking))
    if effort == "none":
        named.append(("enable_thinking", "enable_thinking", False))
    elif effort is not None:
        named.append((effort_field, "reasoning_effort", effort))
    variables = dict(given or {})
    for field, name, value in named:
        if (other := variables.setdefault(name, value)) != value:
            raise invalid(field, f"the request sets two values, {json.dumps(other)[:80]} and {json.dumps(value)}")
    return variables
