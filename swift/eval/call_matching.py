"""Compares the calls of a reply with the right ones, whatever their order. Knows no row and no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from swift.agent.arguments import json_arguments
from swift.agent.jsontext import dumps, loads
from swift.chat import ToolCall
from swift.eval.task import (
    CUT,
    MISSING_ARGUMENT,
    NO_CALL,
    TOO_FEW_CALLS,
    TOO_MANY_CALLS,
    UNKNOWN_TOOL,
    UNPARSABLE,
    WRONG_TOOL,
    WRONG_VALUE,
    Answer,
)

LONGEST = 80
"""Characters of a value in a remark."""


class Comparison(NamedTuple):
    """How the calls of a reply compare with the right ones.

    `names_f1`, `arguments_f1`: F1 over the names of the calls, and over their arguments with equal values;
    `arguments_f1` is None where no call is right. `failure`: a kind of FAILURES, "" if the calls are the right ones;
    `detail`: one line on what is wrong.
    """

    names_f1: float
    arguments_f1: float | None
    failure: str
    detail: str = ""


class _Pair(NamedTuple):
    """A right call and the call of the reply that is compared with it, as arguments. None: no call is left for it."""

    name: str
    expected: dict[str, Any]
    made: dict[str, Any] | None


def arguments_of(call: ToolCall) -> dict[str, Any] | None:
    """The arguments as a JSON object; None if they are not one. Python literals count, as when the call runs."""
    written = json_arguments(call.arguments)
    return None if written.reason else loads(written.text)


def described(call: ToolCall) -> dict[str, Any]:
    """A call as a JSON value; arguments that are not an object remain text."""
    arguments = arguments_of(call)
    return {"name": call.name, "arguments": call.arguments if arguments is None else arguments}


def call_of(value: Mapping[str, Any]) -> ToolCall:
    """The inverse of `described`."""
    arguments = value["arguments"]
    return ToolCall(value["name"], arguments if isinstance(arguments, str) else dumps(arguments))


def same(left: object, right: object) -> bool:
    """Whether two JSON values are equal. 1 equals 1.0, and neither equals true; the order of keys does not count."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def f1(common: float, expected: int, made: int) -> float:
    """2PR/(P+R) with P = common/made and R = common/expected; 1 if there is nothing on either side."""
    return 2 * common / (expected + made) if expected or made else 1.0


def compare(expected: Sequence[ToolCall], answer: Answer, offered: Collection[str] = ()) -> Comparison:
    """Compares the calls of the answer's last message with `expected`; none in `expected` means that none is right.

    Each right call is paired with the call of the same name that has the most equal arguments. `offered`: the names
    of the tools; empty if they are not known.
    """
    made = answer.message.tool_calls
    objects = [arguments_of(call) for call in made]
    names = Counter(call.name for call in expected) & Counter(call.name for call in made)
    names_f1 = f1(names.total(), len(expected), len(made))
    pairs = _paired(expected, made, objects)
    failure, detail = _failure(expected, made, objects, pairs, answer, offered)
    if not expected:
        return Comparison(names_f1, None, failure, detail)
    equal = sum(_equal(pair) for pair in pairs)
    count = sum(len(arguments or ()) for arguments in objects)
    wanted = sum(len(pair.expected) for pair in pairs)
    # calls without any argument: right only as far as their names are
    arguments_f1 = f1(equal, wanted, count) if wanted or count else names_f1
    return Comparison(names_f1, arguments_f1, failure, detail)


def _paired(
    expected: Sequence[ToolCall], made: Sequence[ToolCall], objects: Sequence[dict[str, Any] | None]
) -> list[_Pair]:
    """Pairs in the order of `expected`; those that have the most in common are made first."""
    wanted = [(call.name, arguments_of(call) or {}) for call in expected]
    candidates = sorted(
        (
            (-_likeness(arguments, objects[there]), here, there)
            for here, (name, arguments) in enumerate(wanted)
            for there, call in enumerate(made)
            if call.name == name
        ),
    )
    taken: dict[int, int] = {}
    for _, here, there in candidates:
        if here not in taken and there not in taken.values():
            taken[here] = there
    return [
        _Pair(name, arguments, objects[taken[here]] if here in taken else None)
        for here, (name, arguments) in enumerate(wanted)
    ]


def _likeness(expected: dict[str, Any], made: dict[str, Any] | None) -> float:
    """Equal arguments; an exact match comes first."""
    if made is None:
        return -1.0
    return sum(key in made and same(value, made[key]) for key, value in expected.items()) + 0.5 * same(expected, made)


def _equal(pair: _Pair) -> int:
    made = pair.made or {}
    return sum(key in made and same(value, made[key]) for key, value in pair.expected.items())


def _failure(
    expected: Sequence[ToolCall],
    made: Sequence[ToolCall],
    objects: Sequence[dict[str, Any] | None],
    pairs: Sequence[_Pair],
    answer: Answer,
    offered: Collection[str],
) -> tuple[str, str]:
    """(kind, one line) of the first thing that is wrong, from the form of the reply to its values."""
    if expected and not made and answer.finish == "length":
        return CUT, "the reply reached its maximum length before it made a call"
    if unreadable := next((call for call, parsed in zip(made, objects, strict=True) if parsed is None), None):
        return UNPARSABLE, f"{unreadable.name}: the arguments are not a JSON object: {_short(unreadable.arguments)}"
    if not made and answer.markup:
        return UNPARSABLE, "the reply has the markup of a call that does not parse"
    if not expected:
        return (TOO_MANY_CALLS, f"no call is right: {_named(made)}") if made else ("", "")
    if not made:
        return NO_CALL, ""
    if unknown := next((call.name for call in made if offered and call.name not in offered), None):
        return UNKNOWN_TOOL, f"{_short(unknown)} is not offered"
    missing = Counter(call.name for call in expected) - Counter(call.name for call in made)
    extra = Counter(call.name for call in made) - Counter(call.name for call in expected)
    if missing and extra:
        return WRONG_TOOL, f"{', '.join(extra)} instead of {', '.join(missing)}"
    if missing:
        return TOO_FEW_CALLS, f"without {', '.join(missing.elements())}"
    if extra:
        return TOO_MANY_CALLS, f"beside the right calls: {', '.join(extra.elements())}"
    for pair in pairs:
        assert pair.made is not None, pair
        if absent := [key for key in pair.expected if key not in pair.made]:
            return MISSING_ARGUMENT, f"{pair.name}: without {', '.join(absent)}"
    for pair in pairs:
        given = pair.made or {}
        for key, value in pair.expected.items():
            if not same(value, given[key]):
                return WRONG_VALUE, f"{pair.name}: {key} is {_short(dumps(given[key]))}, not {_short(dumps(value))}"
        if superfluous := [key for key in given if key not in pair.expected]:
            return WRONG_VALUE, f"{pair.name}: {', '.join(superfluous)} must not be given"
    return "", ""


def _named(calls: Sequence[ToolCall]) -> str:
    return ", ".join(_short(call.name) for call in calls)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
