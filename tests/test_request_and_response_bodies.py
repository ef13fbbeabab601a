"""OpenAI's request bodies become our values, and deltas become OpenAI's responses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swift.chat import Delta, Logprob, Message, Tool, ToolCall, Usage
from swift.engine.sampling import SamplingParams
from swift.guided.grammar import Rules
from swift.serve.bad_request import BadRequest
from swift.serve.error_bodies import openai_error
from swift.serve.formats import request_fields
from swift.serve.formats.chat_completions_request import ChatRequest
from swift.serve.formats.chat_completions_response import ChatCompletionBuilder
from swift.serve.formats.choice_builder import ResponseOptions
from swift.serve.formats.completions_request import TextRequest
from swift.serve.formats.completions_response import CompletionBuilder
from swift.serve.response_builder import ResponseBuilder, as_json

DEFAULTS = SamplingParams(max_tokens=64, clip=True, temperature=0.3, top_k=20, top_p=0.7, seed=1, stop=("END",))
USER = {"role": "user", "content": "hi"}
FIRE = {"type": "function", "function": {"name": "fire", "parameters": {"type": "object", "n": 1.5}}}


def chat(**fields: Any) -> ChatRequest:
    return request_fields.parse(ChatRequest, json.dumps({"model": "m", "messages": [USER], **fields}).encode())


def refusal(shape: Any = ChatRequest, body: bytes | None = None, **fields: Any) -> BadRequest:
    sent = (
        body if body is not None else json.dumps({"model": "m", "messages": [USER], "prompt": "x", **fields}).encode()
    )
    with pytest.raises(BadRequest) as caught:
        request = request_fields.parse(shape, sent)
        (request.inner if isinstance(request, ChatRequest) else request).params(DEFAULTS)
    assert caught.value.status in (400, 413)
    return caught.value


def written(value: Any) -> Any:
    return json.loads(as_json(value))


def test_every_role_and_kind_of_content_is_read() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "fire", "arguments": '{"a":  1}'}}
    request = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "yes"},
            {"role": "assistant", "content": "Thought: "},
        ]
    )
    assert request.inner.messages == (
        Message("system", "be brief"),
        Message("user", "one\ntwo"),
        Message("assistant", "", (ToolCall("fire", '{"a":  1}', "c1"),)),
        Message("tool", "yes", tool_call_id="c1"),
        Message("assistant", "Thought: "),
    )


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, {}),
        ({"chat_template_kwargs": {}, "enable_thinking": None, "reasoning_effort": None}, {}),
        ({"chat_template_kwargs": {"enable_thinking": False, "x": [1]}}, {"enable_thinking": False, "x": [1]}),
        ({"enable_thinking": True}, {"enable_thinking": True}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "none", "enable_thinking": False}, {"enable_thinking": False}),
        (
            {"reasoning_effort": "high", "chat_template_kwargs": {"a": 1}, "enable_thinking": False},
            {"reasoning_effort": "high", "a": 1, "enable_thinking": False},
        ),
    ],
)
def test_variables_of_the_chat_template_are_read(fields: dict[str, Any], variables: dict[str, Any]) -> None:
    assert chat(**fields).inner.template_kwargs == variables


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"chat_template_kwargs": ["a"]}, "chat_template_kwargs", "should be an object"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "messages is set by the server"),
        ({"enable_thinking": "no"}, "enable_thinking", "valid boolean"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort", "'low', 'medium', 'high'"),
        (
            {"reasoning_effort": "none", "enable_thinking": True},
            "enable_thinking",
            "the request sets two values, true and false",
        ),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
            "reasoning_effort",
            'the request sets two values, "high" and "low"',
        ),
    ],
)
def test_reserved_and_contradictory_variables_are_refused(fields: dict[str, Any], param: str, said: str) -> None:
    error = refusal(**fields)
    assert error.param == param and said in str(error)
    assert "\n" not in str(error)


def test_leading_system_messages_are_joined_and_a_later_one_stays_in_its_place() -> None:
    first, second = {"role": "system", "content": "a"}, {"role": "developer", "content": "b"}
    said = chat(messages=[first, second, USER, {"role": "assistant", "content": "yes"}, second, USER]).inner.messages
    assert [(message.role, message.content) for message in said] == [
        ("system", "a\n\nb"),
        ("user", "hi"),
        ("assistant", "yes"),
        ("system", "b"),
        ("user", "hi"),
    ]


def result(id: str | None, content: str = "") -> dict[str, str]:
    return {"role": "tool", "content": content or str(id), **({} if id is None else {"tool_call_id": id})}


def calling(*ids: str | None) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"type": "function", "function": function, **({} if id is None else {"id": id})} for id in ids]
    return {"role": "assistant", "tool_calls": calls}


def results(*messages: Any) -> list[tuple[str, str]]:
    said = chat(messages=[USER, *messages]).inner.messages
    return [(message.tool_call_id, message.content) for message in said if message.role == "tool"]


def test_results_of_parallel_calls_are_sorted_into_the_order_of_the_calls() -> None:
    asked = calling("a", "b", "c")
    said = results(asked, result("c"), result("a"), result("b"), asked, result("b"), result("a"), result("c"), USER)
    assert said == [(id, id) for id in "abcabc"]


def test_results_without_ids_are_accepted_if_only_one_call_is_possible() -> None:
    assert results(calling("a"), result(None, "x")) == [("a", "x")]
    assert results(calling(None), result("lost", "x")) == [("lost", "x")]
    assert results(calling(None, None), result(None, "x"), result(None, "y")) == [("", "x"), ("", "y")]
    assert results(calling("a", "b"), result("b"), result(None, "x")) == [("a", "x"), ("b", "b")]
    error = refusal(messages=[USER, calling("a", "b"), result(None, "x"), result("b")])
    assert error.param == "messages[2].tool_call_id" and "several calls have no result" in str(error)


@pytest.mark.parametrize(
    ("messages", "param", "said"),
    [
        ([calling("a")], "messages[1].tool_calls", "these did not have response messages: a"),
        ([calling("a"), USER], "messages[1].tool_calls", "response messages: a"),
        ([calling("a", "b"), result("b"), USER], "messages[1].tool_calls", "response messages: a"),
        ([calling("a"), calling("b"), result("b")], "messages[1].tool_calls", "response messages: a"),
        ([calling(None)], "messages[1].tool_calls", "response messages: f"),
        ([result("a")], "messages[1].role", "must be a response to a preceding message with 'tool_calls'"),
        ([calling("a"), result("a"), USER, result("a")], "messages[4].role", "must be a response"),
        ([calling("a"), result("a"), result("a")], "messages[3].tool_call_id", "the call 'a' has two results"),
        ([calling("a"), result("a"), result(None, "x")], "messages[3]", "more results than the 1 calls"),
        ([calling("a"), result("b")], "messages[2].tool_call_id", "'b' is not a call of the preceding message (a)"),
        ([calling("a", "a"), result("a"), result("a")], "messages[1].tool_calls", "two calls have the id 'a'"),
    ],
)
def test_calls_and_results_that_do_not_match_are_refused(messages: list[Any], param: str, said: str) -> None:
    error = refusal(messages=[USER, *messages])
    assert error.param == param and said in str(error)


def test_reasoning_and_refusals_of_the_assistant_are_read() -> None:
    def last(**fields: Any) -> tuple[str, str]:
        message = chat(messages=[USER, {"role": "assistant", **fields}]).inner.messages[-1]
        return message.content, message.reasoning

    assert last(content="yes", reasoning_content="hm") == ("yes", "hm")
    assert last(content="yes", reasoning="hm") == ("yes", "hm")
    assert last(content="yes", reasoning_text="hm") == ("yes", "hm")
    assert last(content="yes", thinking="hm") == ("yes", "hm")
    assert last(content="yes", reasoning_content=None, reasoning="hm") == ("yes", "hm")
    assert last(content="", reasoning_content=None, refusal=None) == ("", "")
    assert last(content=None, refusal="no") == ("no", "")
    assert last(content=[{"type": "refusal", "refusal": "no"}]) == ("no", "")
    thought = {"type": "thinking", "thinking": "hm"}
    assert last(content=[thought, {"type": "text", "text": "yes"}]) == ("yes", "hm")
    assert last(content=[{**thought, "thinking": [{"type": "text", "text": "hm"}]}]) == ("", "hm")
    assert last(content=[{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "yes"}]) == ("yes", "hm")
    assert (
        chat(messages=[{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]).inner.messages[0].content
        == "x"
    )
    for wrong in ({"content": [thought]}, {"content": [{"type": "refusal", "refusal": "no"}]}):
        assert refusal(messages=[{"role": "user", **wrong}]).param == "messages[0].content"
    assert refusal(messages=[{"role": "user", "content": "x", "reasoning": "hm"}]).param == "messages[0].reasoning"
    assert refusal(messages=[{"role": "assistant", "content": [{"type": "thinking"}]}]).param == "messages[0].content"


def test_fields_that_are_not_set_get_the_servers_defaults() -> None:
    assert chat().inner.params(DEFAULTS) == DEFAULTS
    assert (
        chat(temperature=None, stop=None, seed=None, n=1, user="me", frobnicate=[1]).inner.params(DEFAULTS) == DEFAULTS
    )


def test_every_option_of_a_request_wins_over_the_defaults() -> None:
    request = chat(
        max_tokens=5,
        temperature=0,
        top_p=1,
        top_k=-1,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=-1,
        frequency_penalty=0.5,
        logit_bias={"7": -100},
        seed=-42,
        stop="Observation:",
        include_stop_str_in_output=False,
        ignore_eos=True,
    )
    assert request.inner.params(DEFAULTS) == SamplingParams(
        max_tokens=5,
        temperature=0,
        top_k=0,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=-1,
        frequency_penalty=0.5,
        logit_bias={7: -100},
        seed=-42,
        stop=("Observation:",),
        include_stop=False,
        ignore_eos=True,
    )
    assert chat(stop=["a", "b"]).inner.params(DEFAULTS).stop == ("a", "b")
    assert chat(stop=[]).inner.params(DEFAULTS).stop == ()
    assert chat(max_tokens=5, max_completion_tokens=9).inner.params(DEFAULTS).max_tokens == 9


def test_a_top_p_of_0_is_greedy() -> None:
    params = chat(top_p=0, temperature=1).inner.params(DEFAULTS)
    assert (params.temperature, params.top_p) == (0, 1)


def test_tools_are_kept_as_sent_and_left_out_with_tool_choice_none() -> None:
    assert chat(tools=[FIRE]).inner.offered_tools == (Tool(FIRE),)
    assert chat(tools=[FIRE], tool_choice="auto").inner.offered_tools == (Tool(FIRE),)
    assert chat(tools=[FIRE], tool_choice="none").inner.offered_tools == ()
    assert chat(tools=[]).inner.offered_tools == ()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user", "content": 3}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "", "tool_calls": [{"function": {"name": "f"}}]}]},
         "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}]},
         "messages[0].tool_calls[0].function.name"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]},
         "messages[0].tool_calls[0].function.arguments"),
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"stop": ["x" * 1001]}, "stop[0]"),
        ({"messages": [USER] * 16_385}, "messages"),
        ({"tools": [FIRE] * 513}, "tools"),
        ({"logit_bias": {str(token): 1 for token in range(4097)}}, "logit_bias"),
        ({"top_k": -2}, "top_k"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"seed": 2**63}, "seed"),
        ({"stop": 3}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": 'a"\n'}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}]},
         "tools[0].function.parameters"),
        ({"tools": [FIRE, FIRE]}, "tools"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [FIRE], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [FIRE], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [FIRE], "tool_choice": {"type": "function", "function": {"name": "water"}}}, "tool_choice"),
        ({"tools": [FIRE], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
         "tool_choice"),
        ({"tools": [FIRE], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 3}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "thing"}}}},
         "response_format.json_schema.schema"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"user": 3}, "user"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_named(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert str(error).startswith(f"{param}: ")
    assert "\n" not in str(error)


def test_the_error_for_an_unsupported_value_names_the_supported_ones() -> None:
    assert str(refusal(modalities=["audio"])) == 'modalities: only ["text"] is supported, not ["audio"]'
    assert "'water' is not one of the tools (fire)" in str(
        refusal(tools=[FIRE], tool_choice={"type": "function", "function": {"name": "water"}})
    )


WATER = {"type": "function", "function": {"name": "water", "description": "Sprinklers"}}
NAMED = {"type": "function", "function": {"name": "water"}}
STRICT = {"type": "function", "function": {"name": "water", "strict": True}}
IN_FULL = frozenset({"water"})


def allowed(mode: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NAMED]}}


@pytest.mark.parametrize(
    ("fields", "rules"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, None),
        ({"tool_choice": "none", "parallel_tool_calls": False}, None),
        ({"tool_choice": "required"}, Rules((Tool(FIRE), Tool(WATER)), required=True)),
        ({"tool_choice": NAMED}, Rules((Tool(WATER),), required=True, parallel=False, strict=IN_FULL)),
        ({"tool_choice": allowed("auto")}, Rules((Tool(WATER),))),
        ({"tool_choice": allowed("required")}, Rules((Tool(WATER),), required=True)),
        ({"parallel_tool_calls": False}, Rules((Tool(FIRE), Tool(WATER)), parallel=False)),
        ({"tools": [STRICT]}, Rules((Tool(STRICT),), strict=IN_FULL)),
        ({"response_format": {"type": "text"}}, None),
        ({"tools": [], "response_format": {"type": "json_object"}}, Rules(schema={"type": "object"})),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}}},
            Rules((Tool(FIRE), Tool(WATER)), schema={"type": "array"}),
        ),
    ],
)
def test_the_rules_for_a_reply_follow_from_the_request(fields: dict[str, Any], rules: Rules | None) -> None:
    assert chat(**{"tools": [FIRE, WATER], **fields}).inner.rules(guide_tools=False) == rules


@pytest.mark.parametrize(
    ("fields", "strict", "strict_schema"),
    [
        ({"tool_choice": "required"}, (), False),
        ({"tool_choice": {"type": "function", "function": {"name": "fire"}}}, ("fire",), False),
        ({"tools": [{**FIRE, "function": {**FIRE["function"], "strict": True}}, WATER]}, ("fire",), False),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}}, (), False),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}}},
            (),
            True,
        ),
    ],
)
def test_only_strict_schemas_must_be_enforced_in_full(
    fields: dict[str, Any], strict: tuple[str, ...], strict_schema: bool
) -> None:
    rules = chat(**{"tools": [FIRE, WATER], **fields}).inner.rules(guide_tools=False)
    assert rules is not None
    assert (rules.strict, rules.strict_schema) == (frozenset(strict), strict_schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"at": {"type": "array", "items": [{"type": "number"}] * 2}}},
        {"properties": {"n": {"type": "number", "minimum": 0, "exclusiveMinimum": True}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"at": {"items": [{}]}}},
    ],
)
def test_schemas_of_earlier_drafts_are_schemas(schema: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert chat(tools=[tool]).inner.offered_tools[0].name == "f"


def test_a_server_may_guide_every_offered_tool() -> None:
    assert chat(tools=[FIRE]).inner.rules(guide_tools=True) == Rules((Tool(FIRE),))
    assert chat().inner.rules(guide_tools=True) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'{"model": NaN}', "model"),
        (b'{"model": "\xff"}', "the body is not JSON"),
        (b'{"model": "\\ud800"}', "the body is not JSON"),
        (b"[]", "the body: Input should be an object"),
        (b"null", "the body: Input should be an object"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"\xef\xbb\xbf{}", "it starts with a byte order mark"),
        (b'{"model": "m", "x": [' + b"1," * 1_000_000 + b"1]}", "too many values"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, said: str) -> None:
    assert said in str(refusal(body=body))


def test_prompts_are_texts_or_tokens_one_or_several() -> None:
    def prompt(value: Any) -> Any:
        return request_fields.parse(TextRequest, json.dumps({"model": "m", "prompt": value}).encode()).prompt

    assert prompt("Once") == ["Once"]
    assert prompt(["Once", "Twice"]) == ["Once", "Twice"]
    assert prompt([1, 2]) == [[1, 2]]
    assert prompt([[1, 2], [3]]) == [[1, 2], [3]]
    for wrong in ("", [], [1, "a"], ["a", 1], [True], [[]], [[1], [True]], 3, None, {}):
        assert refusal(TextRequest, prompt=wrong).param == "prompt", wrong
    assert str(refusal(TextRequest, echo=True)) == "echo: only false is supported, not true"
    assert refusal(TextRequest, suffix="x").param == "suffix"
    assert refusal(TextRequest, best_of=2).param == "best_of"


DELTAS = [
    Delta(text="Thought: look"),
    Delta(tool_call=ToolCall("fire", "{'image': '图'}")),
    Delta(tool_call=ToolCall("fire", "/tmp/1.jpg", "c2")),
    Delta(finish="tool_calls", usage=Usage(7, 5)),
]
SAID = [Delta(text="There "), Delta(text=""), Delta(text="is", finish="length", usage=Usage(7, 5))]


def test_a_chat_completion_has_openais_keys_and_no_others() -> None:
    reply = ChatCompletionBuilder(ResponseOptions("m"))
    for delta in SAID:
        reply.add(0, delta)
    body = written(reply.response())
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("created") > 0
    assert body == {
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "There is", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }


def test_tool_calls_have_ids_and_json_arguments_where_they_can_be_read() -> None:
    reply = ChatCompletionBuilder(ResponseOptions("m"))
    for delta in DELTAS:
        reply.add(0, delta)
    choice = written(reply.response())["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Thought: look"
    first, second = choice["message"]["tool_calls"]
    assert first.pop("id").startswith("call_")
    assert first == {"type": "function", "function": {"name": "fire", "arguments": '{"image": "图"}'}}
    assert second == {"id": "c2", "type": "function", "function": {"name": "fire", "arguments": "/tmp/1.jpg"}}


def test_a_reply_of_calls_has_null_content_and_an_empty_reply_an_empty_string() -> None:
    reply = ChatCompletionBuilder(ResponseOptions("m"))
    reply.add(0, DELTAS[1])
    assert written(reply.response())["choices"][0]["message"]["content"] is None
    assert written(ChatCompletionBuilder(ResponseOptions("m")).response())["choices"][0]["message"]["content"] == ""


def streamed(reply: ResponseBuilder, deltas: list[Delta]) -> list[Any]:
    events = [*reply.start(), *(event for delta in deltas for event in reply.add(0, delta))]
    *lines, done, rest = ("".join(map(reply.frame, events)) + reply.end()).split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    bodies = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert len({(body.pop("id"), body.pop("created"), body.pop("model")) for body in bodies}) == 1
    return bodies


def test_chunks_have_openais_keys_and_usage_comes_last_when_asked_for() -> None:
    def choice(delta: dict[str, str], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]

    bodies = streamed(ChatCompletionBuilder(ResponseOptions("m", include_usage=True)), SAID)
    assert {body.pop("object") for body in bodies} == {"chat.completion.chunk"}
    assert bodies == [
        {"choices": choice({"role": "assistant", "content": ""}), "usage": None},
        {"choices": choice({"content": "There "}), "usage": None},
        {"choices": choice({"content": "is"}), "usage": None},
        {"choices": choice({"content": ""}, "length"), "usage": None},
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}},
    ]
    assert all("usage" not in body for body in streamed(ChatCompletionBuilder(ResponseOptions("m")), SAID))


def test_streamed_tool_calls_are_numbered() -> None:
    bodies = streamed(ChatCompletionBuilder(ResponseOptions("m")), DELTAS)
    parts = [part for body in bodies for part in body["choices"][0]["delta"].get("tool_calls", [])]
    assert [part["index"] for part in parts] == [0, 1]
    assert parts[1] == {"index": 1, "id": "c2", "type": "function", "function": DELTA_CALL}
    assert bodies[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}


DELTA_CALL = {"name": "fire", "arguments": "/tmp/1.jpg"}


def test_arguments_are_streamed_as_they_come_after_the_name() -> None:
    call = ToolCall("fire", "", "c1")
    deltas = [Delta(tool_call=call), Delta(tool_call=ToolCall("", '{"a"')), Delta(tool_call=ToolCall("", ": 1}"))]
    reply = ChatCompletionBuilder(ResponseOptions("m"))
    bodies = streamed(reply, [*deltas, Delta(finish="tool_calls")])
    parts = [part for body in bodies for part in body["choices"][0]["delta"].get("tool_calls", [])]
    assert parts == [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "fire", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ": 1}"}},
    ]
    assert written(reply.response())["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'


def test_choices_have_their_number_and_prompts_are_counted_once() -> None:
    reply = ChatCompletionBuilder(ResponseOptions("m", n=2))
    reply.add(1, Delta("b", finish="length", usage=Usage(7, 1)))
    reply.add(0, Delta("a", finish="stop", usage=Usage(7, 2)))
    body = written(reply.response())
    assert [(each["index"], each["message"]["content"], each["finish_reason"]) for each in body["choices"]] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    two = CompletionBuilder(ResponseOptions("m", n=2, prompts=2))
    for index in range(4):
        two.add(index, Delta("x", finish="stop", usage=Usage(3 if index < 2 else 5, 1)))
    assert two.usage == Usage(8, 4)


HALF = Logprob(5, "图".encode()[:2], -0.5, (Logprob(5, "图".encode()[:2], -0.5), Logprob(6, b"a", -1.5)))


def test_log_probabilities_have_openais_shapes() -> None:
    delta = Delta("a", logprobs=(Logprob(6, b"a", -0.25), HALF), finish="stop")
    reply = ChatCompletionBuilder(ResponseOptions("m", top_logprobs=2))
    events = [written(event) for event in reply.add(0, delta)]
    expected = {
        "content": [
            {"token": "a", "bytes": [97], "logprob": -0.25, "top_logprobs": []},
            {
                "token": "\ufffd",
                "bytes": [229, 155],
                "logprob": -0.5,
                "top_logprobs": [
                    {"token": "\ufffd", "bytes": [229, 155], "logprob": -0.5},
                    {"token": "a", "bytes": [97], "logprob": -1.5},
                ],
            },
        ],
        "refusal": None,
    }
    assert events[0]["choices"][0]["logprobs"] == expected
    assert events[1]["choices"][0]["logprobs"] is None
    assert written(reply.response())["choices"][0]["logprobs"] == expected
    text = CompletionBuilder(ResponseOptions("m", top_logprobs=2))
    text.add(0, delta)
    assert written(text.response())["choices"][0]["logprobs"] == {
        "tokens": ["a", "\ufffd"],
        "token_logprobs": [-0.25, -0.5],
        "top_logprobs": [{}, {"\ufffd": -0.5, "a": -1.5}],
        "text_offset": [0, 1],
    }


def test_a_text_completion_has_the_same_shape_complete_and_streamed() -> None:
    def choice(text: str, finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]

    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    bodies = streamed(CompletionBuilder(ResponseOptions("m", include_usage=True)), SAID)
    assert [(body["choices"], body["usage"]) for body in bodies] == [
        (choice("There "), None),
        (choice("is"), None),
        (choice("", "length"), None),
        ([], usage),
    ]
    reply = CompletionBuilder(ResponseOptions("m"))
    for delta in SAID:
        reply.add(0, delta)
    body = written(reply.response())
    assert (body["object"], body["choices"], body["usage"]) == ("text_completion", choice("There is", "length"), usage)


def test_an_error_has_openais_shape() -> None:
    assert json.loads(openai_error("no", 400, param="n")) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": None}
    }
    assert json.loads(openai_error("ach", 500))["error"]["type"] == "server_error"
