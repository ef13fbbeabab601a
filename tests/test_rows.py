"""Rows of every shape -> conversations."""

import json
import re
from pathlib import Path

import pytest

from swift.chat import Conversation, Message, ToolCall
from swift.data.rows import BadRow, conversation, read

HELLO = (Message("user", "q"), Message("assistant", "r"))
WEATHER = {"name": "weather", "description": "?", "parameters": {"type": "object", "properties": {}}}


def rule_of(row: object) -> str:
    with pytest.raises(BadRow) as caught:
        conversation(row)  # type: ignore[arg-type]
    return caught.value.rule


def turns(*pairs: tuple[str, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


# --- one dialogue in every shape


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "r"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]},
        {"conversations": '[{"from": "user", "value": "q"}, {"from": "assistant", "value": "r"}]'},
        {"conversations": "[{'from': 'user', 'value': 'q'}, {'from': 'assistant', 'value': 'r'}]"},
        {"conversation": [{"human": "q", "assistant": "r"}]},
        {"conversation": '[{"human": "q", "assistant": "r"}]'},
        {"conversation": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "bot", "content": "r"}]},
        {"query": "q", "response": "r"},
        {"query": "q", "response": "r", "history": [], "system": None},
        {"query": "q", "response": "r", "history": "[]"},
        {"prompt": "q", "completion": "r"},
        {"question": "q", "answer": "r"},
        {"instruction": "q", "output": "r"},
        {"instruction": "q", "input": "", "output": "r"},
        {"instruction": "", "input": "q", "output": "r"},
        {"messages": None, "query": "q", "response": "r"},
    ],
)
def test_one_dialogue_is_the_same_in_every_shape(row):
    assert conversation(row) == Conversation(HELLO)


def test_the_input_of_an_instruction_goes_on_the_next_line():
    row = {"instruction": "Translate.", "input": "猫", "output": "cat", "text": "the whole prompt again"}
    assert conversation(row).messages == (Message("user", "Translate.\n猫"), Message("assistant", "cat"))


@pytest.mark.parametrize("history", [[["a", "b"]], '[["a", "b"]]', "[('a', 'b')]"])
def test_history_comes_before_the_question(history):
    row = {"query": "q", "response": "r", "history": history, "system": "s"}
    before = Message("system", "s"), Message("user", "a"), Message("assistant", "b")
    assert conversation(row).messages == (*before, *HELLO)


@pytest.mark.parametrize("row", [{"response": "t"}, {"text": "t"}, {"query": "", "response": "t"}, turns(("bot", "t"))])
def test_a_response_alone_is_text_to_pretrain_on(row):
    found = conversation(row)
    assert found.is_text and found.messages == (Message("assistant", "t"),)


def test_columns_are_renamed_and_the_renamed_one_wins():
    row = {"frage": "q", "query": "other", "antwort": "r"}
    assert conversation(row, {"frage": "query", "antwort": "response"}) == Conversation(HELLO)


# --- system texts


def test_a_system_text_may_stand_inside_or_beside_the_messages():
    beside = turns(("user", "q"), ("assistant", "r")) | {"system": "s"}
    inside = turns(("system", "s"), ("user", "q"), ("assistant", "r"))
    assert conversation(beside) == conversation(inside) == conversation(inside | {"system": "s"})


def test_an_empty_system_text_is_not_a_missing_one():
    row = {"query": "q", "response": "r"}
    assert conversation(row | {"system": ""}).messages[0] == Message("system", "")
    assert conversation(row | {"system": None}).messages == HELLO


def test_two_different_system_texts_are_refused():
    assert rule_of(turns(("system", "a"), ("user", "q"), ("assistant", "r")) | {"system": "b"}) == "two-systems"


def test_a_system_message_in_the_middle_is_refused():
    assert rule_of(turns(("user", "q"), ("system", "s"), ("assistant", "r"))) == "late-system"


# --- tools and calls


def test_arguments_written_as_text_are_kept_byte_for_byte():
    written = '{ "city":"\\u5317京" , "days": 1.0e2}'
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": written}}
    row = {
        "tools": [{"type": "function", "function": WEATHER}],
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
            {"role": "assistant", "content": "r"},
        ],
    }
    found = conversation(row)
    assert found.messages[1] == Message("assistant", "", (ToolCall("weather", written, "1"),))
    assert found.messages[2] == Message("tool", "sunny", tool_call_id="1")
    assert found.tools[0].spec == {"type": "function", "function": WEATHER}


