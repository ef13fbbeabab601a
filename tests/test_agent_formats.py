"""Every text form: what it writes, it reads back."""

import json

import pytest

from swift.agent import TOOL_FORMATS, tool_format
from swift.chat import Tool, ToolCall

WEATHER = Tool(
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a place",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
)
CLOCK = Tool({"name_for_model": "clock", "name_for_human": "时钟", "description": "The time"})
CALLS = (ToolCall("get_weather", '{"n": [1, 2.5], "place": "北京"}'), ToolCall("clock", "{}"))


@pytest.mark.parametrize("name", TOOL_FORMATS)
class TestEveryForm:
    def test_reads_back_the_calls_it_wrote(self, name: str) -> None:
        assert tool_format(name).parse(tool_format(name).call("", CALLS)) == ("", CALLS)

    def test_reads_back_what_was_said_before_the_calls(self, name: str) -> None:
        assert tool_format(name).parse(tool_format(name).call("Thought: two things to do", CALLS[:1])) == (
            "Thought: two things to do",
            CALLS[:1],
        )

    @pytest.mark.parametrize("value", ["\0", "a\\\0b", "\\\\\0'\"", 'it\'s\x06 "\0"\ty'], ids=repr)
    def test_reads_back_control_characters_quotes_and_backslashes(self, name: str, value: str) -> None:
        call = ToolCall("get_weather", json.dumps({"place": value}))
        _, (read,) = tool_format(name).parse(tool_format(name).call("", [call]), [WEATHER])
        assert json.loads(read.arguments) == {"place": value}

    def test_leaves_a_plain_reply_alone(self, name: str) -> None:
        text = "Thought: I know.\nFinal Answer: 4"
        assert tool_format(name).call(text, ()) == text
        assert tool_format(name).parse(text) == (text, ())

    def test_does_not_take_a_call_that_was_cut_short(self, name: str) -> None:
        whole = tool_format(name).call("", CALLS[:1])
        cut = whole[: whole.index("2.5")]
        assert tool_format(name).parse(cut) == (cut, ())

    def test_offers_every_tool_by_name_and_keeps_the_users_own_words(self, name: str) -> None:
        text = tool_format(name).system([WEATHER, CLOCK], "Speak like a pirate.")
        assert "get_weather" in text and "clock" in text and "Speak like a pirate." in text

    def test_writes_chinese_as_chinese(self, name: str) -> None:
        assert "北京" in tool_format(name).call("", CALLS)
        assert "\\u" not in tool_format(name).system([Tool({"name": "f", "description": "查询天气"})], "")

    def test_shows_every_result_whole(self, name: str) -> None:
        text = tool_format(name).result(['{"t": 1}', "第二\n行"])
        assert '{"t": 1}' in text and "第二\n行" in text

    def test_hands_over_where_its_marks_say(self, name: str) -> None:
        marks = tool_format(name).syntax
        text = tool_format(name).call("", CALLS)
        assert any(mark in text for mark in marks.call)
        assert not marks.stop or text.endswith(marks.stop)


def test_react_takes_a_python_literal_and_plain_text_as_arguments() -> None:
    text = "Thought: look\nAction: fire_recognition\nAction Input: /tmp/1.jpg\nObservation:"
    assert tool_format("react_en").parse(text) == ("Thought: look", (ToolCall("fire_recognition", "/tmp/1.jpg"),))
    text = "ACTION: f\nACTION INPUT: {'a': 1}"
    assert tool_format("react_en").parse(text) == ("", (ToolCall("f", "{'a': 1}"),))


def test_react_needs_an_input_to_see_a_call() -> None:
    assert tool_format("react_en").parse("Action: f") == ("Action: f", ())


def test_react_goes_on_in_the_same_turn_after_a_result() -> None:
    assert tool_format("react_en").syntax.inline
    assert tool_format("react_en").result(["one", "two\n"]) == "one\nObservation:two\n"


