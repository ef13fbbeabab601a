"""Judges replies to BFCL by the official checker, and sorts failures by kind. Knows no model and no file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from swift.agent.arguments import excerpt
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
    Judgement,
)
from swift.eval.tasks.bfcl.official import Official

ACCURACY = "accuracy"
HONEST = "honest"
Calls = list[dict[str, dict[str, Any]]]
"""Calls in the checker's form: `[{name: {argument: value}}]`."""


class Row(NamedTuple):
    """A row of BFCL as its checker reads it: functions before any change of names, types and descriptions.

    `answers`: `[{name: {argument: [right values]}}]`, empty where the category asks only whether a call is made.
    """

    category: str
    functions: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, Mapping[str, Sequence[Any]]]] = ()


def decoded(calls: Sequence[ToolCall]) -> Calls | None:
    """The calls in the checker's form; None if the arguments of one are not a JSON object."""
    try:
        values = [(call.name, json.loads(call.arguments)) for call in calls]
    except (ValueError, RecursionError):
        return None
    return [{name: value} for name, value in values] if all(isinstance(value, dict) for _, value in values) else None


def judge(official: Official, row: Row, answer: Answer) -> Judgement:
    """`accuracy` is the official score, 0 or 1. Irrelevance has `honest` too: neither a call nor markup of one."""
    calls = decoded(answer.message.tool_calls)
    if "irrelevance" in row.category:
        return _irrelevance(calls, answer)
    if "relevance" in row.category:
        return _scored("", "") if calls else _scored(*_without_calls(calls, answer))
    if not calls:
        return _scored(*_without_calls(calls, answer))
    found = _checked(official, row, calls)
    return _scored("", "") if found["valid"] else _scored(_kind(row, calls, found), _first_error(found))


def _scored(failure: str, detail: str) -> Judgement:
    return Judgement(not failure, {ACCURACY: float(not failure)}, failure, detail)


def _irrelevance(calls: Calls | None, answer: Answer) -> Judgement:
    """The official score counts a call with arguments that do not parse, or markup that does not, as no call."""
    if calls:
        return Judgement(False, {ACCURACY: 0.0, HONEST: 0.0}, TOO_MANY_CALLS, "no tool fits the question")
    if calls is None or answer.markup:
        detail = "a call that does not parse, which the official score counts as none"
        return Judgement(False, {ACCURACY: 1.0, HONEST: 0.0}, UNPARSABLE, detail)
    return Judgement(True, {ACCURACY: 1.0, HONEST: 1.0})


def _without_calls(calls: Calls | None, answer: Answer) -> tuple[str, str]:
    if answer.finish == "length":
        return CUT, "no whole call within the maximum length"
    if calls is None:
        broken = next(call for call in answer.message.tool_calls if decoded([call]) is None)
        return UNPARSABLE, f"the arguments of {broken.name} are not a JSON object: {excerpt(broken.arguments)}"
    if answer.markup:
        return UNPARSABLE, "the markup of a call that does not parse"
    return NO_CALL, ""


def _checked(official: Official, row: Row, calls: Calls) -> Mapping[str, Any]:
    """The checker's verdict. It expects values of the right types within lists and objects and fails at others."""
    language = {"simple_java": "java", "simple_javascript": "javascript"}.get(row.category, "python")
    try:
        return official.check(row.functions, calls, row.answers, language, row.category)
    except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
        return {"valid": False, "error": [f"a value of another type: {error}"], "error_type": "type_error"}


def _kind(row: Row, calls: Calls, found: Mapping[str, Any]) -> str:
    offered = {_offered_name(function["name"]) for function in row.functions}
    named = Counter(name for call in calls for name in call)
    right = Counter(_offered_name(name) for answer in row.answers for name in answer)
    if named.keys() - offered:
        return UNKNOWN_TOOL
    if len(calls) != len(row.answers):
        return TOO_MANY_CALLS if len(calls) > len(row.answers) else TOO_FEW_CALLS
    if named != right:
        return WRONG_TOOL
    kinds = [kind for kind, _ in _sub_errors(found) if not kind.endswith("wrong_func_name")]
    return MISSING_ARGUMENT if kinds and kinds[0].rpartition(":")[2].startswith("missing") else WRONG_VALUE


def _offered_name(name: str) -> str:
    """OpenAI's names of functions have no dots."""
    return name.replace(".", "_")


def _sub_errors(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(type, text) of the errors of a verdict. Parallel calls have a list of them for each call without a match."""
    nested = [each for error in found["error"] if isinstance(error, dict) for each in error.values()]
    for each in nested:
        yield each["sub_error_type"], " ".join(map(str, each["sub_error"]))
    if not nested:
        yield str(found.get("error_type", "")), " ".join(map(str, found["error"]))


def _first_error(found: Mapping[str, Any]) -> str:
    errors = list(_sub_errors(found))
    told = next((text for kind, text in errors if not kind.endswith("wrong_func_name")), errors[0][1])
    return excerpt(" ".join(told.split()))