@pytest.mark.parametrize("role", ["function_call", "tool_call"])
def test_arguments_inside_the_text_of_a_call_are_kept_byte_for_byte(role):
    value = ' {"name": "weather", "arguments" : {"b": [1,  2], "a": {"x": 1.50}} , "z": 0}'
    row = {"conversations": [{"from": "user", "value": "q"}, {"from": role, "value": value}]}
    (call,) = conversation(row).messages[-1].tool_calls
    assert call == ToolCall("weather", '{"b": [1,  2], "a": {"x": 1.50}}')


def test_each_call_of_a_list_keeps_its_own_arguments():
    value = '[{"name": "f", "arguments": {"a":1}}, {"arguments": {"a":  {"name": 2}}, "name": "g"}]'
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": value}]}
    assert conversation(row).messages[-1].tool_calls == (ToolCall("f", '{"a":1}'), ToolCall("g", '{"a":  {"name": 2}}'))


def test_arguments_given_as_an_object_become_json_that_keeps_its_letters():
    call = {"function": {"name": "weather", "arguments": {"city": "北京", "on": None, "n": [1, 2.5, True]}}}
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]}
    expected = '{"city": "北京", "on": null, "n": [1, 2.5, true]}'
    assert conversation(row).messages[-1].tool_calls[0].arguments == expected


@pytest.mark.parametrize("arguments", [None, "", " "])
def test_a_call_without_arguments_has_an_empty_object(arguments):
    call = {"name": "weather", "arguments": arguments}
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]}
    assert conversation(row).messages[-1].tool_calls == (ToolCall("weather", "{}"),)


def test_neighbouring_calls_and_their_thought_are_one_turn():
    row = turns(
        ("user", "q"),
        ("assistant", "I look."),
        ("tool_call", '{"name": "f", "arguments": {"a": 1}}'),
        ("tool_call", '{"name": "f", "arguments": {"a": 2}}'),
        ("tool_response", "1"),
        ("tool_response", {"value": "二"}),
        ("assistant", "r"),
    )
    calls = (ToolCall("f", '{"a": 1}'), ToolCall("f", '{"a": 2}'))
    assert conversation(row).messages == (
        Message("user", "q"),
        Message("assistant", "I look.", calls),
        Message("tool", "1"),
        Message("tool", '{"value": "二"}'),
        Message("assistant", "r"),
    )


def test_neighbouring_replies_are_joined_without_a_letter_between():
    row = turns(("user", "q"), ("assistant", "one "), ("assistant", "two"))
    assert conversation(row).messages[-1] == Message("assistant", "one two")


@pytest.mark.parametrize("tools", [[WEATHER], json.dumps([WEATHER]), [json.dumps(WEATHER)], str([WEATHER])])
def test_tools_may_be_a_list_or_the_text_of_one(tools):
    assert conversation({"query": "q", "response": "r", "tools": tools}).tools[0].spec == WEATHER


@pytest.mark.parametrize("tools", [None, "", "[]", []])
def test_no_tools_is_no_tools(tools):
    assert conversation({"query": "q", "response": "r", "tools": tools}).tools == ()


def test_one_result_may_answer_parallel_calls_without_ids():
    value = '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]'
    row = turns(("user", "q"), ("function_call", value), ("observation", "both"), ("assistant", "r"))
    assert len(conversation(row).messages) == 4


def test_a_result_may_follow_react_text_that_waits_for_it():
    row = turns(
        ("user", "q"), ("assistant", "Action: f\nAction Input: {}\nObservation:"), ("tool", "1"), ("assistant", "r")
    )
    assert [message.role for message in conversation(row).messages] == ["user", "assistant", "tool", "assistant"]


def test_a_dialogue_may_open_with_a_greeting():
    assert conversation(turns(("gpt", "Hi!"), ("human", "q"), ("gpt", "r"))).messages[0] == Message("assistant", "Hi!")


# --- weights


@pytest.mark.parametrize(
    ("keys", "weight"),
    [
        ({}, None),
        ({"loss": None, "weight": None}, None),
        ({"loss": False}, 0.0),
        ({"loss": True}, 1.0),
        ({"weight": 0}, 0.0),
        ({"weight": 2.5}, 2.5),
        ({"loss_scale": 3}, 3.0),
        ({"loss": False, "weight": 2}, 0.0),
        ({"loss": 1, "weight": 2}, 2.0),
        ({"loss_weight": 0.5}, 0.5),
        *[
            ({key: value}, float(value))
            for key in ("train", "training", "trainable", "train_on")
            for value in (True, 0)
        ],
        ({"train": True, "loss_scale": 3}, 3.0),
        ({"mask": True}, 0.0),
        ({"mask": 1}, 0.0),
        ({"mask": 0}, 1.0),
        ({"mask": False, "train": True}, 1.0),
        ({"mask": True, "train": False, "weight": 2}, 0.0),
    ],
)
def test_a_message_carries_its_weight(keys, weight):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"} | keys]}
    assert conversation(row).messages[-1].weight == weight


