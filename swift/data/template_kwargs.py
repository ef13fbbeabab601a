"""The variables for the model's own chat template that a row gives. Knows no template."""

from __future__ import annotations

from typing import Any

from swift.agent.jsontext import can_dump
from swift.data.row_values import BadRow, Row, json_text, kind, parsed_field

VARIABLE_KEYS = ("chat_template_kwargs", "enable_thinking")
_KWARGS, _THINKS = VARIABLE_KEYS
_TAKEN = ("messages", "tools", "add_generation_prompt", "continue_final_message")
"""What a template gets anyway, as the row and the renderer have it."""
_RULE = "bad-variables"


def read_variables(row: Row) -> dict[str, Any]:
    """`chat_template_kwargs`, and `enable_thinking` among them, as one object; empty for a row without either."""
    variables = _object(row.get(_KWARGS))
    for key in _TAKEN:
        if key in variables:
            raise BadRow(_RULE, f"{_KWARGS!r} has {key!r}, which every chat template gets anyway")
    if not can_dump(variables):
        json_text(variables, repr(_KWARGS), _RULE)
    inner = variables.get(_THINKS)
    if inner is not None and not isinstance(inner, bool):
        raise _no_switch(inner)
    beside = _switch(row.get(_THINKS))
    if beside is None:
        return variables
    if inner not in (None, beside):
        raise BadRow(_RULE, f"{_THINKS!r} of the row and of {_KWARGS!r} differ: leave one of them out")
    return variables | {_THINKS: beside}


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = parsed_field(value, _KWARGS, _RULE) if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRow(_RULE, f"{_KWARGS!r} must be an object, this is {kind(value)}")
    return value


def _switch(value: Any) -> bool | None:
    """True or false, or the text of either, as cells of CSV have it; None for nothing."""
    if isinstance(value, str):
        value = {"": None, "true": True, "false": False}.get(value.strip().lower(), value)
    if value is None or isinstance(value, bool):
        return value
    raise _no_switch(value)


def _no_switch(value: Any) -> BadRow:
    return BadRow(_RULE, f"{_THINKS!r} must be true or false, this is {kind(value)}")
