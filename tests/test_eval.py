"""Scores of tool calls, with scripted chats."""

from collections.abc import Iterator

import pytest

from swift.chat import Delta, Message, Tool, ToolCall
from swift.eval.tool_calls import Case, judge, judge_all, scores

EXPECTED = ToolCall("look", '{"path": "/tmp/1.jpg", "times": 2}')
RIGHT = 'Thought: t\nAction: look\nAction Input: {"times": 2, "path": "/tmp/1.jpg"}\nObservation:'


def script(reply: str):
    def chat(messages, tools=(), params=None) -> Iterator[Delta]:
        yield Delta(reply)
        yield Delta(finish="stop")

    return chat


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (RIGHT, (True, True, True)),
        (RIGHT.replace("/tmp/1", "/tmp/2"), (True, True, False)),
        (RIGHT.replace("look", "listen"), (True, False, False)),
        (RIGHT.replace("2", "'2'"), (True, True, False)),
        (RIGHT.removesuffix("Observation:"), (False, False, False)),
        ("Action: look\nAction Input: /tmp/1.jpg\nObservation:", (False, False, False)),
        ("I looked at it.", (False, False, False)),
        (f"{RIGHT}\n{RIGHT}", (False, False, False)),
    ],
)
def test_a_reply_is_judged_by_format_tool_and_arguments(reply: str, verdict: tuple[bool, bool, bool]) -> None:
    assert judge(reply, EXPECTED)[1:] == verdict


def test_scores_are_fractions_of_the_cases() -> None:
    case = Case((Message("user", "look"),), (), EXPECTED)
    verdicts = judge_all(script(RIGHT), [case]) + judge_all(script("no"), [case])
    assert scores(verdicts) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="no case"):
        scores([])


@pytest.mark.parametrize(
    ("call", "verdict"),
    [
        (EXPECTED, (True, True, True)),
        (ToolCall("look", '{"path": "/tmp/1.jpg"}'), (True, True, False)),
        (ToolCall("listen", EXPECTED.arguments), (True, False, False)),
        (ToolCall("look", "/tmp/1.jpg"), (False, False, False)),
        (None, (False, False, False)),
    ],
)
def test_a_case_with_tools_is_judged_by_the_calls_that_come_back(call, verdict) -> None:
    offered = []

    def chat(messages, tools=(), params=None) -> Iterator[Delta]:
        offered.extend(tools)
        yield Delta("well")
        if call:
            yield Delta(tool_call=call)
        yield Delta(finish="tool_calls" if call else "stop")

    tool = Tool({"name": "look"})
    [judged] = judge_all(chat, [Case((Message("user", "look"),), (tool,), EXPECTED)])
    assert judged[1:] == verdict
    assert offered == [tool]