@pytest.mark.parametrize(
    "keys",
    [
        {"loss": "yes"},
        {"weight": -1},
        {"weight": "2"},
        {"weight": float("nan")},
        {"train": "no"},
        {"mask": 0.5},
        {"train_on": ["assistant"]},
        {"train": True, "mask": True},
        {"weight": 1, "loss_weight": 2},
    ],
)
def test_a_weight_that_is_none_is_refused(keys):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"} | keys]}
    assert rule_of(row) == "bad-weight"


def test_a_question_with_a_weight_is_refused_since_it_is_never_trained():
    row = {"messages": [{"role": "user", "content": "q", "loss": True}, {"role": "assistant", "content": "r"}]}
    assert rule_of(row) == "weight-on-prompt"


def test_a_question_may_say_that_it_is_not_trained():
    marked = {"role": "user", "content": "q", "mask": 1, "train": False}
    assert conversation({"messages": [marked, {"role": "assistant", "content": "r"}]}).messages[0].weight == 0


# --- shapes of calls, tools and replies that others write

F = ToolCall("f", '{"a":  1}')
WRITTEN = '{"name": "f", "arguments": {"a":  1}}'


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool_call", "name": "f", "arguments": '{"a":  1}'},
        {"role": "function_call", "content": None, "name": "f", "arguments": '{"a":  1}'},
        {"role": "tool_call", "content": WRITTEN},
        {"role": "tool_call", "content": [{"type": "text", "text": WRITTEN}]},
        {"role": "tool_calls", "content": f"[{WRITTEN}]"},
        {"role": "tool_call", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":  1}'}}]},
        {"role": "function_call", "function_call": {"name": "f", "arguments": '{"a":  1}'}},
        {"role": "assistant", "function_call": {"name": "f", "arguments": '{"a":  1}'}, "tool_calls": None},
        {"role": "assistant", "function_call": WRITTEN, "tool_calls": []},
        {"role": "assistant", "content": "", "tool_calls": f"[{WRITTEN}]"},
        {"role": "assistant", "tool_calls": [WRITTEN]},
        {"role": "assistant", "tool_calls": json.dumps([WRITTEN])},
        {"role": "model", "tool_calls": f"  [ {WRITTEN} ]"},
    ],
)
def test_a_call_may_be_written_in_every_way_that_others_write_one(message):
    row = {"messages": [{"role": "user", "content": "q"}, message]}
    assert conversation(row).messages[1:] == (Message("assistant", "", (F,)),)


def test_calls_as_text_and_as_objects_may_stand_in_one_list():
    listed = f'[{json.dumps(WRITTEN)}, {{"name": "g", "arguments": {{"b":2}}}}]'
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": listed}]}
    assert conversation(row).messages[1].tool_calls == (F, ToolCall("g", '{"b":2}'))


@pytest.mark.parametrize("none", [None, "", " ", "[]", "null", "None", []])
@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
def test_no_calls_are_no_calls(key, none):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r", key: none}]}
    assert conversation(row) == Conversation(HELLO)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "r"},
        {"content": "", "refusal": "r", "tool_calls": None},
        {"content": "r", "refusal": None},
        {"content": [{"type": "refusal", "refusal": "r"}]},
    ],
)
def test_a_refusal_is_what_the_assistant_says(message):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", **message}]}
    assert conversation(row) == Conversation(HELLO)


@pytest.mark.parametrize(
    "answers", ['[{"name": "f", "arguments": {"a":  1}}]', [{"name": "f", "arguments": '{"a":  1}'}]]
)
def test_a_list_of_calls_that_answers_a_question_with_tools_is_calls(answers):
    tools = json.dumps([{"name": "f", "parameters": {}}])
    assert conversation({"query": "q", "tools": tools, "answers": answers}).messages[1] == Message(
        "assistant", "", (F,)
    )


def test_a_list_of_calls_without_tools_is_text():
    assert conversation({"query": "q", "answers": f"[{WRITTEN}]"}).messages[1] == Message("assistant", f"[{WRITTEN}]")


@pytest.mark.parametrize(
    "tool",
    [
        WEATHER | {"parameters": json.dumps(WEATHER["parameters"])},
        {"type": "function", "function": json.dumps(WEATHER)},
        {"type": "function", "function": WEATHER | {"parameters": json.dumps(WEATHER["parameters"])}},
        json.dumps({"type": "function", "function": WEATHER}),
    ],
)
def test_parts_of_a_tool_may_be_json_text(tool):
    assert conversation({"query": "q", "response": "r", "tools": [tool]}).tools[0].function == WEATHER


