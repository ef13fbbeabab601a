"""A calculator: `swift agent run --tools examples/agent/calculator.py --task "What is 17 * 23 - 4?"`.

Expressions are parsed, never run as Python.
"""

import ast
import math
import operator
from collections.abc import Callable
from datetime import date
from typing import Any

from swift import read_only

MOST_DIGITS = 1000
"""Digits of a result, so that 9 ** 9 ** 9 ends."""
_TWO: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in ("sqrt", "sin", "cos", "tan", "log", "log10", "exp", "floor", "ceil")},
    **{"abs": abs, "round": round, "min": min, "max": max},
}
_CONSTANTS = {"pi": math.pi, "e": math.e}


@read_only
def calculate(expression: str) -> int | float:
    """Calculate the value of an expression such as 2 * (3 + 4) ** 2 or sqrt(2).

    Args:
        expression: Numbers, + - * / // % **, parentheses, pi, e, sqrt, sin, cos, tan (radians), log (natural), log10,
            exp, floor, ceil, abs, round, min and max.
    """
    try:
        tree = ast.parse(expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/"), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is not an expression: {error.msg}") from None
    return _value(tree.body)


@read_only
def days_between(first: date, last: date) -> int:
    """Count the days from one date to another.

    Args:
        first: The first date, such as 2026-01-31.
        last: The last date; earlier than the first gives a negative number.
    """
    return (last - first).days


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _TWO:
            return _checked(_TWO[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _checked(_FUNCTIONS[name](*map(_value, arguments)))
    raise ValueError(f"{ast.unparse(node)!r} cannot be calculated")


def _power(base: Any, exponent: Any) -> Any:
    are_whole = isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1
    if are_whole and exponent * math.log10(abs(base)) > MOST_DIGITS:
        raise ValueError(f"the result has more than {MOST_DIGITS} digits")
    value = base**exponent
    if isinstance(value, complex):
        raise ValueError("the result is not a real number")
    return value


def _checked(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > MOST_DIGITS * math.log2(10):
        raise ValueError(f"the result has more than {MOST_DIGITS} digits")
    return value
