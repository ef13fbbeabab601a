"""The tools that are offered where there are too many: those whose words fit the dialogue, and those in use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from swift.chat import Delta, Message, Tool, ToolCall
from swift.data.demo_rows import evaluation_cases
from swift.data.demo_tools import catalogue
from swift.tools.bound_tool import BoundTool, from_schema
from swift.tools.loop import run
from swift.tools.retrieval import Index, Retriever, terms


def tool(name: str, description: str = "", **parameters: str) -> BoundTool:
    properties = {each: {"type": "string", "description": text} for each, text in parameters.items()}
    schema = {"type": "object", "properties": properties}
    return from_schema(
        {"name": name, "description": description, "parameters": schema}, lambda arguments, seconds: name
    )


TOOLS = [
    tool("get_weather", "The current weather of a city.", city="Name of the city"),
    tool("setThermostat", "Sets the temperature of a room."),
    tool("book", "Books something.", airport="Code of the airport, such as OSL"),
    tool("查询天气", "查询城市的天气预报"),
    tool("play_music", "Plays songs."),
]


def offered(question: str, most: int = 1, *before: Message) -> list[str]:
    return [bound.name for bound in Retriever(TOOLS, most).offer([*before, Message("user", question)])]


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("How is the weather in Oslo?", "get_weather"),
        ("The thermostat should be at 20 degrees", "setThermostat"),
        ("A flight from the airport in Oslo, please", "book"),
        ("北京今天天气怎么样?", "查询天气"),
        ("Play my favourite song", "play_music"),
    ],
)
def test_names_descriptions_and_parameters_select_a_tool(question: str, name: str) -> None:
    assert offered(question) == [name]


def test_few_tools_are_all_offered_as_they_are() -> None:
    assert Retriever(TOOLS, 5).offer([Message("user", "Play music")]) is TOOLS


def test_offered_tools_keep_the_order_of_all_tools() -> None:
    assert offered("music, then the weather of a city", 2) == ["get_weather", "play_music"]


def test_tools_that_fit_equally_are_offered_in_their_order() -> None:
    assert offered("Hm?", 3) == ["get_weather", "setThermostat", "book"]


def test_a_tool_that_was_called_before_stays() -> None:
    before = (
        Message("user", "Play music"),
        Message("assistant", "", (ToolCall("play_music", "{}", "1"),)),
        Message("tool", "playing", tool_call_id="1"),
    )
    assert offered("How is the weather in Oslo?", 2, *before) == ["get_weather", "play_music"]
    assert offered("How is the weather in Oslo?", 2) != ["get_weather", "play_music"]


def test_the_latest_question_counts_most_and_earlier_ones_still_count() -> None:
    before = (Message("user", "Set the temperature of the room"), Message("assistant", "Done."))
    assert offered("And the weather?", 1, *before) == ["get_weather"]
    assert offered("And the weather?", 2, *before) == ["get_weather", "setThermostat"]


def test_the_offer_does_not_change_while_the_calls_of_a_question_run() -> None:
    asked = [Message("system", "music music"), Message("user", "How is the weather in Oslo?")]
    result = Message("tool", "See the airport: play music, songs, temperature of the room", tool_call_id="1")
    called = [*asked, Message("assistant", "I look.", (ToolCall("get_weather", "{}", "1"),)), result]
    retriever = Retriever(TOOLS, 2)
    assert retriever.offer(asked) == retriever.offer(called)


def test_tools_that_come_later_are_found_too() -> None:
    present = list(TOOLS)
    retriever = Retriever(lambda: present, 1)
    asked = [Message("user", "Open the garage door")]
    assert [bound.name for bound in retriever.offer(asked)] == ["get_weather"]
    present.append(tool("garage_door", "Opens or closes the door of the garage."))
    assert [bound.name for bound in retriever.offer(asked)] == ["garage_door"]


def test_a_call_of_a_tool_that_was_not_offered_runs() -> None:
    heard: list[list[str]] = []
    replies = iter([[Delta(tool_call=ToolCall("play_music", "{}", "1"))], [Delta("Done.")]])

    def chat(messages: Sequence[Message], tools: Sequence[Tool], params: None) -> Iterator[Delta]:
        heard.append([each.name for each in tools])
        yield from next(replies)
        yield Delta(finish="stop")

    asked = [Message("user", "How is the weather in Oslo?")]
    trace = run(chat, TOOLS, asked, params=None, offer=Retriever(TOOLS, 2).offer)
    assert [result.text for result in trace.results] == ["play_music"]
    assert "play_music" not in heard[0]
    assert "play_music" in heard[1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("getWeatherHTTPNow", ["get", "weath", "http", "now"]),
        ("set_room-temperature2", ["set", "room", "tempe"]),
        ("Cities, boxes and buses", ["city", "boxe", "and", "buse"]),
        ("打开灯", ["打开", "开灯"]),
        ("把lamp灯打开", ["把", "lamp", "灯打", "打开"]),
        ("", []),
    ],
)
def test_texts_and_names_become_terms(text: str, found: list[str]) -> None:
    assert list(terms(text)) == found


def test_scores_are_those_of_the_formula() -> None:
    # "lamp" is in 1 of 2 tools: ln(1 + 1.5 / 1.5) = ln 2. A name has weight 2, so the lengths are 3 and 5.
    index = Index([Tool({"name": "light", "description": "lamp"}), Tool({"name": "door", "description": "a b c"})])
    k1, b, length, mean = 1.2, 0.75, 3, 4
    expected = 0.6931471805599453 * (k1 + 1) / (1 + k1 * (1 - b + b * length / mean))
    assert index.scores({"lamp": 1.0}) == pytest.approx([expected, 0.0])


def test_schemas_of_any_shape_have_terms() -> None:
    shapes: list[Any] = [
        {"type": "object", "properties": {"a": True, "b": {"enum": ["red", 1]}}},
        {"type": "object", "properties": {"list": {"type": "array", "items": {"properties": {"deep": {}}}}}},
        [{"name": "field", "description": "words", "required": "True"}],
        {},
    ]
    index = Index([Tool({"name": f"t{number}", "parameters": shape}) for number, shape in enumerate(shapes)])
    for term, best in (("red", 0), ("deep", 1), ("word", 2)):
        assert index.ranked({term: 1.0})[0] == best


def test_the_right_tool_of_an_english_question_is_among_sixteen_of_the_whole_catalogue() -> None:
    bound = [from_schema(entry.spec, lambda arguments, seconds: "") for entry in catalogue()]
    assert len(bound) > 100
    retriever = Retriever(bound, 16)
    cases = evaluation_cases(100, seed=3, chinese=0.0, style="messages")
    found = [call.name in [each.name for each in retriever.offer(row.messages)] for row, call in cases]
    assert sum(found) >= 85
