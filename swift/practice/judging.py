"""Judges what a model did with a task: its calls, its answer, and the state that it left. No model judges."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from swift.agent.jsontext import loads
from swift.chat import FinishReason, Message, Tool, ToolCall
from swift.eval.call_matching import compare, same
from swift.eval.task import CUT, ERROR, WRONG_ANSWER, Answer
from swift.eval.tasks.general import contains
from swift.practice.tasks import Check, Task
from swift.tools.call import Result
from swift.tools.loop import Trace

NO_END, WRONG_STATE = "no end", "wrong state"
"""Kinds of failure besides those of `swift eval`: no answer within the limits of a run; a wrong state after it."""
LONGEST = 80
"""Characters of a text in a remark."""
Read = Callable[[ToolCall], Result]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a model did with a task. `messages`: its replies, and the results between them; a reply that is a wrong step
    has the weight 0. `tokens`: of the replies. `failure`: a kind of failure, "" for a success."""

    messages: tuple[Message, ...]
    tokens: int
    failure: str = ""
    detail: str = ""

    @property
    def succeeded(self) -> bool:
        return not self.failure

    @property
    def called(self) -> bool:
        """Whether a reply calls a tool."""
        return any(message.tool_calls for message in self.messages)

    @property
    def wrong_steps(self) -> int:
        return sum(message.weight == 0 for message in self.messages)


class Verdict(NamedTuple):
    failure: str = ""
    detail: str = ""


RIGHT = Verdict()


def of_reply(task: Task, answer: Answer) -> Attempt:
    """Judges one reply whose calls do not run."""
    reply = answer.message
    verdict = _cut(answer.finish)
    if not verdict.failure:
        verdict = _calls(task.check, reply.tool_calls, answer, task.tools)
    if not verdict.failure:
        verdict = _answer(task.check, reply)
    return Attempt(answer.messages, answer.usage.completion_tokens, *verdict)


def of_run(task: Task, trace: Trace, offered: Sequence[Tool], markup: bool, read: Read) -> Attempt:
    """Judges a run whose calls ran. A call that failed is a wrong step; the calls that did not fail are compared.

    `markup`: the last reply has the markup of a call that does not parse. `read` calls a tool after the run.
    """
    said = trace.messages[len(task.messages) :]
    results = iter(trace.results)
    right: list[ToolCall] = []
    messages: list[Message] = []
    for message in said:
        if message.role != "assistant":
            messages.append(message)
            continue
        ran = [(call, next(results, None)) for call in message.tool_calls]
        if not message.tool_calls and message is not said[-1]:
            ran = [(ToolCall(""), next(results, None))]  # a reply from which no call could be read
        good = [call for call, result in ran if result is not None and not result.failure]
        right += good
        messages.append(message if len(good) == len(ran) else replace(message, weight=0.0))
    verdict = _ended(trace)
    if not verdict.failure:
        made = Message("assistant", trace.answer, tuple(right))
        verdict = _calls(task.check, right, Answer((made,), markup=markup), offered)
    if not verdict.failure:
        verdict = _answer(task.check, trace.messages[-1])
    if not verdict.failure:
        verdict = _state(task.check, read)
    return Attempt(tuple(messages), trace.usage.completion_tokens, *verdict)


def not_asked(reason: str) -> Attempt:
    """An attempt at a task that the model cannot take, for instance because the prompt exceeds its context."""
    return Attempt((), 0, ERROR, " ".join(reason.split()))


def _cut(finish: FinishReason) -> Verdict:
    return Verdict(CUT, "the reply reached its maximum length") if finish == "length" else RIGHT


def _ended(trace: Trace) -> Verdict:
    if trace.end == "answer":
        return RIGHT
    if trace.end == "length":
        return _cut("length")
    if trace.end == "error":
        return Verdict(ERROR, trace.error)
    return Verdict(NO_END, f"the run ended without an answer: {trace.end}")


def _calls(check: Check, made: Sequence[ToolCall], answer: Answer, offered: Sequence[Tool]) -> Verdict:
    if check.calls is None:
        return RIGHT
    found = compare(check.calls, answer, {tool.name for tool in offered})
    if not found.failure and not made and not answer.message.content.strip():
        return Verdict(WRONG_ANSWER, "the reply is empty")
    return Verdict(found.failure, found.detail)


def _answer(check: Check, reply: Message) -> Verdict:
    if not check.answer or any(contains(reply.content, each) for each in check.answer):
        return RIGHT
    return Verdict(WRONG_ANSWER, f"the answer lacks {_short(check.answer[0])}: {_short(reply.content)}")


def _state(check: Check, read: Read) -> Verdict:
    for each in check.state:
        result = read(each.call)
        if result.failure:
            return Verdict(WRONG_STATE, f"{each.call.name}: {_short(result.text)}")
        if not same(found := _value(result.text), each.result) and result.text != each.result:
            return Verdict(WRONG_STATE, f"{each.call.name} gives {_shown(found)}, not {_shown(each.result)}")
    return RIGHT


def _value(text: str) -> Any:
    try:
        return loads(text)
    except ValueError:
        return text


def _shown(value: Any) -> str:
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
