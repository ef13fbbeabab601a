"""The agent loop: generate a reply, run its calls, append the results, until the model answers. Knows no format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from swift.chat import Delta, Draft, FinishReason, Message, Tool, Usage
from swift.tools.bound_tool import BoundTool
from swift.tools.call import DEFAULT_LIMITS, Confirm, Limits, Result, call_all

Params = TypeVar("Params")
Offer = Callable[[Sequence[Message]], Sequence[BoundTool]]
"""The dialogue so far -> the tools to offer for the next reply."""
End = Literal["answer", "max_turns", "max_seconds", "length", "cancelled"]
NO_CALL_READ = "Error: no call could be read from this. Name one tool and give its arguments as one JSON object."


@dataclass(frozen=True, slots=True)
class Trace:
    """A finished run: all messages, the results of calls in order, and why it ended.

    `usage`: the total over all turns. `end` is `max_turns` if the last allowed turn had calls; their results are
    included. `seconds`: of the whole run.
    """

    messages: tuple[Message, ...]
    results: tuple[Result, ...]
    end: End
    usage: Usage
    seconds: float = 0.0

    @property
    def answer(self) -> str:
        """The last message if it ended the run, else ""."""
        return self.messages[-1].content if self.end == "answer" else ""


def run(
    chat: Callable[[Sequence[Message], Sequence[Tool], Params], Iterator[Delta]],
    tools: Sequence[BoundTool],
    messages: Sequence[Message],
    max_turns: int = 8,
    *,
    params: Params,
    limits: Limits = DEFAULT_LIMITS,
    max_seconds: float | None = None,
    confirm: Confirm | None = None,
    offer: Offer | None = None,
    hand_over: tuple[str, ...] = ("Observation:",),
) -> Trace:
    """Runs the model with `tools` for at most `max_turns` replies and, between replies, at most `max_seconds`.

    A failed call becomes an error message as its result. So does a reply that ends with one of `hand_over`, the stop
    strings of text formats, without a call that can be parsed. `offer` selects the tools of each reply; without it all
    are offered. Raises ValueError for `max_turns` < 1 and for duplicate tool names.
    """
    if max_turns < 1:
        raise ValueError(f"max_turns must be 1 or more, not {max_turns}")
    names = [bound.name for bound in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two tools have the name '{twice}'")
    began = time.monotonic()
    trace = list(messages)
    results: list[Result] = []
    cost = Usage(0, 0)

    def ended(end: End) -> Trace:
        return Trace(tuple(trace), tuple(results), end, cost, time.monotonic() - began)

    for _ in range(max_turns):
        if max_seconds is not None and time.monotonic() - began > max_seconds:
            return ended("max_seconds")
        offered = tools if offer is None else offer(trace)
        reply, finish, usage = _reply(chat(trace, [bound.tool for bound in offered], params))
        cost = Usage(cost.prompt_tokens + usage.prompt_tokens, cost.completion_tokens + usage.completion_tokens)
        trace.append(reply)
        if finish in ("length", "cancelled"):
            return ended(finish)
        if reply.tool_calls:
            made = call_all(tools, reply.tool_calls, limits, confirm)
            results += made
            for wanted, result in zip(reply.tool_calls, made, strict=True):
                trace.append(Message("tool", result.text, tool_call_id=wanted.id, name=wanted.name))
        elif reply.content.rstrip().endswith(hand_over):
            results.append(Result(NO_CALL_READ, 0.0, "bad arguments"))
            trace.append(Message("tool", NO_CALL_READ))
        else:
            return ended("answer")
    return ended("max_turns")


def _reply(deltas: Iterator[Delta]) -> tuple[Message, FinishReason, Usage]:
    draft = Draft()
    for delta in deltas:
        draft.add(delta)
    return draft.message, draft.finish or "stop", draft.usage
