"""The agent loop: generate a reply, run its calls, append the results, until the model answers. Knows no format."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from swift.chat import Delta, Draft, FinishReason, Message, Tool, Usage
from swift.tools.bound_tool import BoundTool
from swift.tools.call import DEFAULT_LIMITS, Confirm, Limits, Result, call_all

Params = TypeVar("Params")
Offer = Callable[[Sequence[Message]], Sequence[BoundTool]]
"""The dialogue so far -> the tools to offer for the next reply."""
Tools = Sequence[BoundTool] | Callable[[], Sequence[BoundTool]]
"""Tools, or a function that returns the present ones, such as those of servers whose lists change."""
End = Literal["answer", "max_turns", "max_seconds", "length", "cancelled", "requires_action", "error"]
NO_CALL_READ = "Error: no call could be read from this. Name one tool and give its arguments as one JSON object."


class Deltas(Iterator[Delta], Protocol):
    """A reply that is being generated; closing it cancels the generation."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Trace:
    """A finished run: all messages, the results of calls in order, and why it ended.

    `usage`: the total over all turns. `end` is `max_turns` if the last allowed turn had calls; their results are
    included. After `max_seconds`, `length` and `cancelled` the last reply may be incomplete. `requires_action`: the
    last reply calls a described tool, and none of its calls has run. `seconds`: of the whole run. `error`: the message
    of the error that ended it.
    """

    messages: tuple[Message, ...]
    results: tuple[Result, ...]
    end: End
    usage: Usage
    seconds: float = 0.0
    error: str = ""

    @property
    def answer(self) -> str:
        """The last message if it ended the run, else ""."""
        return self.messages[-1].content if self.end == "answer" else ""


def run(
    chat: Callable[[Sequence[Message], Sequence[Tool], Params], Deltas],
    tools: Tools,
    messages: Sequence[Message],
    max_turns: int = 8,
    *,
    params: Params,
    limits: Limits = DEFAULT_LIMITS,
    max_seconds: float | None = None,
    confirm: Confirm | None = None,
    offer: Offer | None = None,
    hand_over: tuple[str, ...] = ("Observation:",),
    keep_errors: bool = False,
) -> Trace:
    """Runs the model with `tools` for at most `max_turns` replies and about `max_seconds`.

    The time limit ends a reply at its next delta and shortens the time limit of calls. `keep_errors`: a ValueError or
    OSError of the chat ends the run as `error` instead of being raised.

    A failed call becomes an error message as its result. So does a reply that ends with one of `hand_over`, the stop
    strings of text formats, without a call that can be parsed. `offer` selects the tools of each reply; without it all
    are offered; a call of a tool that was not offered runs too. Raises ValueError for `max_turns` < 1 and for duplicate
    tool names.
    """
    if max_turns < 1:
        raise ValueError(f"max_turns must be 1 or more, not {max_turns}")
    began = time.monotonic()
    deadline = math.inf if max_seconds is None else began + max_seconds
    trace = list(messages)
    results: list[Result] = []
    cost = Usage(0, 0)

    def ended(end: End, error: str = "") -> Trace:
        return Trace(tuple(trace), tuple(results), end, cost, time.monotonic() - began, error)

    for _ in range(max_turns):
        if time.monotonic() > deadline:
            return ended("max_seconds")
        present = _distinct(tools() if callable(tools) else tools)
        offered = present if offer is None else offer(trace)
        try:
            reply, finish, usage = _reply(chat(trace, [bound.tool for bound in offered], params), deadline)
        except (ValueError, OSError) as error:
            if not keep_errors:
                raise
            return ended("error", str(error))
        cost = Usage(cost.prompt_tokens + usage.prompt_tokens, cost.completion_tokens + usage.completion_tokens)
        trace.append(reply)
        if finish == "length" or finish == "cancelled":
            return ended("max_seconds" if time.monotonic() > deadline else finish)
        if any(bound.described for bound in present if bound.name in {wanted.name for wanted in reply.tool_calls}):
            return ended("requires_action")
        if reply.tool_calls:
            left = max(0.0, min(limits.seconds, deadline - time.monotonic()))
            made = call_all(present, reply.tool_calls, limits._replace(seconds=left), confirm)
            results += made
            for wanted, result in zip(reply.tool_calls, made, strict=True):
                trace.append(Message("tool", result.text, tool_call_id=wanted.id, name=wanted.name))
        elif reply.content.rstrip().endswith(hand_over):
            results.append(Result(NO_CALL_READ, 0.0, "bad arguments"))
            trace.append(Message("tool", NO_CALL_READ))
        else:
            return ended("answer")
    return ended("max_turns")


def _distinct(tools: Sequence[BoundTool]) -> Sequence[BoundTool]:
    names = [bound.name for bound in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two tools have the name '{twice}'")
    return tools


def _reply(deltas: Deltas, deadline: float) -> tuple[Message, FinishReason, Usage]:
    """The reply, or at `deadline` what there is of it, as cancelled."""
    draft = Draft()
    for delta in deltas:
        draft.add(delta)
        if delta.finish is None and time.monotonic() > deadline:
            deltas.close()
            draft.finish = "cancelled"
            break
    return draft.message, draft.finish or "stop", draft.usage
