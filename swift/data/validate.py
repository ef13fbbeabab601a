"""Whether a well-formed dialogue makes sense: its calls, results and replies. Reads no row.

What would train something wrong is a BadRow; what only looks odd is an Oddity, and the row is trained on.
"""

from __future__ import annotations

import difflib

from swift.agent.jsontext import loads
from swift.chat import Conversation, Message, Tool, ToolCall
from swift.data.row_values import BadRow, RowWarning, rule_of
from swift.data.validate_arguments import examine_arguments, examine_tools
from swift.data.validate_text_calls import examine_dialogue, keywords_of, writes_call

_OPEN, _CLOSE = "<think>", "</think>"


def examine(found: Conversation) -> list[RowWarning]:
    """What looks odd. Raises BadRow when calls, results or replies do not make sense."""
    odd: list[RowWarning] = []
    offered: dict[str, Tool] = {}
    if found.tools:
        odd += examine_tools(found.tools)
        offered = {tool.name: tool for tool in found.tools}
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
            odd += _examine_reply(message, offered, number)
            if message.content.rstrip().endswith("Observation:"):
                allowed = max(allowed, 1)  # ReAct text: the call is in the words, its result a message of its own
        elif message.role == "user" and not message.content.strip():
            odd.append(RowWarning("empty-user", f"message {number} is the user's and is empty"))
    if len(found.messages) > 1:
        first = found.messages[found.messages[0].role == "system"]
        if first.role == "assistant":
            odd.append(RowWarning("assistant-first", "the dialogue begins with the assistant, whom nobody asked"))
        if keywords := keywords_of(found):
            odd += examine_dialogue(found, keywords)
    return odd


def _examine_reply(message: Message, offered: dict[str, Tool], number: int) -> list[RowWarning]:
    if not message.tool_calls and not message.content.strip():
        what = "thinks, but says and calls nothing" if message.reasoning else "is an empty reply"
        raise BadRow("empty-reply", f"message {number} {what}")
    odd = _examine_thought(message, number) if message.weight != 0 else []
    for call in message.tool_calls:
        odd += _examine_call(call, offered, number, trained=message.weight != 0)
    return odd


def _examine_thought(message: Message, number: int) -> list[RowWarning]:
    """What is odd in a thought, in its own field or between <think> and </think> in the content."""
    content = message.content.strip()
    if not message.reasoning:
        if not content.startswith(_OPEN):
            return []
        if _CLOSE not in content:
            return [RowWarning("open-thought", f"message {number} opens {_OPEN} and never closes it")]
        if content.endswith(_CLOSE) and not message.tool_calls:
            return [RowWarning("thought-alone", f"message {number} ends with {_CLOSE} and says nothing behind it")]
        return []
    where = f"message {number}"
    if content.startswith(_OPEN):
        raise BadRow("two-thoughts", f"{where} has a thought, and {_OPEN} in its content: leave one of them out")
    for tag in (_OPEN, _CLOSE):
        if tag in message.reasoning:
            raise BadRow("thought-tag", f"{where} has {tag} in its thought; templates write it around that")
    if writes_call(message.reasoning):
        return [RowWarning("call-in-thought", f"{where} writes a call into its thought, where it is none")]
    return []


def _examine_call(call: ToolCall, offered: dict[str, Tool], number: int, trained: bool) -> list[RowWarning]:
    if offered and call.name not in offered:
        near = difflib.get_close_matches(call.name, offered, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; offered: {', '.join(sorted(offered))}"
        raise BadRow("unknown-tool", f"message {number} calls {call.name!r}{hint}")
    if not call.name.strip():
        raise BadRow("bad-call", f"message {number} calls a tool whose name is empty")
    try:
        arguments = loads(call.arguments, once=True)
    except ValueError as error:
        what = f"message {number}, {call.name}: bad arguments: {error}"
        raise BadRow(rule_of(error, "bad-arguments"), what) from None
    if not isinstance(arguments, dict):
        raise BadRow("bad-arguments", f"message {number}, {call.name}: arguments must be an object")
    if not offered or not trained:
        return []
    return list(examine_arguments(offered[call.name], arguments, f"message {number}, {call.name}"))
