"""Validates the calls, results and replies of a dialogue. Reads no row.

What would train something wrong is a BadRow; anything merely suspicious is a RowWarning, and the row is trained on.
"""

from __future__ import annotations

from swift.agent.jsontext import loads
from swift.chat import Conversation, Message, Tool, ToolCall
from swift.data.row_values import BadRow, RowWarning, rule_of
from swift.data.validate_arguments import validate_arguments, validate_tools
from swift.data.validate_text_calls import agent_keywords, validate_text_calls, writes_call
from swift.system.nearest import closest

_OPEN, _CLOSE = "<think>", "</think>"


def validate(found: Conversation) -> list[RowWarning]:
    """The warnings about a dialogue. Raises BadRow for invalid calls, results or replies."""
    warnings: list[RowWarning] = []
    offered: dict[str, Tool] = {}
    if found.tools:
        warnings += validate_tools(found.tools)
        offered = {tool.name: tool for tool in found.tools}
    calls: tuple[ToolCall, ...] = ()
    waiting: list[str] = []  # ids of the calls that still have no result
    results, allowed = 0, 0
    for number, message in enumerate(found.messages, 1):
        if message.weight and message.role != "assistant":
            raise BadRow("weight-on-prompt", f"message {number} has a weight: only assistant messages are trained")
        if message.role == "tool":
            results += 1
            call_id = message.tool_call_id or next(iter(waiting), "")
            if results > allowed or (waiting and call_id not in waiting):
                raise BadRow("result-without-call", f"message {number} is a tool result without a call")
            if waiting:
                waiting.remove(call_id)
            continue
        if calls and (not results or waiting):
            raise BadRow("call-without-result", f"the dialogue continues at message {number}, but a call has no result")
        calls = message.tool_calls
        results, allowed = 0, len(calls)
        # Without ids results are matched by order, and one message may hold the results of all calls.
        waiting = [call.id for call in calls if call.id]
        if message.role == "assistant":
            warnings += _validate_reply(message, offered, number)
            if message.content.rstrip().endswith("Observation:"):
                allowed = max(allowed, 1)  # ReAct: the call is text, its result a message
        elif message.role == "user" and not message.content.strip():
            warnings.append(RowWarning("empty-user", f"message {number} is an empty user message"))
    if len(found.messages) > 1:
        first = found.messages[found.messages[0].role == "system"]
        if first.role == "assistant":
            warnings.append(RowWarning("assistant-first", "the dialogue begins with an assistant message"))
        if keywords := agent_keywords(found):
            warnings += validate_text_calls(found, keywords)
    return warnings


def _validate_reply(message: Message, offered: dict[str, Tool], number: int) -> list[RowWarning]:
    if not message.tool_calls and not message.content.strip():
        what = "has reasoning, but no content and no call" if message.reasoning else "is an empty reply"
        raise BadRow("empty-reply", f"message {number} {what}")
    warnings = _validate_reasoning(message, number) if message.weight != 0 else []
    for call in message.tool_calls:
        warnings += _validate_call(call, offered, number, trained=message.weight != 0)
    return warnings


def _validate_reasoning(message: Message, number: int) -> list[RowWarning]:
    """Warnings about reasoning, in its own field or between <think> and </think> in the content."""
    content = message.content.strip()
    if not message.reasoning:
        if not content.startswith(_OPEN):
            return []
        if _CLOSE not in content:
            return [RowWarning("open-thought", f"message {number} opens {_OPEN} and never closes it")]
        if content.endswith(_CLOSE) and not message.tool_calls:
            return [
                RowWarning("thought-alone", f"message {number} ends with {_CLOSE}: no answer follows the reasoning")
            ]
        return []
    where = f"message {number}"
    if content.startswith(_OPEN):
        raise BadRow("two-thoughts", f"{where} has reasoning, and {_OPEN} in its content: remove one of them")
    for tag in (_OPEN, _CLOSE):
        if tag in message.reasoning:
            raise BadRow("thought-tag", f"{where} has {tag} in its reasoning; chat templates add it")
    if writes_call(message.reasoning):
        return [RowWarning("call-in-thought", f"{where} has a call within its reasoning, where it is not parsed")]
    return []


def _validate_call(call: ToolCall, offered: dict[str, Tool], number: int, trained: bool) -> list[RowWarning]:
    if not call.name.strip():
        raise BadRow("bad-call", f"message {number} calls a tool with an empty name")
    if not trained:
        return []
    if offered and call.name not in offered:
        near = closest(call.name, offered, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; offered: {', '.join(sorted(offered))}"
        raise BadRow("unknown-tool", f"message {number} calls {call.name!r}{hint}")
    try:
        arguments = loads(call.arguments, once=True)
    except ValueError as error:
        what = f"message {number}, {call.name}: bad arguments: {error}"
        raise BadRow(rule_of(error, "bad-arguments"), what) from None
    if not isinstance(arguments, dict):
        raise BadRow("bad-arguments", f"message {number}, {call.name}: arguments must be an object")
    if not offered:
        return []
    return list(validate_arguments(offered[call.name], arguments, f"message {number}, {call.name}"))
