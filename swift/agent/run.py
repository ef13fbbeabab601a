"""The agent loop: generate a reply, run its calls, append the results, until the model answers. Knows no format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from swift.agent.tools import BoundTool, Result, call
from swift.chat import Delta, Draft, FinishReason, Message, Tool, Usage

Params = TypeVar("Params")
End = Literal["answer", "max_turns", "length", "cancelled"]
NO_CALL_READ = "Error: no call could be read from this. Name one tool and give its arguments as one JSON object."


@dataclass(frozen=True, slots=True)
class Trace:
    """A finished run: all messages, the results of calls in order, and why it ended.

    `usage`: the total over all turns. `end` is `max_turns` if the last allowed turn had calls; their results are
    included.
    """

    messages: tuple[Message, ...]
    results: tuple[Result, ...]
    end: End
    usage: Usage

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
    timeout: float = 30.0,
    hand_over: tuple[str, ...] = ("Observation:",),
) -> Trace:
    """Runs the model with `tools` for at most `max_turns` replies.

    A failed call becomes an error message as its result. So does a reply that ends with one of `hand_over`, the stop
    strings of text formats, without a call that can be parsed. `timeout`: seconds per call.
    Raises ValueError for `max_turns` < 1 and for duplicate tool names.
    """
    if max_turns < 1:
        raise ValueError(f"max_turns must be 1 or more, not {max_turns}")
    offered = [bound.tool for bound in tools]
    names = [tool.name for tool in offered]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two tools have the name '{twice}'")
    trace = list(messages)
    results: list[Result] = []
    cost = Usage(0, 0)
    for _ in range(max_turns):
        reply, finish, usage = _reply(chat(trace, offered, params))
        cost = Usage(cost.prompt_tokens + usage.prompt_tokens, cost.completion_tokens + usage.completion_tokens)
        trace.append(reply)
        if finish in ("length", "cancelled"):
            return Trace(tuple(trace), tuple(results), finish, cost)
        if reply.tool_calls:
            for wanted in reply.tool_calls:
                results.append(call(tools, wanted, timeout))
                trace.append(Message("tool", results[-1].text, tool_call_id=wanted.id, name=wanted.name))
        elif reply.content.rstrip().endswith(hand_over):
            results.append(Result(NO_CALL_READ, 0.0, "bad arguments"))
            trace.append(Message("tool", NO_CALL_READ))
        else:
            return Trace(tuple(trace), tuple(results), "answer", cost)
    return Trace(tuple(trace), tuple(results), "max_turns", cost)


def _reply(deltas: Iterator[Delta]) -> tuple[Message, FinishReason, Usage]:
    draft = Draft()
    for delta in deltas:
        draft.add(delta)
    return draft.message, draft.finish or "stop", draft.usage