def test_the_same_dialogue_under_two_keys_is_one():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
    assert conversation({"messages": turns, "conversations": turns}) == Conversation(HELLO)
    assert conversation({"messages": [], "conversations": turns}) == Conversation(HELLO)


def test_a_prompt_and_a_completion_of_messages_are_one_dialogue_of_which_the_completion_is_trained():
    example = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {
        "prompt": [*example, {"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "r"}],
    }
    found = conversation(row).messages
    assert [(message.content, message.weight) for message in found if message.role == "assistant"] == [
        ("b", 0),
        ("r", None),
    ]
    assert unread(row) == []


# --- keys that nobody reads


def unread(row):
    found = []
    read(row, on_unused=lambda *key: found.append(key))
    return sorted(found)


def test_every_key_that_says_something_and_that_nobody_reads_is_told():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}", "strict": True}, "cost": 3}
    row = {
        "id": 7,
        "origin": "here",
        "tools": [],
        "system": "s",
        "query": "another",
        "empty": "",
        "nothing": None,
        "messages": [
            {"role": "user", "content": "q", "value": "else", "tool_calls": [], "name": "Ann"},
            {
                "role": "assistant",
                "content": "r",
                "tool_calls": [call],
                "final": True,
                "reasoning": "t",
                "thinking": "t",
            },
            {"role": "tool", "content": "1", "tool_call_id": "1", "name": "f", "seconds": 0},
            {"role": "assistant", "content": "r", "train": False, "refusal": None, "audio": None, "annotations": []},
        ],
    }
    assert unread(row) == [
        ("calls", "cost"),
        ("calls", "strict"),
        ("messages", "final"),
        ("messages", "name"),
        ("messages", "seconds"),
        ("messages", "value"),
        ("rows", "origin"),
        ("rows", "query"),
    ]


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"query": "q", "response": "r", "history": [["a", "b"]], "system": "s", "tools": "[]"}, []),
        ({"query": "q", "prompt": "p", "response": "r", "label": 0}, ["label", "prompt"]),
        ({"instruction": "q", "input": "x", "output": "r", "text": "all"}, ["text"]),
        ({"text": "t", "url": "u"}, ["url"]),
        ({"conversation": [{"human": "q", "assistant": "r"}], "topic": "t"}, ["topic"]),
    ],
)
def test_every_shape_knows_the_keys_that_it_reads(row, keys):
    assert unread(row) == [("rows", key) for key in keys]


# --- JSON as RFC 8259 has it

HALF = "\ud83d"
CALLED = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": [{"b": HALF}]}}]}


@pytest.mark.parametrize(
    "row",
    [
        {"query": HALF, "response": "r"},
        {"query": "q", "response": "r", "history": [["a", HALF]]},
        {"query": "q", "response": "r", "anything": {"deep": [{HALF: 1}]}},
        {"query": "q", "response": "r", "tools": [{"name": "f", "description": HALF}]},
        {"query": "q", "response": "r", "tools": '[{"name": "f", "description": "\\ud83d"}]'},
        turns(("user", "q"), ("assistant", HALF)),
        turns(("user", "q"), ("tool_call", '{"name": "f", "arguments": {"\\uD83D": 1}}')),
        turns(("user", "q"), ("tool_call", '{"name": "f", "arguments": "{\\"a\\": \\"\\\\udc00\\"}"}')),
        {"messages": [{"role": "user", "content": "q"}, CALLED]},
    ],
)
def test_a_lone_surrogate_at_any_depth_breaks_one_rule(row):
    assert rule_of(row) == "lone-surrogate"


def test_a_lone_surrogate_is_said_with_its_place():
    row = {"messages": [{"role": "user", "content": "q"}, CALLED]}
    with pytest.raises(BadRow, match=r"messages\[1\]\.tool_calls\[0\]\.arguments\.a\[0\]\.b holds \\ud83d"):
        conversation(row)


def test_a_whole_surrogate_pair_is_a_letter():
    row = turns(("user", "q"), ("tool_call", '{"name": "f", "arguments": {"a": "\\ud83d\\ude00"}}'))
    assert conversation(row).messages[1].tool_calls[0].arguments == '{"a": "\\ud83d\\ude00"}'


# --- bad rows

CALL = '{"name": "f", "arguments": {}}'
BOTH = {"tool_calls": [{"name": "f"}], "function_call": {"name": "g"}}