def test_hermes_keeps_the_arguments_of_a_row_byte_for_byte() -> None:
    odd = ToolCall("f", '{"b":1,  "a": 1.50, "n": null}')
    assert odd.arguments in tool_format("hermes").call("", [odd])


def test_hermes_writes_arguments_that_are_no_json_as_a_string() -> None:
    text = tool_format("hermes").call("", [ToolCall("f", "not json")])
    assert json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))["arguments"] == "not json"
    assert tool_format("hermes").parse(text)[1] == (ToolCall("f", "not json"),)


@pytest.mark.parametrize("arguments", ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": "\\ud83d"}'])
def test_what_other_readers_of_json_refuse_is_no_json_in_any_form(arguments: str) -> None:
    for name, text in (
        ("hermes", f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'),
        ("mistral", f'[TOOL_CALLS][{{"name": "f", "arguments": {arguments}}}]'),
        ("llama3", f'{{"name": "f", "parameters": {arguments}}}'),
    ):
        assert tool_format(name).parse(text) == (text, ())
        assert json.dumps(arguments) in tool_format(name).call("", [ToolCall("f", arguments)])
    with pytest.raises(ValueError, match="must be a JSON object"):
        tool_format("qwen3_coder").call("", [ToolCall("f", arguments)])


def test_an_unknown_form_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'hermes'"):
        tool_format("hermess")


PUBLISHED = [
    Tool(
        {
            "type": "function",
            "function": {
                "name": "get_current_weather",
                "description": "Get the current weather in a given location",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                    },
                    "required": ["location"],
                },
            },
        }
    ),
    Tool({"name_for_model": "tool2", "name_for_human": "工具2", "description": "Tool2的描述"}),
]
"""Two tools whose system texts other programs' tests count too."""


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("react_en", 1144),
        ("react_zh", 712),
        ("toolbench", 1833),
        ("hermes", 875),
        ("qwen_en", 879),
        ("qwen_zh", 577),
        ("qwen_en_parallel", 1012),
        ("qwen_zh_parallel", 688),
        ("chatglm4", 846),
        ("glm4", 769),
        ("glm4_5", 923),
        ("mistral", 536),
        ("deepseek_v3_1", 893),
        ("qwen3_5", 1391),
    ],
)
def test_tools_are_offered_in_the_words_that_models_were_trained_with(name: str, length: int) -> None:
    assert len(tool_format(name).system(PUBLISHED, "You are a helpful assistant.")) == length


@pytest.mark.parametrize(
    "header",
    [
        " to=functions.look<|channel|>commentary json<|message|>",
        "<|channel|>commentary to=functions.look <|constrain|>json<|message|>",
        "<|channel|>analysis to=functions.look code<|message|>",
        " to=functions.look<|channel|>commentary <|constrain|>json<|message|>",
    ],
)
@pytest.mark.parametrize("ended", ["<|call|>", ""])
def test_harmony_reads_calls_however_their_header_is_ordered(header: str, ended: str) -> None:
    said = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    call = (ToolCall("look", '{"at": " to=functions.x"}'),)
    assert tool_format("harmony").parse(f"{header}{call[0].arguments}{ended}") == ("", call)
    assert tool_format("harmony").parse(f"{header.lstrip()}{call[0].arguments}{ended}") == ("", call)
    assert tool_format("harmony").parse(f"{said}{header}{call[0].arguments}{ended}") == (said, call)


def test_values_that_stand_bare_are_read_in_the_words_of_json_and_of_python() -> None:
    kinds = {"on": {"type": "boolean"}, "none": {"type": "null"}, "text": {"type": "string"}}
    tool = Tool({"name": "f", "parameters": {"type": "object", "properties": kinds}})
    for on, none in (("True", "None"), ("true", "null")):
        written = {"on": on, "none": none, "text": on}
        parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in written.items())
        text = f"<tool_call>\n<function=f>\n{parameters}</function>\n</tool_call>"
        for name in ("qwen3_coder", "qwen3_6", "nemotron3"):
            (call,) = tool_format(name).parse(text, [tool])[1]
            assert json.loads(call.arguments) == {"on": True, "none": None, "text": on}
