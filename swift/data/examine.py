"""Whether a well-formed dialogue makes sense: its calls, results and replies. Reads no row."""

from __future__ import annotations

from swift.agent.jsontext import loads
from swift.chat import Conversation, Message, ToolCall
from swift.data.fields import BadRow, rule_of


def examine(found: Conversation) -> None:
    """Raises BadRow when calls, results or replies of a well-formed conversation do not make sense."""
    offered = {tool.name for tool in found.tools}
    calls: tuple[ToolCall, ...] = ()
    waiting: list[str] = []  # ids of the calls that still have no result
    results, allowed = 0, 0
    for number, message in enumerate(found.messages, 1):
        if message.weight and message.role != "assistant":
            raise BadRow("weight-on-prompt", f"message {number} is the {message.role}'s and is never trained")
        if message.role == "tool":
            results += 1
            call_id = message.tool_call_id or next(iter(waiting), "")
            if results > allowed or (waiting and call_id not in waiting):
                raise BadRow("result-without-call", f"message {number} is a tool result that no call asked for")
            if waiting:
                waiting.remove(call_id)
            continue
        if calls and (not results or waiting):
            raise BadRow("call-without-result", f"the dialogue goes on at message {number}, but a call has no result")
        calls = message.tool_calls
        results, allowed = 0, len(calls)
        # Without ids results are matched by order, and one message may bring the results of all calls.
        waiting = [call.id for call in calls if call.id]
        if message.role == "assistant":
            _examine_reply(message, offered, number)
            if message.content.rstrip().endswith("Observation:"):
                allowed = max(allowed, 1)  # ReAct text: the call is in the words, its result a message of its own


def _examine_reply(message: Message, offered: set[str], number: int) -> None:
    if not message.tool_calls and not message.content.strip():
        raise BadRow("empty-reply", f"message {number} is an empty reply")
    for call in message.tool_calls:
        _examine_call(call, offered, number)


def _examine_call(call: ToolCall, offered: set[str], number: int) -> None:
    if offered and call.name not in offered:
        raise BadRow("unknown-tool", f"message {number} calls {call.name!r}, offered: {', '.join(sorted(offered))}")
    try:
        arguments = loads(call.arguments, once=True)
    except ValueError as error:
        what = f"message {number}, {call.name}: bad arguments: {error}"
        raise BadRow(rule_of(error, "bad-arguments"), what) from None
    if not isinstance(arguments, dict):
        raise BadRow("bad-arguments", f"message {number}, {call.name}: arguments must be an object")