@pytest.mark.parametrize(
    ("rule", "row"),
    [
        ("not-an-object", ["q", "r"]),
        ("unknown-shape", {"id": 1}),
        ("unknown-shape", {}),
        ("no-reply", {"query": "q"}),
        ("no-reply", {"query": "q", "response": None}),
        ("no-reply", {"instruction": "q", "input": "x"}),
        ("no-reply", {"messages": []}),
        ("no-reply", turns(("user", "q"))),
        ("no-reply", turns(("user", "q"), ("assistant", "r"), ("user", "q"))),
        ("no-reply", turns(("user", "q"), ("function_call", CALL), ("observation", "1"))),
        ("empty-reply", {"query": "q", "response": " \n"}),
        ("empty-reply", {"text": ""}),
        ("empty-reply", turns(("user", "q"), ("assistant", ""), ("user", "q"), ("assistant", "r"))),
        ("empty-reply", turns(("user", "q"), ("assistant", None))),
        ("no-query", turns(("system", "s"), ("assistant", "r"))),
        ("no-query", {"system": "s", "response": "r"}),
        ("wrong-type", {"query": "q", "response": 3}),
        ("wrong-type", {"query": {"a": 1}, "response": "r"}),
        ("wrong-type", {"query": "q", "response": "r", "history": [["a"]]}),
        ("wrong-type", {"query": "q", "response": "r", "history": "oh no"}),
        ("wrong-type", {"query": "q", "response": "r", "system": 1}),
        ("wrong-type", {"messages": "hello"}),
        ("wrong-type", {"messages": {"role": "user"}}),
        ("wrong-type", {"messages": ["q", "r"]}),
        ("wrong-type", {"conversation": [{"human": "q"}, {"human": "q", "assistant": "r"}]}),
        ("wrong-type", turns(("user", None), ("assistant", "r"))),
        ("unknown-role", turns(("user", "q"), ("asistant", "r"))),
        ("unknown-role", {"messages": [{"content": "q"}]}),
        ("two-users", turns(("user", "q"), ("user", "q"), ("assistant", "r"))),
        ("not-text", turns(("user", "q"), ("assistant", [{"type": "image_url", "image_url": "x"}]))),
        ("not-text", {"query": "q", "response": "r", "videos": ["cat.mp4"]}),
        ("bad-tools", {"query": "q", "response": "r", "tools": "[{"}),
        ("bad-tools", {"query": "q", "response": "r", "tools": [{"description": "no name"}]}),
        ("bad-tools", {"query": "q", "response": "r", "tools": {"name": "f"}}),
        ("bad-tools", {"query": "q", "response": "r", "tools": [1]}),
        ("bad-tools", {"query": "q", "response": "r", "tools": [{"name": "f", "parameters": '{"a": NaN}'}]}),
        ("bad-tools", {"query": "q", "response": "r", "tools": [{"name": "f", "parameters": "{"}]}),
        ("empty-reply", {"query": "q", "answers": "[]", "tools": [WEATHER]}),
        ("two-dialogues", turns(("user", "q"), ("bot", "r")) | {"conversations": [{"from": "human", "value": "x"}]}),
        ("duplicate-key", {"conversations": '[{"from": "human", "from": "gpt", "value": "q"}]'}),
        ("duplicate-key", {"query": "q", "response": "r", "tools": '[{"name": "f", "name": "g"}]'}),
        ("duplicate-key", turns(("user", "q"), ("tool_call", '{"name": "f", "arguments": {"a": 1, "a": 2}}'))),
        (
            "duplicate-key",
            turns(("user", "q"), ("tool_call", '{"name": "f", "arguments": "{\\"a\\": 1, \\"a\\": 2}"}')),
        ),
        ("bad-call", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"} | BOTH]}),
        ("bad-call", turns(("user", "q"), ("tool_call", "[]"))),
        ("bad-call", turns(("user", "q"), ("tool_call", '{"name": "f", "arguments": {"a": NaN}}'))),
        ("bad-arguments", turns(("user", "q"), ("tool_call", '{"name": "f", "arguments": "{\\"a\\": Infinity}"}'))),
        ("bad-arguments", turns(("user", "q"), ("tool_call", {"name": "f", "arguments": {"a": float("nan")}}))),
        ("bad-arguments", turns(("user", "q"), ("tool_call", '{"name": "f", "arguments": "{\\"a\\": 1e999}"}'))),
        ("wrong-type", turns(("user", "q"), ("tool_call", CALL), ("tool", {"a": float("inf")}), ("bot", "r"))),
        ("bad-call", turns(("user", "q"), ("function_call", "weather(city)"))),
        ("bad-call", turns(("user", "q"), ("function_call", '{"arguments": {}}'))),
        ("bad-call", turns(("user", "q"), ("function_call", "[1]"))),
        ("bad-call", turns(("user", "q"), ("function_call", None))),
        ("bad-arguments", turns(("user", "q"), ("function_call", '{"name": "f", "arguments": [1]}'))),
        ("bad-arguments", turns(("user", "q"), ("function_call", '{"name": "f", "arguments": "{a"}'))),
        ("unknown-tool", turns(("user", "q"), ("function_call", CALL)) | {"tools": [WEATHER]}),
        ("result-without-call", turns(("user", "q"), ("assistant", "r"), ("observation", "1"), ("assistant", "r"))),
        ("result-without-call", turns(("user", "q"), ("observation", "1"), ("assistant", "r"))),
        (
            "result-without-call",
            turns(("user", "q"), ("tool_call", CALL), ("tool", "1"), ("tool", "2"), ("assistant", "r")),
        ),
        ("call-without-result", turns(("user", "q"), ("tool_call", CALL), ("assistant", "r"))),
        ("call-without-result", turns(("user", "q"), ("tool_call", CALL), ("user", "q"), ("assistant", "r"))),
    ],
)
def test_a_bad_row_breaks_a_rule_that_has_a_name(rule, row):
    assert rule_of(row) == rule


def test_an_unknown_role_suggests_the_nearest():
    with pytest.raises(BadRow, match="did you mean 'assistant'"):
        conversation(turns(("user", "q"), ("asistant", "r")))


def openai_row(*answered: str) -> dict[str, object]:
    calls = [{"id": name, "function": {"name": "f", "arguments": "{}"}} for name in ("a", "b")]
    results = [{"role": "tool", "tool_call_id": name, "content": "1"} for name in answered]
    asked = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": calls}]
    return {"messages": [*asked, *results, {"role": "assistant", "content": "r"}]}


def test_results_are_matched_to_calls_by_id():
    assert len(conversation(openai_row("b", "a")).messages) == 5
    assert rule_of(openai_row("a", "c")) == "result-without-call"
    assert rule_of(openai_row("a", "a")) == "result-without-call"
    assert rule_of(openai_row("a")) == "call-without-result"


def test_reading_alone_accepts_a_dialogue_that_makes_no_sense():
    row = turns(("user", "q"), ("assistant", "r"), ("observation", "1"), ("assistant", "r"))
    assert len(read(row).messages) == 4


def test_a_deep_row_is_a_bad_row_and_no_crash():
    assert rule_of({"conversations": "[" * 100_000}) == "wrong-type"


def test_replies_that_would_be_joined_must_agree_on_their_weight():
    row = turns(("user", "q"), ("assistant", "a"), ("assistant", "b"))
    row["messages"][1]["loss"] = False  # type: ignore[index]
    assert rule_of(row) == "mixed-weights"


# --- thoughts

THOUGHT = (Message("user", "q"), Message("assistant", "r", reasoning="hm"))
KEYS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")


def reply(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"} | fields]}


@pytest.mark.parametrize("key", KEYS)
def test_a_thought_may_stand_under_each_of_its_names_in_every_shape(key):
    for row in (
        reply(**{key: "hm"}),
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r", key: "hm"}]},
        {"conversation": [{"human": "q", "assistant": "r", key: "hm"}]},
        {"query": "q", "response": "r", key: "hm"},
        {"input": "q", "content": "r", key: "hm"},
        {"instruction": "q", "output": "r", key: "hm"},
        {"prompt": reply()["messages"][:1], "completion": [{"role": "assistant", "content": "r", key: "hm"}]},
    ):
        assert [(each.content, each.reasoning) for each in conversation(row).messages] == [("q", ""), ("r", "hm")], row
        assert unread(row) == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True},
        {"type": "reasoning", "text": "hm"},
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}], "summary": []},
        {"type": "reasoning_text", "text": "hm"},
    ],
)
def test_a_thought_may_be_a_part_of_the_content(part):
    said = {"type": "text", "text": "r"}
    assert conversation(reply(content=[part, said])).messages == THOUGHT
    assert conversation(reply(content=[part, said], reasoning="hm")).messages == THOUGHT
    assert conversation({"query": "q", "response": [part, said]}).messages == THOUGHT
    assert conversation({"conversation": [{"human": "q", "assistant": [part, said]}]}).messages == THOUGHT
    call = {"function": {"name": "f", "arguments": '{"a":  1}'}}
    called = Message("assistant", "", (F,), reasoning="hm\nhm")
    assert conversation(reply(content=[part, part], tool_calls=[call])).messages[1] == called


