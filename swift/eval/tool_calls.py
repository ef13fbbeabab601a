"""Scores how well a chat calls tools, on dialogues with a known correct call. Knows no model and no file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from swift.agent import tool_format
from swift.agent.result_marks import find_mark
from swift.chat import Conversation, Message, Tool, ToolCall
from swift.engine.sampling import SamplingParams
from swift.eval.call_matching import arguments_of
from swift.infer.chat import Chat, collect

GREEDY = SamplingParams(temperature=0.0)


class Case(NamedTuple):
    """A dialogue up to a reply, and the one call that the reply should make."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    expected: ToolCall


def cases_of(row: Conversation, format_name: str = "react_en") -> Iterator[Case]:
    """A case for each assistant message of a row with exactly one tool call.

    In a row that describes its tools in the system prompt, calls are text in the format `format_name`; of a message
    that continues after a tool result, only the first call counts.
    """
    call_format = tool_format(format_name)
    for index, message in enumerate(row.messages):
        if message.role != "assistant":
            continue
        calls = message.tool_calls
        if not row.tools:
            text, stops = message.content, call_format.syntax.stop
            ends = [found + len(stop) for stop in stops if (found := find_mark(text, stop)) >= 0]
            _, calls = call_format.parse(text[: min(ends, default=len(text))])
        if len(calls) == 1:
            yield Case(row.messages[:index], row.tools, calls[0])


class Verdict(NamedTuple):
    """What a reply got right. `format_valid`: exactly one call, with a JSON object, ended as the format requires."""

    reply: str
    format_valid: bool
    tool_correct: bool
    arguments_correct: bool


class Scores(NamedTuple):
    """Fractions of the cases, 0 to 1. A correct tool requires a valid format, correct arguments a correct tool."""

    format_valid: float
    tool_correct: float
    arguments_correct: float


def judge(reply: str, expected: ToolCall, format_name: str = "react_en") -> Verdict:
    """Compares the text of a reply with the expected call; arguments are compared as JSON values."""
    call_format = tool_format(format_name)
    _, calls = call_format.parse(reply)
    ended = not call_format.syntax.stop or reply.rstrip().endswith(call_format.syntax.stop)
    return _verdict(reply, calls if ended else (), expected)


def judge_all(
    chat: Chat, cases: Sequence[Case], max_tokens: int = 96, format_name: str = "react_en", concurrency: int = 8
) -> list[Verdict]:
    """Generates a reply to each case greedily, `concurrency` at a time, up to the point where the tool would run.

    Tools of a case are offered as an API client offers them. A case without tools describes them in its system prompt,
    which asks for the format `format_name`.
    """
    params = replace(GREEDY, max_tokens=max_tokens)
    params_of_text = replace(params, stop=tool_format(format_name).syntax.stop)

    def ask(case: Case) -> Verdict:
        message = collect(chat(case.messages, case.tools, params if case.tools else params_of_text)).message
        if not case.tools:
            return judge(message.content, case.expected, format_name)
        calls = "".join(f"\n{call.name}({call.arguments})" for call in message.tool_calls)
        return _verdict(message.content + calls, message.tool_calls, case.expected)

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(ask, cases))


def _verdict(reply: str, calls: Sequence[ToolCall], expected: ToolCall) -> Verdict:
    arguments = arguments_of(calls[0]) if len(calls) == 1 else None
    valid = arguments is not None
    tool = valid and calls[0].name == expected.name
    return Verdict(reply, valid, tool, tool and arguments == arguments_of(expected))


def scores(verdicts: Sequence[Verdict]) -> Scores:
    """The fractions of correct replies. Raises ValueError if there are no verdicts."""
    if not verdicts:
        raise ValueError("no cases to score")
    n = len(verdicts)
    return Scores(
        sum(each.format_valid for each in verdicts) / n,
        sum(each.tool_correct for each in verdicts) / n,
        sum(each.arguments_correct for each in verdicts) / n,
    )
