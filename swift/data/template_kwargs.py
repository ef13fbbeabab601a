"""Reads the variables that a row sets for the model's chat template. Knows no template."""

from __future__ import annotations

from typing import Any

from swift.agent.jsontext import can_dump
from swift.data.row_values import BadRow, Row, json_text, kind, parsed_field

TEMPLATE_KWARGS_KEYS = ("chat_template_kwargs", "enable_thinking")
_KWARGS, _THINKS = TEMPLATE_KWARGS_KEYS
_TAKEN = ("messages", "tools", "add_generation_prompt", "continue_final_message")
"""Variables that the renderer itself sets."""
_RULE = "bad-variables"


def read_template_kwargs(row: Row) -> dict[str, Any]:
    """`chat_template_kwargs` merged with `enable_thinking`; empty for a row without either. Raises BadRow."""
    variables = _object(row.get(_KWARGS))
    for key in _TAKEN:
        if key in variables:
            raise BadRow(_RULE, f"{_KWARGS!r} has {key!r}, which is set from the row's own messages and tools")
    if not can_dump(variables):
        json_text(variables, repr(_KWARGS), _RULE)
    inner = variables.get(_THINKS)
    if inner is not None and not isinstance(inner, bool):
        raise _no_switch(inner)
    beside = _switch(row.get(_THINKS))
    if beside is None:
        return variables
    if inner not in (None, beside):
        raise BadRow(_RULE, f"{_THINKS!r} of the row and of {_KWARGS!r} differ: remove one of them")
    return variables | {_THINKS: beside}


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = parsed_field(value, _KWARGS, _RULE) if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRow(_RULE, f"{_KWARGS!r} must be an object, not {kind(value)}")
    return value


def _switch(value: Any) -> bool | None:
    """A boolean, or its text as in cells of CSV; None if it is missing or empty."""
    if isinstance(value, str):
        value = {"": None, "true": True, "false": False}.get(value.strip().lower(), value)
    if value is None or isinstance(value, bool):
        return value
    raise _no_switch(value)


def _no_switch(value: Any) -> BadRow:
    return BadRow(_RULE, f"{_THINKS!r} must be true or false, not {kind(value)}")
