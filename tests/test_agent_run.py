"""Tools are made, checked and called; the loop hands every outcome back to the model."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from swift.agent.arguments import json_arguments
from swift.agent.schemas import argument_schema
from swift.chat import Delta, Message, Tool, ToolCall, Usage
from swift.data.rows import conversation
from swift.tools.bound_tool import BoundTool, from_function, from_schema
from swift.tools.call import Limits, call, call_all
from swift.tools.described import read_descriptions
from swift.tools.in_process import on_thread
from swift.tools.loop import run
from swift.tools.toolbox import Toolbox
from swift.traces import rows as traces


def fire_recognition(image: str, zoom: int = 1) -> list[dict[str, object]]:
    """Recognise whether there is fire
    in the image.

    Args:
        image: The input image.
        zoom (int): How close to look.

    Returns:
        Where the fire is.
    """
    return [{"coordinate": [101.1, 200.9], "on_fire": True, "file": image, "zoom": zoom}]


def call_police() -> str:
    """Calls 110."""
    raise ConnectionError("the line is dead")


@dataclass
class Place:
    title: str
    floor: int | None = None


FIRE, POLICE = from_function(fire_recognition), from_function(call_police)


class Scripted:
    """A chat that says what it is told to, and keeps what it was given."""

    def __init__(self, *replies: Sequence[Delta]) -> None:
        self.replies = list(replies)
        self.heard: list[tuple[Message, ...]] = []
        self.offered: list[tuple[Tool, ...]] = []

    def __call__(self, messages: Sequence[Message], tools: Sequence[Tool], params: None) -> Iterator[Delta]:
        self.heard.append(tuple(messages))
        self.offered.append(tuple(tools))
        yield from self.replies.pop(0)


def said(text: str) -> list[Delta]:
    return [Delta(text=text[:3]), Delta(text=text[3:]), Delta(finish="stop", usage=Usage(10, 5))]


def asked(name: str, arguments: str, id: str = "c1") -> list[Delta]:
    return [
        Delta(text="Thought: look"),
        Delta(tool_call=ToolCall(name, arguments, id)),
        Delta(finish="tool_calls", usage=Usage(10, 5)),
    ]


QUESTION = [Message("user", "Is there fire in /tmp/1.jpg?")]


def test_a_function_becomes_a_tool_with_schema_and_descriptions() -> None:
    assert FIRE.tool.spec == {
        "type": "function",
        "function": {
            "name": "fire_recognition",
            "description": "Recognise whether there is fire in the image.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "image": {"type": "string", "description": "The input image."},
                    "zoom": {"type": "integer", "default": 1, "description": "How close to look."},
                },
                "required": ["image"],
            },
        },
    }


@pytest.mark.parametrize(
    "arguments",
    [
        "Args:\n    place (str): Where,\n        as in: Oslo.\n    day:\n        When.\n\nReturns:\n    day: what",
        ":param str place: Where,\n    as in: Oslo.\n:param day: When.\n:return: what",
    ],
)
def test_descriptions_of_arguments_may_take_several_lines(arguments: str) -> None:
    def weather(place: str, day: str) -> None: ...

    weather.__doc__ = f"The weather.\n\n{arguments}\n"
    described = from_function(weather).tool
    texts = {name: field["description"] for name, field in described.parameters["properties"].items()}
    assert texts == {"place": "Where, as in: Oslo.", "day": "When."}
    assert described.function["description"] == "The weather."


def test_docstrings_of_every_common_style_describe_the_arguments() -> None:
    def google(expression: str) -> None:
        """Calculate.

        Args:
            expression (str): Numbers, + and -,
                log10, exp.
        """

    def sphinx(expression: str) -> None:
        """Calculate.

        :param str expression: Numbers, + and -,
            log10, exp.
        """

    def numpy(expression: str) -> None:
        """Calculate.

        Parameters
        ----------
        expression : str
            Numbers, + and -,
            log10, exp.
        """

    for function in (google, sphinx, numpy):
        tool = from_function(function).tool
        assert tool.description == "Calculate."
        assert tool.parameters["properties"]["expression"]["description"] == "Numbers, + and -, log10, exp."


def test_types_of_many_kinds_reach_the_schema_and_the_function() -> None:
    seen: list[object] = []

    def alarm(
        place: Place, kind: Literal["fire", "smoke"], title: Annotated[str, Field(description="what to say")] = ""
    ) -> None:
        """:param kind: what burns"""
        seen.extend([place, kind, title])

    bound = from_function(alarm, name="ring")
    schema = bound.tool.parameters
    assert schema["properties"]["kind"] == {"enum": ["fire", "smoke"], "type": "string", "description": "what burns"}
    assert schema["properties"]["title"] == {"default": "", "type": "string", "description": "what to say"}
    assert "title" in schema["$defs"]["Place"]["properties"]
    result = call([bound], ToolCall("ring", '{"place": {"title": "hall", "floor": 2}, "kind": "smoke"}'))
    assert (result.text, result.failure) == ("null", "")
    assert seen == [Place("hall", 2), "smoke", ""]


def test_a_function_that_cannot_be_described_is_refused() -> None:
    def positional(x: int, /) -> None: ...

    def odd(x: Scripted) -> None: ...

    class Inner: ...

    def local(x: Inner) -> None: ...

    with pytest.raises(ValueError, match="tool 'positional': positional-only parameters are not supported"):
        from_function(positional)
    with pytest.raises(ValueError, match="tool 'odd': "):
        from_function(odd)
    with pytest.raises(ValueError, match="tool 'local': name 'Inner' is not defined"):
        from_function(local)


def test_a_schema_that_is_none_is_refused_with_the_tools_name() -> None:
    with pytest.raises(ValueError, match=r"tool 'x': parameters is not a JSON schema.*'strng'"):
        from_schema({"name": "x", "parameters": {"properties": {"a": {"type": "strng"}}}}, on_thread(call_police))
    with pytest.raises(ValueError, match="a tool needs a name"):
        from_schema({"description": "?"}, on_thread(call_police))
    with pytest.raises(ValueError, match="tool 'x': parameters must be a JSON schema or a list"):
        from_schema({"name": "x", "parameters": ["a"]}, on_thread(call_police))


def test_a_list_of_parameters_is_a_schema_too() -> None:
    spec = {
        "name": "fire_recognition",
        "parameters": [{"name": "image", "description": "The input image", "required": "True"}, {"name": "zoom"}],
    }
    assert argument_schema(Tool(spec)) == {
        "type": "object",
        "properties": {"image": {"description": "The input image"}, "zoom": {}},
        "required": ["image"],
    }
    assert argument_schema(Tool({"name": "fire_alert", "parameters": []})) == {"type": "object"}
    bound = from_schema(spec, on_thread(fire_recognition))
    assert call([bound], ToolCall("fire_recognition", "{'zoom': 3}")).text == (
        "Error: fire_recognition: 'image' is a required property"
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"a":  1.0, "b": "\\u00e9"}', '{"a":  1.0, "b": "\\u00e9"}'),
        ("{'商品类目': '手机', 'n': (1, 2)}", '{"商品类目": "手机", "n": [1, 2]}'),
        ("{'on': true, 'off': False, 'x': null}", '{"on": true, "off": false, "x": null}'),
        ("", "{}"),
        (" {} \n", " {} \n"),
    ],
)
def test_arguments_are_read_as_json_or_python(written: str, read: str) -> None:
    assert json_arguments(written) == (read, "")


@pytest.mark.parametrize(
    "written",
    [
        "/tmp/1.jpg",
        "[1]",
        "3",
        "null",
        "{'a': {1, 2}}",
        "{'a': open('x')}",
        '{"a": NaN}',
        "{'a': 1e999}",
        '{"a": 1e999}',
        '{"a": -Infinity}',
        '{"a": "\\ud83d"}',
        '{"\\udc00": 1}',
        "{",
        "[" * 99999,
    ],
)
def test_arguments_that_are_no_object_have_a_reason(written: str) -> None:
    text, reason = json_arguments(written)
    assert not text
    assert reason.startswith(("the arguments are not a JSON object: ", "the arguments must be one JSON object, not "))
    assert len(reason) < 400


def test_a_result_is_text_that_utf8_and_json_can_hold() -> None:
    bound = from_schema(
        {"name": "f"}, on_thread(lambda: {"mean": float("nan"), "all": [float("inf"), 1.5], "city": "北京"})
    )
    assert call([bound], ToolCall("f")).text == '{"mean": null, "all": [null, 1.5], "city": "北京"}'
    bound = from_schema({"name": "f"}, on_thread(lambda: "a name: \udcff"))
    assert call([bound], ToolCall("f")).text == "a name: \ufffd"


def test_arguments_are_checked_against_the_schema_before_the_call() -> None:
    calls: list[object] = []
    bound = from_schema(
        {"name": "f", "parameters": {"properties": {"at": {"properties": {"x": {"type": "integer"}}}}}},
        on_thread(lambda **arguments: calls.append(arguments)),
    )
    assert call([bound], ToolCall("f", '{"at": {"x": "one"}}')).text == "Error: f: at.x: 'one' is not of type 'integer'"
    assert not calls


def test_a_schema_never_fetches_what_it_refers_to() -> None:
    bound = from_schema(
        {"name": "f", "parameters": {"properties": {"a": {"$ref": "http://localhost:9/s.json"}}}},
        on_thread(fire_recognition),
    )
    result = call([bound], ToolCall("f", '{"a": 1}'))
    assert result.failure == "bad arguments"
    assert "refers to what is not in it" in result.text


def test_an_unknown_tool_is_answered_with_the_nearest_right_name() -> None:
    result = call([FIRE, POLICE], ToolCall("Fire_recognision", "{}"))
    assert result.failure == "unknown tool"
    assert "the tools are: fire_recognition, call_police. Did you mean 'fire_recognition'?" in result.text


def test_a_tool_that_raises_or_leaves_is_told_as_text() -> None:
    def leave() -> None:
        raise SystemExit(3)

    assert call([POLICE], ToolCall("call_police")).text == "Error: ConnectionError: the line is dead"
    assert call([from_function(leave)], ToolCall("leave")).text == "Error: SystemExit: 3"


def test_a_tool_that_hangs_is_given_up_in_time() -> None:
    given_up = threading.Event()

    def hang() -> None:
        given_up.wait(60)

    result = call([from_function(hang)], ToolCall("hang"), limits=Limits(seconds=0.05))
    assert not given_up.is_set()
    given_up.set()  # a thread that is still in pydantic's Rust code when Python ends aborts the process
    assert (result.text, result.failure) == ("Error: no result within 0.05 s", "timeout")


def test_a_coroutine_is_awaited_and_results_are_json_unless_text() -> None:
    async def where(name: str) -> dict[str, str]:
        return {"西湖": name}

    assert call([from_function(where)], ToolCall("where", '{"name": "鱼"}')).text == '{"西湖": "鱼"}'
    result = call([FIRE], ToolCall("fire_recognition", '{"image": "a"}'))
    assert json.loads(result.text)[0]["on_fire"] is True
    assert result.seconds < 5


def test_results_go_back_until_the_model_answers() -> None:
    chat = Scripted(asked("fire_recognition", '{"image": "/tmp/1.jpg"}'), said("Final Answer: there is fire"))
    trace = run(chat, [FIRE, POLICE], QUESTION, params=None)
    assert trace.end == "answer"
    assert trace.answer == "Final Answer: there is fire"
    assert trace.usage == Usage(20, 10)
    assert [message.role for message in trace.messages] == ["user", "assistant", "tool", "assistant"]
    assert trace.messages[1] == Message(
        "assistant", "Thought: look", (ToolCall("fire_recognition", '{"image": "/tmp/1.jpg"}', "c1"),)
    )
    assert chat.heard[1] == trace.messages[:3]
    assert (trace.messages[2].tool_call_id, trace.messages[2].name) == ("c1", "fire_recognition")
    assert '"on_fire": true' in trace.messages[2].content
    assert chat.offered[0] == (FIRE.tool, POLICE.tool)


def test_a_failed_call_goes_back_as_text_and_the_run_goes_on() -> None:
    chat = Scripted(asked("call_police", "{}"), asked("fire_recognition", "{]"), asked("x", ""), said("I cannot."))
    trace = run(chat, [FIRE, POLICE], QUESTION, params=None)
    assert trace.answer == "I cannot."
    assert [result.failure for result in trace.results] == ["raised", "bad arguments", "unknown tool"]
    assert all(message.content.startswith("Error: ") for message in trace.messages if message.role == "tool")


def test_calls_side_by_side_are_answered_in_order() -> None:
    both = [Delta(tool_call=ToolCall("fire_recognition", f'{{"image": "{n}"}}', n)) for n in "ab"]
    chat = Scripted([*both, Delta(finish="tool_calls")], said("done"))
    trace = run(chat, [FIRE], QUESTION, params=None)
    assert [message.tool_call_id for message in trace.messages if message.role == "tool"] == ["a", "b"]


def test_a_call_that_cannot_be_read_is_told_to_the_model() -> None:
    chat = Scripted(said("Action: look around\nObservation:"), said("Final Answer: no"))
    trace = run(chat, [FIRE], QUESTION, params=None)
    assert trace.answer == "Final Answer: no"
    assert trace.messages[2] == Message(
        "tool", "Error: no call could be read from this. Name one tool and give its arguments as one JSON object."
    )


def test_a_run_ends_at_its_last_turn_or_where_the_reply_is_cut() -> None:
    chat = Scripted(*[asked("fire_recognition", '{"image": "a"}')] * 5)
    trace = run(chat, [FIRE], QUESTION, 2, params=None)
    assert (trace.end, trace.answer, len(trace.results), len(chat.heard)) == ("max_turns", "", 2, 2)
    cut = run(Scripted([Delta(text="Thought: I"), Delta(finish="length")]), [FIRE], QUESTION, params=None)
    assert (cut.end, cut.answer, cut.messages[-1].content) == ("length", "", "Thought: I")
    with pytest.raises(ValueError, match="max_turns must be 1 or more, not 0"):
        run(chat, [FIRE], QUESTION, 0, params=None)


def test_two_tools_of_one_name_are_refused() -> None:
    again = BoundTool(FIRE.tool, on_thread(call_police), FIRE.validator)
    with pytest.raises(ValueError, match="two tools have the name 'fire_recognition'"):
        run(Scripted(), [FIRE, again], QUESTION, params=None)


LOOK = {"type": "function", "function": {"name": "look", "description": "看", "parameters": {"type": "object"}}}
ADD = {"name": "add", "parameters": [{"name": "numbers", "description": "n", "required": "True"}]}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([LOOK, ADD]),
        json.dumps({"tools": [LOOK, ADD]}, indent=2),
        f"{json.dumps(LOOK, ensure_ascii=False)}\n\n{json.dumps(ADD)}\n",
        "\ufeff" + json.dumps([LOOK, ADD]),
    ],
)
def test_tools_are_described_by_a_list_an_object_or_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "tools.json").write_text(text, encoding="utf-8")
    assert read_descriptions(tmp_path / "tools.json") == [Tool(LOOK), Tool(ADD)]


def test_one_tool_alone_is_described_by_its_object(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(LOOK, indent=1))
    assert read_descriptions(tmp_path / "tools.json") == [Tool(LOOK)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"name": "a"},\n {"name" "b"}]', r"line 2, column 10: not JSON: Expecting ':' delimiter"),
        ('{"name": "a"}\n{"name": }\n', r"line 2, column 10: not JSON: Expecting value"),
        ("", "line 1, column 1: not JSON"),
        ("3", r"tools must be a JSON list, .*one JSON object per line"),
        ('[{"name": "a"}, 3]', "tool 2 is not a JSON object: 3"),
        ('[{"name": "a"}, {"description": "b"}]', "tool 2: a tool needs a name"),
        ('[{"name": "a", "parameters": {"type": "objekt"}}]', "tool 1: tool 'a': parameters is not a JSON schema"),
        ('[{"name": "a"}, {"name": "a"}]', "two tools have the name 'a'"),
        ('[{"name": "a", "description": "\\ud800"}]', ".*ud800, a lone surrogate, which UTF-8 cannot hold"),
        ('{"name": "a"}\n{"name": "b", "name": "c"}', "line 2: .*name"),
        ("[]", "no tools"),
        ("[" * 100_000, "."),
        ("[1,\n\udcc4]", "'utf-8' codec can't decode byte 0xc4 in line 2: save the file as UTF-8"),
    ],
)
def test_what_is_wrong_with_described_tools_is_said_in_a_line_with_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "tools.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"tools\.json: {said}") as raised:
        read_descriptions(tmp_path / "tools.json")
    assert "\n" not in str(raised.value)


def test_results_that_utf_8_cannot_hold_are_replaced_and_marked() -> None:
    gbk = "你".encode("gbk")

    def given(value: object) -> tuple[str, bool]:
        def tool() -> object:
            if isinstance(value, Exception):
                raise value
            return value

        result = call([from_function(tool)], ToolCall("tool"))
        result.text.encode("utf-8")
        return result.text, result.replaced

    assert given("你") == ("你", False)
    assert given("你".encode()) == ("你", False)
    assert given(gbk) == ("\ufffd\ufffd", True)
    assert given("a\ud800") == ("a\ufffd", True)
    assert given({"a": [gbk], "b": ("\udcff",)}) == ('{"a": ["\ufffd\ufffd"], "b": ["\ufffd"]}', True)
    assert given({b"\xff": 1})[0] == '{"\ufffd": 1}'
    assert given(ValueError("\udcff")) == ("Error: ValueError: \ufffd", True)


def test_a_tool_whose_description_utf_8_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="tool 'a': its description contains a lone surrogate"):
        from_schema({"name": "a", "description": "\udcff"}, on_thread(dict))


def sleeper(name: str, log: list[str], read_only: bool, source: str = "") -> BoundTool:
    def work() -> str:
        log.append(f"{name} begins")
        time.sleep(0.05)
        log.append(f"{name} ends")
        return name

    return from_schema({"name": name}, on_thread(work), read_only, source)


def test_calls_of_one_reply_run_in_parallel_and_their_results_keep_the_order_of_the_calls() -> None:
    log: list[str] = []
    tools = [sleeper("a", log, True), sleeper("b", log, True), sleeper("c", log, False, "another source")]
    results = call_all(tools, [ToolCall("b"), ToolCall("a"), ToolCall("c"), ToolCall("nothing")])
    assert [result.text for result in results[:3]] == ["b", "a", "c"]
    assert results[3].failure == "unknown tool"
    assert all("begins" in line for line in log[:3])


def test_a_call_that_may_write_keeps_its_place_among_the_calls_of_its_source() -> None:
    log: list[str] = []
    tools = [sleeper("read", log, True), sleeper("write", log, False)]
    call_all(tools, [ToolCall("read"), ToolCall("write"), ToolCall("read")])
    names = ["read", "write", "read"]
    assert log == [f"{name} {what}" for name in names for what in ("begins", "ends")]


def test_after_ctrl_c_no_further_call_of_the_reply_begins() -> None:
    log: list[str] = []
    interrupted = threading.Event()

    def first() -> None:
        log.append("first")
        time.sleep(0.2)  # a signal that comes just before the main thread waits is seen when the wait ends
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        interrupted.wait()

    tools = [from_schema({"name": "first"}, on_thread(first)), sleeper("second", log, False)]
    others = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        call_all(tools, [ToolCall("first"), ToolCall("second")])
    interrupted.set()
    for thread in set(threading.enumerate()) - others:
        thread.join()
    assert log == ["first"]


def test_whatever_a_call_raises_is_its_result_beside_other_calls() -> None:
    class OddError(BaseException): ...

    def cancelled(arguments: dict[str, object], seconds: float) -> object:
        raise asyncio.CancelledError("gone")

    def odd() -> None:
        raise OddError("odd")

    tools = [from_schema({"name": "cancelled"}, cancelled), from_schema({"name": "odd"}, on_thread(odd))]
    results = call_all(tools, [ToolCall("cancelled"), ToolCall("odd")])
    assert [result.text for result in results] == ["Error: CancelledError: gone", "Error: OddError: odd"]


def test_a_declined_call_does_not_run_and_the_model_reads_that() -> None:
    log: list[str] = []
    tools = [sleeper("read", log, True), sleeper("write", log, False)]
    calls = [ToolCall("read"), ToolCall("write"), ToolCall("write", '{"x": ')]
    results = call_all(tools, calls, confirm=lambda bound, wanted: bound.read_only)
    assert [result.failure for result in results] == ["", "declined", "bad arguments"]
    assert "declined" in results[1].text
    assert log == ["read begins", "read ends"]


def test_a_long_result_is_cut_and_the_model_reads_that() -> None:
    bound = from_schema({"name": "f"}, on_thread(lambda: "x" * 100))
    result = call([bound], ToolCall("f"), Limits(characters=10))
    assert result.text == "x" * 10 + "\n[cut: the result has 100 characters, these are the first 10]"
    assert result.cut == 90


class Listed:
    def __init__(self, name: str, *functions: str) -> None:
        self.name = name
        self.tools = [from_schema({"name": each}, on_thread(lambda: name)) for each in functions]
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_tools_of_one_name_get_the_prefix_of_their_source() -> None:
    house, shop = Listed("my-house", "open", "lamp"), Listed("shop", "open", "pay")
    with Toolbox([house, shop]) as toolbox:
        assert [each.name for each in toolbox.tools] == ["my_house_open", "lamp", "shop_open", "pay"]
        assert call(toolbox.tools, ToolCall("shop_open")).text == "shop"
    assert house.closed and shop.closed


def test_a_trace_becomes_a_row_that_reads_back_as_the_same_dialogue() -> None:
    chat = Scripted(
        [Delta(reasoning="hm"), *asked("fire_recognition", '{"image": "/tmp/1.jpg"}')],
        asked("fire_recogniser", "{}", "c2"),
        said("There is fire."),
    )
    trace = run(chat, [FIRE], QUESTION, params=None)
    row = traces.row(trace, len(QUESTION), [FIRE.tool], {"id": "x"})
    back = conversation(json.loads(json.dumps(row)))
    assert [message.weight for message in back.messages] == [None, None, None, 0, None, None]
    assert tuple(replace(message, weight=None) for message in back.messages) == trace.messages
    assert back.tools == (FIRE.tool,)
    assert [call["failure"] for call in row["trace"]["calls"]] == ["", "unknown tool"]
    assert (row["trace"]["id"], row["trace"]["usage"]["prompt_tokens"]) == ("x", 30)


def test_an_error_of_the_model_may_end_a_run_instead_of_being_raised() -> None:
    def broken(messages: Sequence[Message], tools: Sequence[Tool], params: None) -> Iterator[Delta]:
        if messages[-1].role == "tool":
            raise OSError("the server is gone")
        yield from asked("call_police", "{}")

    with pytest.raises(OSError, match="the server is gone"):
        run(broken, [POLICE], QUESTION, params=None)
    trace = run(broken, [POLICE], QUESTION, params=None, keep_errors=True)
    assert (trace.end, trace.error, trace.answer) == ("error", "the server is gone", "")
    assert [message.role for message in trace.messages] == ["user", "assistant", "tool"]
    row = traces.row(trace, 1, [POLICE.tool], {})
    assert (row["trace"]["outcome"], row["trace"]["error"]) == ("error", "the server is gone")


def test_a_program_ends_while_a_function_of_it_hangs() -> None:
    code = (
        "import threading\n"
        "from swift.chat import ToolCall\n"
        "from swift.tools.bound_tool import from_function\n"
        "from swift.tools.call import Limits, call\n"
        "def hang() -> None:\n"
        "    while True: threading.Event().wait(0.001)\n"
        "print(call([from_function(hang)], ToolCall('hang'), Limits(seconds=0.1)).failure)\n"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout) == (0, "timeout\n"), done.stderr