def test_the_thought_of_a_call_goes_with_it():
    for called in (
        {"role": "assistant", "content": None, "function_call": WRITTEN, "reasoning": "hm"},
        {"role": "tool_call", "content": WRITTEN, "reasoning": "hm"},
    ):
        row = {"messages": [{"role": "user", "content": "q"}, called]}
        assert conversation(row).messages[1] == Message("assistant", "", (F,), reasoning="hm")
        assert unread(row) == []
    row = {"query": "q", "tools": [{"name": "f"}], "answers": f"[{WRITTEN}]", "thinking": "hm"}
    assert conversation(row).messages[1] == Message("assistant", "", (F,), reasoning="hm")


@pytest.mark.parametrize("nothing", [None, "", " \n", [], {}])
def test_no_thought_is_no_thought(nothing):
    assert conversation(reply(reasoning_content=nothing)) == Conversation(HELLO)
    assert conversation(reply(reasoning_content=nothing, thinking="hm")).messages == THOUGHT
    asked = {"role": "user", "content": "q", "thinking": nothing}
    assert conversation({"messages": [asked, {"role": "assistant", "content": "r"}]}) == Conversation(HELLO)


def test_a_thought_within_the_content_stays_there_byte_for_byte():
    written = "<think>\n hm \n</think>\n\nr"
    assert conversation(reply(content=written)).messages[1] == Message("assistant", written)


