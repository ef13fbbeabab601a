"""The arguments of a call as a model writes them -> JSON text. Knows no tool and no schema."""

from __future__ import annotations

import ast
import re
from typing import Any, NamedTuple

from swift.agent.jsontext import dumps, loads

JSON_CONSTANTS = {"true": True, "false": False, "null": None}
MAX_ERROR = 300  # characters; validators quote whole arguments, which may be long


class Arguments(NamedTuple):
    """`text`: a JSON object, or "" and the `reason`."""

    text: str = ""
    reason: str = ""


def json_arguments(text: str) -> Arguments:
    """Arguments written by a model, as JSON or a Python literal, as JSON text. JSON is kept byte for byte.

    An empty text means no arguments.
    """
    if not text.strip():
        return Arguments("{}")
    is_json = True
    try:
        value = loads(text)
    except ValueError:
        is_json = False
        try:
            value = python_literal(text)
            written = dumps(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return Arguments(reason=f"the arguments are not a JSON object: {excerpt(text)}")
    if not isinstance(value, dict):
        return Arguments(reason=f"the arguments must be one JSON object, not {excerpt(text)}")
    return Arguments(text if is_json else written)


def python_literal(text: str) -> Any:
    """The value of a Python literal that may contain JSON's constants. Raises the errors of `ast.literal_eval`."""
    tree = ast.parse(_NUL.sub(_escaped_nul, text.strip()), mode="eval")
    return ast.literal_eval(_JsonConstants().visit(tree))


_NUL = re.compile(r"(\\*)\0")


def _escaped_nul(found: re.Match[str]) -> str:
    """Python source must not contain NUL: the escape for it, after an even number of backslashes."""
    backslashes = found[1]
    return backslashes + "\\" * (len(backslashes) % 2) + "\\x00"


class _JsonConstants(ast.NodeTransformer):
    """Replaces JSON constants: models mix the two languages, as in `{'on': true}`."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(JSON_CONSTANTS[node.id]) if node.id in JSON_CONSTANTS else node


def excerpt(text: str) -> str:
    """At most MAX_ERROR characters of a text."""
    return text if len(text) <= MAX_ERROR else text[:MAX_ERROR] + "..."
