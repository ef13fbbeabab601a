"""OpenAI's Responses API: over HTTP with a scripted chat, and through the official client."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from pydantic import TypeAdapter
from test_server import Scripted, client, error, served

from swift.chat import Delta, Image, Logprob, Message, Tool, ToolCall, Usage, UsageDetails
from swift.commands import deploy
from swift.engine.sampling import TooLong
from swift.serve.server import create_app
from swift.serve.stored_responses import Missing, StoredResponses

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}
HI = [Delta("Hello"), Delta(" there"), Delta(finish="stop", usage=Usage(3, 2), details=UsageDetails(2, 0))]
CALLS = [
    Delta(reasoning="Which "),
    Delta(reasoning="city?"),
    Delta("\n"),
    Delta("I look."),
    Delta(tool_call=ToolCall("weather", '{"city"')),
    Delta(tool_call=ToolCall("", ': "Oslo"}')),
    Delta("\n"),
    Delta(tool_call=ToolCall("weather", '{"city": "Rom"}')),
    Delta(finish="tool_calls", usage=Usage(9, 8), details=UsageDetails(4, 5)),
]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)


def says(*deltas: Delta) -> Scripted:
    return Scripted(lambda messages: iter(deltas))


def ask(http: TestClient, given: Any = "hi", **fields: Any) -> Any:
    return http.post("/v1/responses", json={"model": "tiny", "input": given, **fields})


def whole(http: TestClient, given: Any = "hi", **fields: Any) -> dict[str, Any]:
    answered = ask(http, given, **fields)
    assert answered.status_code == 200, answered.text
    body: dict[str, Any] = answered.json()
    Response.model_validate(body)
    return body


def streamed(http: TestClient, given: Any = "hi", **fields: Any) -> list[dict[str, Any]]:
    answered = ask(http, given, stream=True, **fields)
    assert answered.headers["content-type"].startswith("text/event-stream")
    *frames, rest = answered.text.split("\n\n")
    assert rest == ""
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        EVENT.validate_python(event)
        assert name == f"event: {event['type']}"
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def seen(chat: Scripted) -> tuple[Message, ...]:
    return chat.asked[-1][0]


def without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [without_ids(each) for each in value]
    if isinstance(value, dict):
        names = {"id", "item_id", "call_id", "created_at", "completed_at"}
        return {name: without_ids(each) for name, each in value.items() if name not in names}
    return value


def test_a_text_is_answered_with_what_openai_sends() -> None:
    body = whole(client(says(*HI)), temperature=0.5, metadata={"a": "b"}, instructions="Be brief.")
    assert body["id"].startswith("resp_") and isinstance(body["created_at"], int)
    assert without_ids(body) == {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "model": "tiny",
        "output": [
            {
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "background": False,
        "max_output_tokens": None,
        "reasoning": {"effort": None, "summary": None},
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 5,
        },
    }


def test_a_stream_has_openais_events_in_their_order() -> None:
    events = streamed(client(says(*CALLS)), tools=[WEATHER])
    part = ["response.content_part.added", "response.content_part.done"]
    item = ["response.output_item.added", "response.output_item.done"]
    call = "response.function_call_arguments"
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        *(item[0], part[0], *["response.reasoning_text.delta"] * 2, "response.reasoning_text.done", part[1], item[1]),
        *(item[0], part[0], "response.output_text.delta", "response.output_text.done", part[1], item[1]),
        *(item[0], *[f"{call}.delta"] * 2, f"{call}.done", item[1]),
        *(item[0], f"{call}.delta", f"{call}.done", item[1]),
        "response.completed",
    ]
    assert events[0]["response"]["output"] == [] and events[0]["response"]["status"] == "in_progress"
    output = events[-1]["response"]["output"]
    assert [event["item"] for event in events if event["type"] == item[1]] == output
    for event in events:
        if "item_id" in event:
            assert event["item_id"] == output[event["output_index"]]["id"]
    for index, text in ((0, "Which city?"), (1, "\nI look."), (2, '{"city": "Oslo"}'), (3, '{"city": "Rom"}')):
        deltas = [event["delta"] for event in events if event.get("output_index") == index and "delta" in event]
        assert "".join(deltas) == text
    assert events[-1]["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 5}


def test_a_stream_and_a_whole_response_have_the_same_items() -> None:
    http = client(says(*CALLS))
    body = whole(http, tools=[WEATHER])
    assert without_ids(streamed(http, tools=[WEATHER])[-1]["response"]) == without_ids(body)
    assert [each["type"] for each in body["output"]] == ["reasoning", "message", "function_call", "function_call"]


def test_text_behind_a_call_is_a_message_and_white_space_around_calls_is_none() -> None:
    call = Delta(tool_call=ToolCall("weather", "{}"))
    chat = says(Delta(" "), call, Delta("\n"), Delta("Done.", finish="tool_calls", usage=Usage(1, 1)))
    output = whole(client(chat), tools=[WEATHER])["output"]
    assert [each["type"] for each in output] == ["function_call", "message"]
    assert output[1]["content"][0]["text"] == "\nDone."


def test_an_empty_reply_has_an_empty_message() -> None:
    (message,) = whole(client(says(Delta(finish="stop", usage=Usage(1, 1)))))["output"]
    assert message["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("deltas", "status"),
    [([Delta("Hel")], "message"), ([Delta(reasoning="Hm")], "reasoning"), ([CALLS[4]], "function_call")],
)
def test_a_reply_that_the_limit_cuts_is_incomplete(deltas: list[Delta], status: str) -> None:
    http = client(says(*deltas, Delta(finish="length", usage=Usage(1, 1))))
    last = streamed(http, tools=[WEATHER], max_output_tokens=1)[-1]
    assert last["type"] == "response.incomplete"
    for body in (last["response"], whole(http, tools=[WEATHER], max_output_tokens=1)):
        assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert [(each["type"], each["status"]) for each in body["output"]] == [(status, "incomplete")]


def test_a_stream_that_fails_ends_with_a_failed_response() -> None:
    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        yield Delta("Hel")
        raise RuntimeError("secret")

    http = client(Scripted(script))
    last = streamed(http)[-1]
    assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
    assert "secret" not in str(last)
    assert last["response"]["output"][0]["content"][0]["text"] == "Hel"
    assert http.get(f"/v1/responses/{last['response']['id']}").json()["status"] == "failed"


CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([user("hi")], [Message("user", "hi")]),
        (
            [user([{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}])],
            [Message("user", "a\nb")],
        ),
        (
            [
                {"role": "developer", "content": "x"},
                {"type": "message", **user("hi")},
                {"role": "system", "content": "y"},
            ],
            [Message("system", "x"), Message("user", "hi"), Message("system", "y")],
        ),
        (
            [
                user("hi"),
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [],
                    "content": [{"type": "reasoning_text", "text": "R"}],
                },
                {"role": "assistant", "content": [{"type": "output_text", "text": "A", "annotations": []}]},
                {**CALL, "call_id": "c2", "status": "completed", "id": "fc_1"},
                CALL,
                {**OUTPUT, "output": [{"type": "input_text", "text": "rain"}]},
                {**OUTPUT, "call_id": "c2"},
            ],
            [
                Message("user", "hi"),
                Message(
                    "assistant",
                    "A",
                    (ToolCall("weather", "{}", "c2"), ToolCall("weather", "{}", "c1")),
                    reasoning="R",
                ),
                Message("tool", "sunny", tool_call_id="c2"),
                Message("tool", "rain", tool_call_id="c1"),
            ],
        ),
        (
            [CALL, OUTPUT, CALL, OUTPUT, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
            [
                *[
                    Message("assistant", "", (ToolCall("weather", "{}", "c1"),)),
                    Message("tool", "sunny", tool_call_id="c1"),
                ]
                * 2,
                Message("assistant", "No."),
            ],
        ),
        (
            [{"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "S"}]}, user("hi")],
            [Message("assistant", "", reasoning="S"), Message("user", "hi")],
        ),
    ],
)
def test_items_become_messages(items: list[Any], messages: list[Message]) -> None:
    chat = Scripted()
    http = client(chat)
    first = whole(http, items)
    assert seen(chat) == tuple(messages)
    whole(http, "and?", previous_response_id=first["id"])  # what was stored reads like what was sent
    assert seen(chat)[: len(messages)] == tuple(messages)


def test_instructions_come_first_and_are_not_carried_over() -> None:
    chat = Scripted()
    http = client(chat)
    first = whole(http, [{"role": "system", "content": "b"}, user("hi")], instructions="a")
    assert seen(chat) == (Message("system", "a\n\nb"), Message("user", "hi"))
    whole(http, "and?", previous_response_id=first["id"])
    assert seen(chat) == (
        Message("system", "b"),
        Message("user", "hi"),
        Message("assistant", "Hello there"),
        Message("user", "and?"),
    )


def test_images_reach_the_model_in_their_places() -> None:
    chat = Scripted()
    http = client(chat, load_images=lambda messages: messages)
    parts = [{"type": "input_image", "image_url": "data:x"}, {"type": "input_text", "text": "What is it?"}]
    first = whole(http, [user(parts)])
    assert seen(chat)[0].parts == (Image("data:x"), "What is it?")
    whole(http, "Sure?", previous_response_id=first["id"])
    assert seen(chat)[0].parts == (Image("data:x"), "What is it?")
    told = error(ask(client(), [user(parts)]), 400)
    assert (told["param"], told["message"]) == ("input", "input: this model does not accept images")
    call = {"type": "function_call", "call_id": "c1", "name": "camera", "arguments": "{}"}
    whole(http, [user("look"), call, {"type": "function_call_output", "call_id": "c1", "output": parts[::-1]}])
    assert seen(chat)[-1] == Message("tool", "What is it?\ufffc", tool_call_id="c1", images=(Image("data:x"),))


def test_the_tokens_of_a_prompt_are_counted_with_those_of_the_dialogue_that_it_continues() -> None:
    http = client(Scripted(), count_tokens=lambda messages, tools, variables: 10 * len(messages) + len(tools))
    first = whole(http, "hi", instructions="a")
    given = {"input": "and?", "previous_response_id": first["id"], "tools": [WEATHER]}
    counted = http.post("/v1/responses/input_tokens", json={"model": "tiny", **given})
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": 31}
    refused = client().post("/v1/responses/input_tokens", json={"model": "tiny", "input": "hi"})
    assert "cannot count" in error(refused, 404)["message"]


def test_tools_and_sampling_reach_the_model_as_in_chat_completions() -> None:
    chat = Scripted()
    http = client(chat)
    fields = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["END"], "top_k": 4}
    whole(http, tools=[{**WEATHER, "description": "It"}], max_output_tokens=9, reasoning={"effort": "low"}, **fields)
    _, tools, params = chat.asked[-1]
    function = {"name": "weather", "parameters": WEATHER["parameters"], "description": "It"}
    assert tools == (Tool({"type": "function", "function": function}),)
    assert (params.temperature, params.top_p, params.seed, params.stop, params.top_k) == (0.5, 0.9, 7, ("END",), 4)
    assert (params.max_tokens, params.clip, chat.template_kwargs) == (9, False, {"reasoning_effort": "low"})
    whole(http, tools=[WEATHER], tool_choice="none", reasoning={"effort": "none"})
    assert chat.asked[-1][1] == () and chat.template_kwargs == {"enable_thinking": False}


def test_log_probabilities_belong_to_their_text() -> None:
    half = Logprob(1, b"Hel", -0.5, (Logprob(1, b"Hel", -0.5), Logprob(2, b"Hal", -0.75)))
    reasoning = Delta(reasoning="hm", logprobs=(Logprob(9, b"hm", -9.0),))
    chat = says(
        reasoning,
        Delta("", logprobs=(half,)),
        Delta("Hello", logprobs=(Logprob(3, b"lo", -0.25),)),
        Delta(finish="stop", usage=Usage(1, 2)),
    )
    http = client(chat)
    asked: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    (_, message) = whole(http, **asked)["output"]
    told = message["content"][0]["logprobs"]
    assert [(each["token"], each["logprob"]) for each in told] == [("Hel", -0.5), ("lo", -0.25)]
    assert [each["token"] for each in told[0]["top_logprobs"]] == ["Hel", "Hal"]
    assert chat.params.logprobs and chat.params.top_logprobs == 2
    (delta,) = (event for event in streamed(http, **asked) if event["type"] == "response.output_text.delta")
    assert delta["logprobs"] == told
    assert whole(http)["output"][1]["content"][0]["logprobs"] == []


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"input": []}, "input", "at least 1 item"),
        ({"input": 7}, "input", "valid array"),
        ({"input": [{"type": "computer_call"}]}, "input[0]", "must be an item of type message, function_call"),
        ({"input": [{"role": "bard", "content": ""}]}, "input[0].role", "'user'"),
        ({"input": [user([{"type": "input_file"}])]}, "input[0].content", "only parts of type input_text"),
        ({"input": [user([{"type": "input_image", "file_id": "f"}])]}, "input[0].content", "image_url"),
        ({"input": [user([{"type": "output_text", "text": ""}])]}, "input[0]", "only assistant messages can have"),
        ({"input": [{**OUTPUT}]}, "input", "No tool call found for function call output with call_id c1"),
        ({"input": [CALL, user("hi")]}, "input", "No tool output found for function call c1"),
        ({"input": [CALL]}, "input", "No tool output found for function call c1"),
        ({"input": [CALL, CALL, OUTPUT]}, "input", "two calls have the call_id 'c1'"),
        ({"input": [CALL, {**CALL, "call_id": "c2"}, OUTPUT, OUTPUT]}, "input", "the call 'c1' has two outputs"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments", "valid string"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "tools of type web_search are not offered"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type", "tools of type mcp are not offered"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "Field required"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "two tools are named 'weather'"),
        ({"tools": [{**WEATHER, "parameters": {"type": 7}}]}, "tools[0].parameters", "not a JSON schema"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "must be none, auto, required"),
        ({"tool_choice": {"type": "function", "name": "clock"}}, "tool_choice", "'clock' is not one of the tools"),
        ({"tool_choice": "required"}, "tool_choice", "the request has no tools"),
        ({"text": {"format": {"type": "xml"}}}, "text.format", 'must be {"type": "text"}'),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "Field required"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": 7}}}},
            "text.format.schema",
            "not a JSON schema",
        ),
        ({"background": True}, "background", "only false is supported"),
        ({"truncation": "auto"}, "truncation", 'only "disabled" is supported'),
        ({"conversation": "conv_1"}, "conversation", "only null is supported"),
        ({"top_logprobs": 2}, "top_logprobs", "requires include"),
        ({"include": ["everything"]}, "include[0]", "message.output_text.logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"metadata": {"a": "b" * 513}}, "metadata.a", "at most 512"),
        ({"reasoning": {"effort": "hard"}}, "reasoning.effort", "'none'"),
        ({"reasoning": {"effort": "none"}, "enable_thinking": True}, "enable_thinking", "two values"),
        ({"stream_options": {}}, "stream_options", "requires stream"),
        ({"previous_response_id": "resp_0"}, "previous_response_id", "'resp_0' not found"),
    ],
)
def test_what_is_wrong_or_not_offered_is_refused_by_name(fields: dict[str, Any], param: str, message: str) -> None:
    told = error(ask(client(), **{"given": fields.pop("input", "hi"), **fields}), 400)
    assert (told["param"], message in told["message"]) == (param, True), told


def test_unknown_fields_are_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    reasoning = {"effort": "low", "summary": "auto"}
    whole(client(), max_tokens=3, text={"verbosity": "low"}, reasoning=reasoning, user="me", service_tier="auto")
    assert sorted(caplog.messages) == [
        "a request holds the unknown field max_tokens, which is ignored; did you mean max_output_tokens?",
        "a request holds the unknown field reasoning.summary, which is ignored",
        "a request holds the unknown field text.verbosity, which is ignored",
    ]


def test_errors_of_keys_models_and_long_prompts_are_openais() -> None:
    def too_long(texts: Sequence[str]) -> None:
        if len(texts) > 2:
            raise TooLong("too long")

    http = client(api_keys=["k"], check_length=too_long)
    for method, path in (
        ("POST", ""),
        ("GET", "/resp_1"),
        ("DELETE", "/resp_1"),
        ("POST", "/resp_1/cancel"),
        ("GET", "/resp_1/input_items"),
    ):
        assert error(http.request(method, f"/v1/responses{path}"), 401)["code"] == "invalid_api_key"
    http.headers["Authorization"] = "Bearer k"
    assert error(ask(http, model="big"), 404)["code"] == "model_not_found"
    told = error(ask(http, [user("hi")] * 3), 400)
    assert (told["param"], told["code"]) == ("input", "context_length_exceeded")
    first = whole(http, [user("hi")] * 2)
    assert error(ask(http, previous_response_id=first["id"]), 400)["code"] == "context_length_exceeded"


def test_a_response_is_stored_until_it_is_deleted() -> None:
    http = client(says(*HI))
    body = whole(http)
    path = f"/v1/responses/{body['id']}"
    assert http.get(path).json() == body
    assert error(http.get(f"{path}?stream=true"), 400)["param"] == "stream"
    assert "only background responses" in error(http.post(f"{path}/cancel"), 400)["message"]
    assert http.delete(path).json() == {"id": body["id"], "object": "response", "deleted": True}
    for gone in (http.get(path), http.delete(path), http.post(f"{path}/cancel"), http.get(f"{path}/input_items")):
        assert f"'{body['id']}' not found" in error(gone, 404)["message"]
    assert error(ask(http, previous_response_id=body["id"]), 400)["code"] == "previous_response_not_found"


def test_a_response_with_store_false_is_not_stored() -> None:
    http = client()
    for body in (whole(http, store=False), streamed(http, store=False)[-1]["response"]):
        error(http.get(f"/v1/responses/{body['id']}"), 404)


def test_input_items_are_all_that_a_response_answered_page_by_page() -> None:
    http = client(says(*HI))
    first = whole(http, [user("one"), {"role": "assistant", "content": "1"}, {**user("two"), "id": "msg_two"}])
    second = whole(http, "three", previous_response_id=first["id"])
    path = f"/v1/responses/{second['id']}/input_items"

    def texts(page: Any) -> list[str]:
        assert [each["id"] for each in page["data"]][:: max(len(page["data"]) - 1, 1)] == [
            page["first_id"],
            page["last_id"],
        ]
        for each in page["data"]:
            ITEM.validate_python(each)
        return [each["content"][0]["text"] for each in page["data"]]

    everything = http.get(path, params={"order": "asc"}).json()
    assert texts(everything) == ["one", "1", "two", "Hello there", "three"] and not everything["has_more"]
    page = http.get(path, params={"limit": 2}).json()
    assert texts(page) == ["three", "Hello there"] and page["has_more"]
    page = http.get(path, params={"limit": 2, "after": page["last_id"]}).json()
    assert texts(page) == ["two", "1"] and page["first_id"] == "msg_two"
    for wrong in ({"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"order": "up"}, {"after": "msg_0"}):
        assert error(http.get(path, params=wrong), 400)["param"] == next(iter(wrong))


def test_a_reference_is_the_item_that_was_stored() -> None:
    chat = says(*CALLS)
    http = client(chat)
    output = whole(http, tools=[WEATHER])["output"]
    results = [{**OUTPUT, "call_id": each["call_id"]} for each in output[2:]]
    whole(http, [*({"type": "item_reference", "id": each["id"]} for each in output), *results])
    told = seen(chat)[0]
    assert (told.reasoning, [call.arguments for call in told.tool_calls]) == (
        "Which city?",
        ['{"city": "Oslo"}', '{"city": "Rom"}'],
    )
    assert error(ask(http, [{"id": "msg_0"}]), 404)["param"] == "input[0].id"


def test_a_dialogue_whose_beginning_was_deleted_cannot_go_on() -> None:
    http = client()
    first = whole(http)
    second = whole(http, "and?", previous_response_id=first["id"])
    http.delete(f"/v1/responses/{first['id']}")
    told = error(ask(http, "then?", previous_response_id=second["id"]), 400)
    assert told["message"] == (
        f"Previous response with id '{second['id']}' continues '{first['id']}', which is no longer stored"
    )


def stored(number: int, previous: int | None = None, text: str = "") -> dict[str, Any]:
    message = {"id": f"msg_{number}", "content": text}
    before = None if previous is None else f"resp_{previous}"
    return {"id": f"resp_{number}", "previous_response_id": before, "output": [message]}


def test_the_store_drops_what_was_not_used_for_longest() -> None:
    with closing(StoredResponses(max_responses=3)) as store:
        for number in range(3):
            store.put(stored(number), [])
        store.put(stored(3, previous=0), [])  # drops 0
        store.get("resp_1")
        store.put(stored(4, previous=1), [])  # drops 2
        assert [each.id for each in store.conversation("resp_4")] == ["resp_1", "resp_4"]
        for gone in ("resp_0", "resp_2", "resp_3"):
            if gone == "resp_3":
                with pytest.raises(Missing, match="resp_0"):
                    store.conversation(gone)
            else:
                with pytest.raises(Missing, match=gone):
                    store.get(gone)
        assert store.item("msg_0") is None and store.item("msg_1")


def test_the_store_is_bounded_in_bytes() -> None:
    with closing(StoredResponses(max_bytes=5000)) as store:
        for number in range(4):
            store.put(stored(number, text="x" * 1000), [{"id": f"in_{number}", "text": "y" * 1000}])
        assert [store.item(f"in_{number}") is not None for number in range(4)] == [False, False, True, True]


def test_a_store_in_a_file_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "responses.db"
    chat = says(*HI)
    with closing(StoredResponses(str(path))) as store:
        first = whole(client(chat, store=store), "Grüße, 北京")
    assert path.stat().st_mode & 0o077 == 0
    with closing(StoredResponses(str(path))) as store:
        http = client(chat, store=store)
        assert http.get(f"/v1/responses/{first['id']}").json() == first
        whole(http, "and?", previous_response_id=first["id"])
    assert seen(chat) == (Message("user", "Grüße, 北京"), Message("assistant", "Hello there"), Message("user", "and?"))


def test_a_response_that_cannot_be_stored_is_sent_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    store = StoredResponses()
    http = client(says(*HI), store=store)
    store.close()
    body = whole(http)
    assert body["status"] == "completed"
    assert f"response {body['id']} is not stored" in caplog.text


def test_a_file_that_is_no_store_is_refused_before_a_model_loads(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other.db"
    text.write_text("This is a text, not a database." * 40, encoding="utf-8")
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE mine(a)")
    for path, what in (
        (text, "file is not a database"),
        (other, "another program"),
        (tmp_path, "Is a directory"),
        (tmp_path / "no" / "x", "No such file"),
    ):
        with pytest.raises((ValueError, OSError), match=rf"^--store {path}: .*{what}"):
            deploy.run(["--model_type", "smollm2-135m-instruct", "--port", "0", "--store", str(path)])


def weather_chat() -> Scripted:
    """It calls `weather` until it has seen two results."""

    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        results = [message.content for message in messages if message.role == "tool"]
        if len(results) < 2:
            city = ("Oslo", "Rom")[len(results)]
            yield Delta(reasoning=f"{city} next")
            yield Delta(tool_call=ToolCall("weather", json.dumps({"city": city})))
            yield Delta(finish="tool_calls", usage=Usage(5, 4))
        else:
            yield Delta(" and ".join(results), finish="stop", usage=Usage(5, 4))

    return Scripted(script)


def weather(arguments: str) -> str:
    return f"sun in {json.loads(arguments)['city']}"


@pytest.mark.parametrize("remembers", [True, False])
def test_the_client_runs_a_loop_of_calls(remembers: bool) -> None:
    tools: Any = [WEATHER]
    with (
        served(create_app(weather_chat(), "tiny")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as api,
    ):
        items: list[Any] = [{"role": "user", "content": "Weather?"}]
        previous: Any = openai.omit
        for _ in range(3):
            reply = api.responses.create(
                model="tiny", input=items, tools=tools, previous_response_id=previous, store=remembers
            )
            calls = [item for item in reply.output if item.type == "function_call"]
            results: list[Any] = [
                {"type": "function_call_output", "call_id": call.call_id, "output": weather(call.arguments)}
                for call in calls
            ]
            if remembers:
                items, previous = results, reply.id
            else:
                items += [*reply.output, *results]
        assert not calls and reply.output_text == "sun in Oslo and sun in Rom"


def test_the_clients_other_methods_work() -> None:
    with (
        served(create_app(weather_chat(), "tiny")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as api,
    ):
        tools: Any = [WEATHER]
        with api.responses.stream(model="tiny", input="Weather?", tools=tools) as stream:
            kinds = [event.type for event in stream]
            reply = stream.get_final_response()
        assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
        (call,) = (item for item in reply.output if item.type == "function_call")
        assert json.loads(call.arguments) == {"city": "Oslo"}
        assert api.responses.retrieve(reply.id).output[1].type == "function_call"
        (item,) = api.responses.input_items.list(reply.id)
        assert item.type == "message" and item.role == "user"
        with pytest.raises(openai.BadRequestError, match="synchronous"):
            api.responses.cancel(reply.id)
        api.responses.delete(reply.id)
        with pytest.raises(openai.NotFoundError, match=reply.id):
            api.responses.retrieve(reply.id)


def test_the_asynchronous_client_streams_many_responses_at_once() -> None:
    async def text(api: openai.AsyncOpenAI, number: int) -> str:
        said = ""
        async for event in await api.responses.create(model="tiny", input=str(number), stream=True):
            said += event.delta if event.type == "response.output_text.delta" else ""
        return said

    async def texts(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as api:
            return await asyncio.gather(*(text(api, number) for number in range(20)))

    def echo(messages: Sequence[Message]) -> Iterator[Delta]:
        yield Delta(messages[-1].content)
        yield Delta("!", finish="stop", usage=Usage(1, 2))

    with served(create_app(Scripted(echo), "tiny")) as url:
        assert asyncio.run(texts(url)) == [f"{number}!" for number in range(20)]