def test_a_thought_that_is_a_message_of_its_own_is_that_of_the_reply_behind_it():
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "reasoning": "hm"}]}
    row["messages"].append({"role": "assistant", "content": "r"})
    assert conversation(row).messages == THOUGHT


@pytest.mark.parametrize(
    ("rule", "row", "said"),
    [
        ("wrong-type", reply(reasoning_content=["hm"]), "message 2: 'reasoning_content' must be text, not a list"),
        ("wrong-type", reply(reasoning={"a": 1}), "message 2: 'reasoning' must be text, not an object"),
        ("wrong-type", reply(thinking=3), "message 2: 'thinking' must be text, not a number"),
        ("wrong-type", reply(thinking=True), "message 2: 'thinking' must be text, not true or false"),
        ("wrong-type", {"query": "q", "response": "r", "reasoning": 1}, "the row: 'reasoning' must be text"),
        ("wrong-type", reply(content=[{"type": "reasoning", "encrypted_content": "x"}]), "without a text in 'text'"),
        ("wrong-type", reply(content=[{"type": "thinking", "thinking": 3}]), "without a text in 'thinking'"),
        ("not-text", reply(content=[{"type": "redacted_thinking", "data": "x"}]), "'redacted_thinking', whose text is"),
        ("two-thoughts", reply(reasoning="a", thinking="b"), "different reasoning in 'reasoning' and 'thinking'"),
        ("two-thoughts", {"query": "q", "response": "r", "reasoning": "a", "thinking": "b"}, "the row has different"),
        (
            "two-thoughts",
            reply(reasoning="a", content=[{"type": "thinking", "thinking": "b"}, {"type": "text", "text": "r"}]),
            "different reasoning in 'reasoning' and the content",
        ),
        (
            "late-thought",
            reply(content=[{"type": "text", "text": "r"}, {"type": "thinking", "thinking": "b"}]),
            "after text",
        ),
        ("no-query", {"messages": [{"role": "assistant", "content": "r", "reasoning": "hm"}]}, "no question"),
    ],
)
def test_a_thought_that_cannot_be_used_is_one_clear_line(rule, row, said):
    with pytest.raises(BadRow, match=said.replace("(", r"\(")) as caught:
        read(row)
    assert caught.value.rule == rule and "\n" not in str(caught.value)


@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_nobody_but_the_assistant_thinks(role):
    row = {"messages": [{"role": role, "content": "x", "reasoning_content": "hm"}]}
    with pytest.raises(BadRow, match=f"message 1 is a {role} message with 'reasoning_content': only assistant"):
        read(row)
    assert rule_of(row) == "thought-on-prompt"


def test_a_thought_stands_before_what_its_turn_says_and_calls():
    begun = {"role": "assistant", "content": "I look."}
    called = {"role": "tool_call", "content": WRITTEN}
    for first, second, rule in (
        (begun, called | {"reasoning": "hm"}, "late-thought"),
        (called, called | {"reasoning": "hm"}, "call-without-result"),
    ):
        assert rule_of({"messages": [{"role": "user", "content": "q"}, first, second]}) == rule


# --- harmony


def in_channel(channel: str, content: object, **more: object) -> dict[str, object]:
    return {"role": "assistant", "channel": channel, "content": content, **more}


def test_the_channels_of_harmony_are_thought_call_and_content():
    row = {
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "q"},
            in_channel("analysis", "hm", recipient=None),
            in_channel("commentary", [{"type": "text", "text": "I look."}]),
            in_channel("commentary", '{"a":  1}', recipient="functions.f", content_type="<|constrain|>json"),
            {"role": "tool", "name": "functions.f", "recipient": "assistant", "channel": "commentary", "content": "1"},
            in_channel("analysis", [{"type": "text", "text": "So."}]),
            in_channel("final", "r"),
        ]
    }
    assert conversation(row).messages == (
        Message("system", "Be kind."),
        Message("user", "q"),
        Message("assistant", "I look.", (F,), reasoning="hm"),
        Message("tool", "1", name="f"),
        Message("assistant", "r", reasoning="So."),
    )
    assert unread(row) == []


