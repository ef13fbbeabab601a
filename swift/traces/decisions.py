"""Corrections of a row in OpenAI's shape, such as a trace of `swift agent run`. Pure: row in, row out; no terminal."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from swift.agent.jsontext import loads
from swift.data import rows
from swift.data.loss_weights import WEIGHT_KEYS
from swift.data.row_messages import read_message
from swift.data.row_tools import read_tools
from swift.data.row_values import BadRow, Row
from swift.data.trace_rows import TRACE
from swift.system.nearest import closest

Decision = Literal["kept", "corrected", "answered", "dropped"]


class Place(NamedTuple):
    """Where a call is: the index of its message, and its index in that message's calls."""

    message: int
    call: int


def why_not(row: Any) -> str:
    """Why a row cannot be reviewed; "" if it can."""
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        return "not a row with 'messages'"
    try:
        for number, message in enumerate(messages, 1):
            read_message(message, number)
        read_tools(row)
    except BadRow as bad:
        return bad.message
    return ""


def digest(row: Row) -> str:
    """The same for equal rows."""
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def calls(row: Row) -> list[Place]:
    """The places of all calls, in order."""
    return [
        Place(index, number)
        for index, message in enumerate(row["messages"])
        for number in range(len(message.get("tool_calls") or ()))
    ]


def call_at(row: Row, place: Place) -> tuple[str, str]:
    """The name of a call and its arguments as text."""
    call = read_message(row["messages"][place.message], place.message + 1).tool_calls[place.call]
    return call.name, call.arguments


def kept(row: Row) -> Row:
    """The row up to its last reply: results that nothing follows are never trained."""
    changed = copy.deepcopy(row)
    replies = _replies(changed)
    if not replies:
        raise ValueError("the row has no reply: add the right answer, or drop it")
    if all(is_wrong(changed["messages"][index]) for index in replies):
        raise ValueError("every reply is marked wrong, so nothing would be trained: correct one, or drop the row")
    del changed["messages"][replies[-1] + 1 :]
    return _valid(changed)


def with_call(row: Row, place: Place, name: str, arguments: str, result: str = "", answer: str = "") -> Row:
    """The row with another call, without what follows its message.

    With a `result`, the results of the message's other calls stay, and `answer` follows them. Raises ValueError.
    """
    name, tools = name.strip(), [tool.name for tool in read_tools(row)]
    if tools and name not in tools:
        near = closest(name, tools, 1)
        raise ValueError(f"there is no tool '{name}': " + (f"did you mean {near[0]}?" if near else ", ".join(tools)))
    try:
        value = loads(arguments, once=True)
    except ValueError as error:
        raise ValueError(f"the arguments are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("the arguments must be a JSON object")
    changed = copy.deepcopy(row)
    message = changed["messages"][place.message]
    call = message["tool_calls"][place.call]
    inner = call["function"] if isinstance(call.get("function"), dict) else call
    inner.update(name=name, arguments=arguments)
    _train(message)
    following = changed["messages"][place.message + 1 :]
    del changed["messages"][place.message + 1 :]
    if result:
        changed["messages"] += [*_results(message, following, place.call, result), _reply(answer)]
    return _valid(changed)


def with_answer(row: Row, answer: str) -> Row:
    """The row with another final answer, or with one where it ends without. Raises ValueError."""
    changed = copy.deepcopy(row)
    last = changed["messages"][-1]
    if _is_reply(last):
        if last.get("tool_calls"):
            raise ValueError("the last reply waits for a result: correct its call, and type the result")
        changed["messages"].pop()
    changed["messages"].append(_reply(answer))
    return _valid(changed)


def with_mark(row: Row, index: int) -> Row:
    """The row with the weight of a reply 0 or, where it is 0, as if none had been given. Raises ValueError."""
    changed = copy.deepcopy(row)
    message = changed["messages"][index] if 0 <= index < len(changed["messages"]) else {}
    if not _is_reply(message):
        numbers = ", ".join(str(number + 1) for number in _replies(changed)) or "none"
        raise ValueError(f"step {index + 1} is not a reply of the model: its replies are {numbers}")
    if is_wrong(message):
        _train(message)
    else:
        _train(message)
        message["weight"] = 0
    return changed


def is_wrong(message: Row) -> bool:
    """Whether a message has weight 0."""
    return read_message(message, 1).weight == 0


def reviewed(row: Row, decision: Decision, of: str, date: str) -> Row:
    """The row with what was decided. `of`: the digest of the row that was reviewed."""
    trace = row.get(TRACE)
    known = trace if isinstance(trace, dict) else {}
    return {**row, TRACE: {**known, "review": {"decision": decision, "of": of, "date": date}}}


def _is_reply(message: Row) -> bool:
    return bool(message) and read_message(message, 1).role == "assistant"


def _replies(row: Row) -> list[int]:
    return [index for index, message in enumerate(row["messages"]) if _is_reply(message)]


def _train(message: Row) -> None:
    """Removes what sets a weight."""
    for key in WEIGHT_KEYS:
        message.pop(key, None)


def _reply(text: str) -> Row:
    if not text.strip():
        raise ValueError("the answer is empty")
    return {"role": "assistant", "content": text}


def _results(message: Row, following: Sequence[Row], changed: int, result: str) -> list[Row]:
    """The results of a reply's calls, of which one was corrected."""
    results = []
    known = [read_message(each, 1) for each in following[: len(message["tool_calls"])]]
    for number, call in enumerate(message["tool_calls"]):
        is_known = number < len(known) and known[number].role == "tool"
        if number != changed and not is_known:
            raise ValueError("another call of this reply has no result: the row can only end with the corrected call")
        name = call.get("function", call)["name"]
        content = result if number == changed else known[number].content
        identity = {"tool_call_id": call["id"]} if call.get("id") else {}
        results.append({"role": "tool", "content": content, **identity, "name": name})
    return results


def _valid(row: Row) -> Row:
    """The row, if it can be trained. Raises ValueError with the reason."""
    plain = {key: value for key, value in row.items() if key != TRACE}
    try:
        rows.conversation(plain)
    except BadRow as bad:
        raise ValueError(f"{bad.rule}: {bad.message}") from None
    return row
