"""A finished run of the agent loop as a training row. Knows no file, no task and no engine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from swift.chat import Message, Tool, ToolCall
from swift.tools.call import Result
from swift.tools.loop import End, Trace

Outcome = Literal[End, "empty"]
MISWRITTEN = ("unknown tool", "bad arguments")
"""Failures that are the model's own: the reply is not trained. A tool may fail for a call that was right."""


class Step(NamedTuple):
    """A call and its result. No call: none could be read from the reply. No result: the run ended before it."""

    call: ToolCall | None
    result: Result | None


def outcome(trace: Trace) -> Outcome:
    """Why the run ended; `empty` for an answer without text."""
    return "empty" if trace.end == "answer" and not trace.answer.strip() else trace.end


def row(trace: Trace, asked: int, tools: Sequence[Tool], about: Mapping[str, Any]) -> dict[str, Any]:
    """The run in OpenAI's shape, `messages` and `tools`, with a `trace` beside them that training does not read.

    `asked`: the number of messages that the run began with. `about`: further keys of the trace. Replies with a call
    that could not run as written have weight 0.
    """
    replies = list(_replies(trace, asked))
    calls = [_call(step) for _, steps in replies for step in steps]
    ended = {"error": trace.error} if trace.end == "error" else {}
    declined = [_named(call) for said in trace.messages[asked:] for call in said.declined]
    return {
        "messages": [message(said) for said in weighed(trace, asked)],
        **({"tools": [tool.wrapped for tool in tools]} if tools else {}),
        "trace": {
            **about,
            "outcome": outcome(trace),
            **ended,
            "seconds": round(trace.seconds, 3),
            "usage": trace.usage._asdict(),
            "replies": len(replies),
            "calls": calls,
            **({"declined_calls": declined} if declined else {}),
        },
    }


def weighed(trace: Trace, asked: int) -> list[Message]:
    """All messages. Replies with a call that could not run as written have weight 0."""
    found = list(trace.messages)
    for number, steps in _replies(trace, asked):
        if any(step.result is not None and step.result.failure in MISWRITTEN for step in steps):
            found[number] = replace(found[number], weight=0)
    return found


def used(trace: Trace, asked: int) -> Collection[str]:
    """The names of the tools that were called."""
    return {call.name for message in trace.messages[asked:] for call in message.tool_calls}


def _replies(trace: Trace, asked: int) -> Iterator[tuple[int, list[Step]]]:
    """The number of each message that the model generated, with its calls and their results."""
    results = iter(trace.results)
    for number, message in enumerate(trace.messages[asked:], asked):
        if message.role != "assistant":
            continue
        if message.tool_calls:
            yield number, [Step(call, next(results, None)) for call in message.tool_calls]
        else:
            unread = trace.messages[number + 1 : number + 2]
            yield number, [Step(None, next(results, None))] if unread and unread[0].role == "tool" else []


def _call(step: Step) -> dict[str, Any]:
    said = _named(step.call) if step.call else {"name": ""}
    if step.result is None:
        return {**said, "failure": "not run"}
    return {**said, "seconds": round(step.result.seconds, 3), "failure": step.result.failure, "cut": step.result.cut}


def _named(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, **({} if call.confidence is None else {"confidence": round(call.confidence, 4)})}


def message(said: Message) -> dict[str, Any]:
    """A message in OpenAI's shape, which training reads; empty parts are left out."""
    calls = [
        {
            **({"id": call.id} if call.id else {}),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in said.tool_calls
    ]
    more = {
        "reasoning_content": said.reasoning,
        "tool_calls": calls,
        "tool_call_id": said.tool_call_id,
        "name": said.name,
    }
    weight = {} if said.weight is None else {"weight": said.weight}
    written = {"role": said.role, "content": said.content}
    return written | {key: value for key, value in more.items() if value} | weight