def test_a_channel_beside_ready_fields_changes_nothing():
    assert conversation(reply(channel="final", thinking="hm")).messages == THOUGHT
    assert conversation(reply(channel="e-mail")) == Conversation(HELLO)
    assert unread(reply(channel="e-mail", recipient="Ann")) == [("messages", "channel"), ("messages", "recipient")]


def test_a_misspelt_channel_is_named_with_the_nearest():
    with pytest.raises(BadRow, match="message 2 has the channel 'anlysis'; did you mean 'analysis'"):
        read(reply(channel="anlysis"))
    assert rule_of(reply(channel="final", recipient=3)) == "wrong-type"


def test_an_analysis_that_no_reply_follows_is_an_empty_reply():
    row = {"messages": [{"role": "user", "content": "q"}, in_channel("analysis", "hm")]}
    with pytest.raises(BadRow, match="message 2 has reasoning, but no content and no call"):
        conversation(row)
    assert rule_of(row) == "empty-reply"


# --- variables for the chat template


@pytest.mark.parametrize(
    ("keys", "variables"),
    [
        ({}, {}),
        ({"chat_template_kwargs": None, "enable_thinking": None}, {}),
        ({"chat_template_kwargs": "", "enable_thinking": ""}, {}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"enable_thinking": "true"}, {"enable_thinking": True}),
        ({"chat_template_kwargs": {"reasoning_effort": "low"}}, {"reasoning_effort": "low"}),
        ({"chat_template_kwargs": '{"reasoning_effort": "low"}'}, {"reasoning_effort": "low"}),
        (
            {"chat_template_kwargs": {"reasoning_effort": "low"}, "enable_thinking": True},
            {"reasoning_effort": "low", "enable_thinking": True},
        ),
        ({"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": True}, {"enable_thinking": True}),
    ],
)
def test_a_row_gives_variables_to_the_chat_template_in_every_shape(keys, variables):
    for row in (
        reply(),
        {"query": "q", "response": "r"},
        {"instruction": "q", "output": "r"},
        {"conversation": [{"human": "q", "assistant": "r"}]},
    ):
        assert conversation(row | keys) == Conversation(HELLO, template_kwargs=variables)
        assert unread(row | keys) == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"chat_template_kwargs": ["a"]}, "'chat_template_kwargs' must be an object, not a list"),
        ({"chat_template_kwargs": True}, "'chat_template_kwargs' must be an object, not true or false"),
        ({"chat_template_kwargs": "{a"}, "'chat_template_kwargs' is neither JSON nor a Python literal"),
        ({"chat_template_kwargs": {"a": float("nan")}}, "'chat_template_kwargs' cannot be written as JSON"),
        (
            {"chat_template_kwargs": {"tools": []}},
            "'chat_template_kwargs' has 'tools', which is set from the row's own",
        ),
        ({"chat_template_kwargs": {"enable_thinking": "no"}}, "'enable_thinking' must be true or false, not text"),
        (
            {"chat_template_kwargs": {"enable_thinking": "true"}},
            "'enable_thinking' must be true or false, not text",
        ),
        ({"enable_thinking": 1}, "'enable_thinking' must be true or false, not a number"),
        ({"enable_thinking": {"a": 1}}, "'enable_thinking' must be true or false, not an object"),
        ({"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": False}, "differ: remove one of them"),
    ],
)
def test_variables_that_are_none_are_one_clear_line(keys, said):
    with pytest.raises(BadRow, match=said) as caught:
        read(reply() | keys)
    assert caught.value.rule == "bad-variables"


def test_text_to_pretrain_on_has_no_thought_and_no_variables():
    row = {"text": "t", "reasoning": "hm", "enable_thinking": True}
    assert conversation(row) == Conversation((Message("assistant", "t"),))
    assert unread(row) == [("rows", "enable_thinking"), ("rows", "reasoning")]


def test_the_thoughts_of_the_docs_are_rows():
    page = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    rows = [json.loads(row) for block in blocks for row in re.split(r"\n(?=\{)", block)]
    found = [conversation(row) for row in rows]
    assert len(rows) == 4 and [unread(row) for row in rows] == [[]] * len(rows)
    assert all(any(message.reasoning for message in row.messages) for row in found[:3])
    assert found[3].template_kwargs == {"enable_thinking": False, "reasoning_effort": "low"}
