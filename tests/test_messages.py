"""POST /v1/messages answers like Anthropic's: with scripted chats over HTTP, and to Anthropic's own client."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from pydantic import BaseModel
from test_server import Scripted, thinking_chat
from test_server import events as chat_chunks
from test_server_load import running
from tiny import tiny_model_folder, tiny_tokenizer
from transformers import LlamaForCausalLM

from swift.chat import Delta, Image, Message, Tool, ToolCall, Usage
from swift.engine.interface import Busy, TokenOutput
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.infer.local_chat import LocalChat
from swift.serve.body_reader import Limits
from swift.serve.server import create_app
from swift.template import Renderer, template

USER = {"role": "user", "content": "hi"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "北京"]}, "days": {"type": "integer", "maximum": 7}},
    "required": ["city", "days"],
}
WEATHER: dict[str, Any] = {"name": "weather", "description": "The weather of a city", "input_schema": SCHEMA}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo", "days": 2}}
CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'
CALLED = {"role": "assistant", "content": [CALL]}


def result(content: Any = "dry", id: str = "toolu_1", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **fields}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **fields}


def client(chat: Any = None, **options: Any) -> TestClient:
    return TestClient(create_app(chat or Scripted(), "tiny", **options), raise_server_exceptions=False)


def ask(http: TestClient, path: str = "/v1/messages", **fields: Any) -> Any:
    body = {"model": "tiny", "messages": [USER], **({} if "count" in path else {"max_tokens": 9}), **fields}
    return http.post(path, json=body)


def message(http: TestClient, **fields: Any) -> dict[str, Any]:
    response = ask(http, **fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def error(response: Any, status: int, kind: str = "invalid_request_error") -> str:
    """The message of an error in Anthropic's shape."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"type", "error", "request_id"} and body["type"] == "error"
    assert body["error"].keys() == {"type", "message"} and body["error"]["type"] == kind
    assert body["request_id"] == response.headers["request-id"]
    told: str = body["error"]["message"]
    return told


def stream(http: TestClient, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream; their names are their types."""
    response = ask(http, stream=True, **fields)
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    found: list[dict[str, Any]] = []
    for part in parts:
        name, data = part.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def usage(prompt: int, completion: int, cached: int | None = None, reasoning: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": prompt - (cached or 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": completion,
        "output_tokens_details": {"thinking_tokens": reasoning},
    }


def says(*deltas: Delta) -> Scripted:
    return Scripted(lambda _: iter(deltas))


def asked(**fields: Any) -> tuple[tuple[Message, ...], tuple[Tool, ...], SamplingParams]:
    """What a request asks of the chat."""
    chat = Scripted()
    message(client(chat), **fields)
    return chat.asked[0]


class Spoken:
    """An engine that says a text, a token a byte, up to `max_tokens`."""

    context = 1000

    def __init__(self, said: str) -> None:
        self._tokens = [*tiny_tokenizer().encode(said, add_special_tokens=False), 2]

    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> Any:
        limit = min(params.max_tokens or 1000, self.context - len(tokens))
        for number, token in enumerate(self._tokens, 1):
            yield TokenOutput(token, 0.0, "stop" if token == 2 else "length" if number == limit else None)
            if number == limit:
                return

    def close(self) -> None: ...


def spoken(said: str, call_format: str = "hermes") -> LocalChat:
    return LocalChat(Spoken(said), Renderer(tiny_tokenizer(), template("chatml"), call_format))


def test_a_reply_has_a_block_of_each_kind_in_order() -> None:
    chat = says(
        Delta(reasoning="Hm"),
        Delta(reasoning="m."),
        Delta("\n"),
        Delta("I "),
        Delta("look."),
        Delta(tool_call=ToolCall("weather", "", "call_1")),
        Delta(tool_call=ToolCall("", '{"city": "Oslo"')),
        Delta(tool_call=ToolCall("", ', "days": 2}')),
        Delta(tool_call=ToolCall("clock", "", "call_2")),
        Delta(finish="tool_calls", usage=Usage(3, 8)),
    )
    body = message(client(chat), tools=[WEATHER, {"name": "clock", "input_schema": {"type": "object"}}])
    thought, said, first, second = body.pop("content")
    assert thought == {"type": "thinking", "thinking": "Hmm.", "signature": ""}
    assert said == text("\nI look.")
    assert first == {**CALL, "id": first["id"]} and second["input"] == {}
    assert first["id"].startswith("toolu_") and first["id"] != second["id"]
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": usage(3, 8),
    }


def test_a_stream_has_the_same_blocks_as_events() -> None:
    chat = says(
        Delta(reasoning="Hm."),
        Delta("I "),
        Delta("look."),
        Delta(tool_call=ToolCall("weather", "", "call_1")),
        Delta(tool_call=ToolCall("", '{"city": "Oslo"')),
        Delta(tool_call=ToolCall("", ', "days": 2}')),
        Delta(finish="tool_calls", usage=Usage(3, 8)),
    )
    begin, ping, *blocks, end, stop = stream(client(chat), tools=[WEATHER])
    assert begin["type"] == "message_start" and begin["message"]["content"] == [] and ping == {"type": "ping"}
    assert [(each["type"].removeprefix("content_block_"), each["index"]) for each in blocks] == [
        ("start", 0), ("delta", 0), ("stop", 0),
        ("start", 1), ("delta", 1), ("delta", 1), ("stop", 1),
        ("start", 2), ("delta", 2), ("stop", 2),
    ]  # fmt: skip
    assert [each["delta"] for each in blocks if "delta" in each] == [
        {"type": "thinking_delta", "thinking": "Hm."},
        {"type": "text_delta", "text": "I "},
        {"type": "text_delta", "text": "look."},
        {"type": "input_json_delta", "partial_json": '{"city": "Oslo", "days": 2}'},
    ]
    called = blocks[-3]["content_block"]
    assert called == {"type": "tool_use", "id": called["id"], "name": "weather", "input": {}}
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert end["usage"] == usage(3, 8) and stop == {"type": "message_stop"}


def test_input_is_streamed_as_it_is_generated_where_the_tool_asks_for_it() -> None:
    parts = ['{"city": ', '"Oslo"', "}"]
    chat = says(
        Delta(tool_call=ToolCall("weather", "", "call_1")),
        *(Delta(tool_call=ToolCall("", part)) for part in parts),
        Delta(finish="tool_calls"),
    )
    found = stream(client(chat), tools=[{**WEATHER, "eager_input_streaming": True}])
    assert [each["delta"]["partial_json"] for each in found if each["type"] == "content_block_delta"] == parts


def test_a_stream_whose_call_takes_long_sends_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift.serve.formats.messages_response.PING_SECONDS", 0.0)
    chat = says(Delta(tool_call=ToolCall("weather", "")), Delta(tool_call=ToolCall("", "{}")), Delta(finish="stop"))
    assert [each["type"] for each in stream(client(chat), tools=[WEATHER])].count("ping") == 3


@pytest.mark.parametrize(
    ("written", "given"),
    [("{'city': 'Oslo'}", {"city": "Oslo"}), ("", {}), ('{"city": Oslo}', {"INVALID_JSON": '{"city": Oslo}'})],
)
def test_the_input_of_a_call_is_an_object_whatever_the_model_wrote(written: str, given: dict[str, str]) -> None:
    http = client(says(Delta(tool_call=ToolCall("weather", written)), Delta(finish="tool_calls")))
    (block,) = message(http, tools=[WEATHER])["content"]
    assert block["input"] == given
    (sent,) = (each["delta"] for each in stream(http, tools=[WEATHER]) if each["type"] == "content_block_delta")
    assert json.loads(sent["partial_json"]) == given
    messages, _, _ = asked(
        tools=[WEATHER], messages=[USER, {"role": "assistant", "content": [block]}, user(result(id=block["id"]))]
    )
    assert messages[1].tool_calls[0].arguments == (written if "INVALID_JSON" in given else json.dumps(given))


def test_a_call_that_max_tokens_cuts_has_the_input_so_far() -> None:
    http = client(says(Delta(tool_call=ToolCall("weather", '{"city": "Os')), Delta(finish="length", usage=Usage(3, 9))))
    body = message(http, tools=[WEATHER])
    assert body["content"][0]["input"] == {"city": "Os"} and body["stop_reason"] == "max_tokens"
    (sent,) = (each["delta"] for each in stream(http, tools=[WEATHER]) if each["type"] == "content_block_delta")
    assert sent["partial_json"] == '{"city": "Os'


def test_white_space_alone_is_no_block_of_text() -> None:
    assert message(client(says(Delta(" \n", finish="stop"))))["content"] == []
    called = says(Delta("\n\n"), Delta(tool_call=ToolCall("weather", "{}")), Delta(finish="tool_calls"))
    assert [block["type"] for block in message(client(called), tools=[WEATHER])["content"]] == ["tool_use"]


@pytest.mark.parametrize(
    ("said", "fields", "reason", "sequence", "content"),
    [
        ("Yes.", {}, "end_turn", None, "Yes."),
        ("Yes, of course.", {"max_tokens": 4}, "max_tokens", None, "Yes,"),
        ("Yes. END no", {"stop_sequences": ["STOP", "END"]}, "stop_sequence", "END", "Yes. "),
        ("Yes\nObservation: no", {"stop_sequences": ["Observation"]}, "stop_sequence", "Observation", "Yes\n"),
        ("y" * 999, {"max_tokens": 5000}, "model_context_window_exceeded", None, None),
        (CALL_TEXT, {"tools": [WEATHER]}, "tool_use", None, None),
    ],
)  # fmt: skip
def test_the_reason_why_a_reply_ended(
    said: str, fields: dict[str, Any], reason: str, sequence: str | None, content: str | None
) -> None:
    http = client(spoken(said))
    body = message(http, **{"max_tokens": 900, **fields})
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, sequence)
    if content is not None:
        assert body["content"] == [text(content)]
    *_, end, _ = stream(http, **{"max_tokens": 900, **fields})
    assert end["delta"] == {"stop_reason": reason, "stop_sequence": sequence} and end["usage"] == body["usage"]


def test_a_stop_string_of_the_server_is_not_reported_as_the_requests() -> None:
    http = client(spoken("Yes. END no"), defaults=SamplingParams(stop=("END",)))
    body = message(http, max_tokens=99)
    assert (body["stop_reason"], body["stop_sequence"], body["content"]) == ("end_turn", None, [text("Yes. ")])


def test_the_prompt_is_that_of_the_same_chat_completion() -> None:
    chat = Scripted()
    http = client(chat)
    function = {"name": "weather", "description": "The weather of a city", "parameters": SCHEMA}
    call = {
        "id": "toolu_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": 2}'},
    }
    other = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "dry"},
        {"role": "user", "content": "And now?"},
    ]
    body = {"model": "tiny", "messages": other, "tools": [{"type": "function", "function": function}]}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    said = [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, text("I look."), CALL]
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": said},
        user(result(), text("And now?")),
    ]
    message(http, system="Be brief.", tools=[WEATHER], messages=messages)
    (chat_messages, chat_tools, _), (messages, tools, _) = chat.asked
    assert messages == chat_messages and tools == chat_tools


def test_systems_are_joined_and_messages_of_one_role_are_merged() -> None:
    messages = [
        {"role": "system", "content": "C"},
        user(text("1"), text("2")),
        USER,
        {"role": "assistant", "content": [text("It "), text("is")]},
        {"role": "assistant", "content": " so"},
    ]
    found, _, _ = asked(system=[text("A", cache_control={"type": "ephemeral"}), text("B")], messages=messages)
    assert found == (Message("system", "A\nB\n\nC"), Message("user", "1\n2\nhi"), Message("assistant", "It is so"))
    (first, later), _, _ = asked(messages=[USER, {"role": "system", "content": "Now in French."}])
    assert (first.role, later.role) == ("user", "system")


def test_results_come_in_the_order_of_the_calls_and_errors_say_so() -> None:
    calls = [{**CALL, "id": id} for id in "abc"]
    results = [result([text("x"), text("y")], "c"), result("no such city", "a", is_error=True)]
    messages = [
        USER,
        {"role": "assistant", "content": calls},
        user(*results),
        user({**result(id="b"), "content": None}),
    ]
    found, _, _ = asked(messages=messages)
    assert [(each.tool_call_id, each.content) for each in found[2:]] == [
        ("a", "Error: no such city"),
        ("b", ""),
        ("c", "x\ny"),
    ]
    for given, told in (("Error: gone", "Error: gone"), (None, "Error")):
        (*_, last), _, _ = asked(messages=[USER, CALLED, user(result(given, is_error=True))])
        assert last.content == told


def test_a_stream_begins_with_the_tokens_of_the_prompt_and_ends_with_those_of_the_reply() -> None:
    class Cached(Spoken):
        def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> Any:
            for output in super().submit(tokens, params):
                yield output._replace(cached=5)

    chat = LocalChat(Cached("<think>\nHm.\n</think>\n\nYes."), Renderer(tiny_tokenizer(), template("chatml"), "hermes"))
    prompt = chat.count_tokens([Message("user", "hi")])
    for fields in ({}, {"tools": [WEATHER]}):
        prompt = chat.count_tokens([Message("user", "hi")], asked(**fields)[1])
        begin, *_, end, _ = stream(client(chat), **{**fields, "max_tokens": 99})
        assert begin["message"]["usage"] == usage(prompt, 0, cached=5)
        found = end["usage"]
        assert found == usage(prompt, found["output_tokens"], 5, found["output_tokens_details"]["thinking_tokens"])
        assert 0 < found["output_tokens_details"]["thinking_tokens"] < found["output_tokens"]


def test_redacted_reasoning_is_accepted_and_not_shown_to_the_model() -> None:
    blocks = [{"type": "redacted_thinking", "data": "x"}, {"type": "thinking", "thinking": "Hm.", "signature": ""}]
    found, _, _ = asked(messages=[USER, {"role": "assistant", "content": [*blocks, text("So.")]}, USER])
    assert found[1] == Message("assistant", "So.", reasoning="Hm.")


def test_sampling_fields_reach_the_chat() -> None:
    fields: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "stop_sequences": ["a", "b"]}
    _, _, params = asked(**fields, metadata={"user_id": "u"}, service_tier="auto")
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (9, 0.5, 0.9, 7)
    assert (params.stop, params.include_stop, params.clip) == (("a", "b"), False, True)
    _, _, params = asked(top_p=0)
    assert params.temperature == 0


@pytest.mark.parametrize(
    ("choice", "rules"),
    [
        ({"type": "auto"}, None),
        ({"type": "auto", "disable_parallel_tool_use": True}, (["weather", "clock"], False, False)),
        ({"type": "any"}, (["weather", "clock"], True, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, (["weather", "clock"], True, False)),
        ({"type": "tool", "name": "clock"}, (["clock"], True, False)),
        ({"type": "none"}, None),
    ],
)
def test_the_choice_of_tools_becomes_rules(choice: dict[str, Any], rules: Any) -> None:
    seen: list[Any] = []

    def guide(given: Any) -> Any:
        seen.append(([tool.name for tool in given.tools], given.required, given.parallel))
        raise ValueError("seen")

    chat = Scripted()
    tools = [WEATHER, {"name": "clock", "input_schema": {"type": "object"}, "type": "custom"}]
    response = ask(client(chat, guide=guide), tools=tools, tool_choice=choice)
    assert seen == ([] if rules is None else [rules])
    assert response.status_code == (200 if rules is None else 400)
    if rules is None:
        assert [tool.name for tool in chat.asked[0][1]] == ([] if choice["type"] == "none" else ["weather", "clock"])


def test_reasoning_is_switched_streamed_and_sent_back() -> None:
    chat, prompts = thinking_chat(
        "Hm.\n</think>\n\nYes.", "Hm.\n</think>\n\nYes.", "Yes.", "Well.", "Hm.\n</think>\n\nYes."
    )
    http = client(chat)
    on, off = {"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}
    content = message(http, thinking=on)["content"]
    assert content == [{"type": "thinking", "thinking": "Hm.", "signature": ""}, text("Yes.")]
    sent = [each["delta"] for each in stream(http) if each["type"] == "content_block_delta"]
    assert "".join(each.get("thinking", "") for each in sent) == "Hm."
    assert "".join(each.get("text", "") for each in sent) == "Yes."
    assert message(http, thinking=off)["content"] == [text("Yes.")]
    message(http, messages=[USER, {"role": "assistant", "content": [content[0], text("It")]}], thinking=on)
    assert prompts[3].endswith("<think>\nHm.\n</think>\n\nIt")
    hidden = message(http, thinking={"type": "adaptive", "display": "omitted"})["content"]
    assert hidden == [{"type": "thinking", "thinking": "", "signature": ""}, text("Yes.")]
    ends = [prompt.rpartition("assistant\n")[2] for prompt in prompts]
    assert ends[:3] == ["<think>\n", "<think>\n", "<think>\n\n</think>\n\n"] and ends[4] == "<think>\n"


def test_a_trailing_assistant_message_is_continued() -> None:
    http = client(spoken(" upon a time"), count_tokens=spoken("").count_tokens)
    renderer = Renderer(tiny_tokenizer(), template("chatml"), "hermes")
    messages = [USER, {"role": "assistant", "content": "Once"}]
    body = message(http, messages=messages, max_tokens=99)
    assert body["content"] == [text(" upon a time")]
    prompt = renderer.prompt_tokens([Message("user", "hi"), Message("assistant", "Once")])
    assert renderer.decode(prompt).endswith("assistant\nOnce")
    assert body["usage"]["input_tokens"] == len(prompt)
    assert ask(http, "/v1/messages/count_tokens", messages=messages).json() == {"input_tokens": len(prompt)}


def test_images_reach_a_model_that_sees_and_are_refused_by_others() -> None:
    data = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    url = {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}
    chat = Scripted()
    message(client(chat, load_images=lambda messages: messages), messages=[user(text("a"), data, url, text("b"))])
    images = (Image("data:image/png;base64,AAAA"), Image("https://a.example/b.png"))
    assert chat.asked[0][0] == (Message("user", "a\ufffc\ufffcb", images=images),)
    assert "does not accept images" in error(ask(client(), messages=[user(data)]), 400)
    results = [USER, CALLED, user(result([text("seen:"), data], is_error=True))]
    message(client(chat, load_images=lambda messages: messages), messages=results)
    assert chat.asked[1][0][-1] == Message("tool", "Error: seen:\ufffc", tool_call_id="toolu_1", images=images[:1])
    assert "does not accept images" in error(ask(client(), messages=results), 400)
    marked = [user(text("\ufffc"), data)]
    assert "U+FFFC" in error(ask(client(load_images=lambda messages: messages), messages=marked), 400)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"temperature": 1.5}, "temperature"),
    ({"messages": []}, "messages"),
    ({"messages": [user()]}, "messages[0].content: is empty"),
    ({"messages": [{"role": "user", "content": 3}]}, "a string or a list of blocks"),
    ({"messages": [user({"type": "document"})]}, "messages[0].content[0]: Input tag 'document'"),
    ({"messages": [user(CALL)]}, "messages[0].content[0]: user messages cannot have tool_use blocks"),
    ({"messages": [USER, {"role": "assistant", "content": [result()]}]}, "assistant messages cannot have tool_result"),
    ({"messages": [USER, CALLED]}, "messages[1]: tool_use blocks need tool_result blocks"),
    ({"messages": [USER, CALLED, USER]}, "without one: toolu_1"),
    ({"messages": [USER, CALLED, user(text("a"), result())]}, "content[1]: tool_result blocks must precede"),
    ({"messages": [USER, CALLED, user(result(), result())]}, "has two results"),
    ({"messages": [USER, CALLED, user(result(id="x"))]}, "content[0].tool_use_id: the preceding reply has no"),
    ({"messages": [USER, {"role": "assistant", "content": [CALL, CALL]}]}, "two tool_use blocks have the id"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools of type web_search_20250305"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
    ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
    ({"tools": [WEATHER, WEATHER]}, "two tools are named 'weather'"),
    ({"tools": [{**WEATHER, "input_schema": {"type": 3}}]}, "tools[0].input_schema: not a JSON schema"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "'x' is not one of the tools (weather)"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "any"}}, "the request has no tools"),
    ({"mcp_servers": [{}]}, "mcp_servers"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": 3}}}}, "output_config.format.schema"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "told"), BAD, ids=[told for _, told in BAD])
def test_what_is_wrong_in_a_request_is_named(fields: dict[str, Any], told: str) -> None:
    assert told in error(ask(client(), **fields), 400)


def test_arguments_that_are_no_json_are_refused() -> None:
    body = json.dumps(
        {"model": "tiny", "max_tokens": 9, "messages": [USER, {**CALLED, "content": [{**CALL, "input": {"a": 7}}]}]}
    )
    response = client().post("/v1/messages", content=body.replace("7", "NaN"))
    assert response.status_code == 400


def test_every_kind_of_error_has_its_type_and_the_id_of_the_request() -> None:
    http = client(api_keys=["k"])
    for headers in ({}, {"x-api-key": "other"}, {"Authorization": "Bearer other"}):
        told = error(http.post("/v1/messages", json={}, headers=headers), 401, "authentication_error")
        assert "API key" in told
    for headers in ({"x-api-key": "k"}, {"Authorization": "Bearer k"}):
        assert http.post("/v1/messages", json={}, headers=headers).status_code == 400
    assert "available models: tiny" in error(ask(client(), model="x"), 404, "not_found_error")
    assert "available models" in error(ask(client(), "/v1/messages/count_tokens", model="x"), 404, "not_found_error")
    assert "count" in error(ask(client(), "/v1/messages/count_tokens"), 404, "not_found_error")
    error(client().post("/v1/messages/batches", json={}), 404, "not_found_error")
    error(client().get("/v1/messages"), 405)
    error(ask(client(limits=Limits(body=10))), 413, "request_too_large")

    def busy(_: Any) -> Iterator[Delta]:
        raise Busy("full")
        yield

    response = ask(client(Scripted(busy)))
    error(response, 429, "rate_limit_error")
    assert response.headers["retry-after"]

    def broken(_: Any) -> Iterator[Delta]:
        raise RuntimeError("secret")
        yield

    assert "secret" not in error(ask(client(Scripted(broken))), 500, "api_error")
    good = ask(client())
    assert good.headers["request-id"].startswith("req_")
    assert good.headers["request-id"] != ask(client(), stream=True).headers["request-id"]


def test_a_stream_that_breaks_ends_with_an_error_event() -> None:
    def half(_: Any) -> Iterator[Delta]:
        yield Delta("Hel")
        raise RuntimeError("out of memory")

    *_, last = stream(client(Scripted(half)))
    assert last["type"] == "error" and last["error"]["type"] == "api_error" and "memory" not in last["error"]["message"]


def test_what_changes_nothing_is_accepted_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    marked = {"cache_control": {"type": "ephemeral"}}
    http = client()
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "x-2025-01-01"}
    body = {
        "model": "tiny",
        "max_tokens": 9,
        "messages": [user(text("hi", **marked))],
        "tools": [{**WEATHER, **marked}],
    }
    response = http.post("/v1/messages?beta=true", json={**body, "service_tier": "auto"}, headers=headers)
    assert response.status_code == 200 and not caplog.records
    message(http, max_token=3)
    assert "did you mean max_tokens" in caplog.text


def test_a_schema_constrains_the_reply() -> None:
    seen: list[Any] = []

    def guide(rules: Any) -> Any:
        seen.append(rules.schema)
        raise ValueError("no")

    said = {"format": {"type": "json_schema", "schema": {"enum": ["so"]}}, "effort": "max"}
    chat = Scripted()
    assert "output_config.format: no" in error(ask(client(chat, guide=guide), output_config=said), 400)
    assert seen == [{"enum": ["so"]}]
    message(client(chat), output_config={"effort": "max"})
    assert chat.template_kwargs == {"reasoning_effort": "xhigh"}


def test_chat_completions_know_nothing_of_it() -> None:
    http = client()
    chunks = chat_chunks(
        http.post("/v1/chat/completions", json={"model": "tiny", "messages": [USER], "stream": True}).text
    )
    assert chunks[-1] == "[DONE]"
    assert http.post("/v1/chat/completions", json={}).json().keys() == {"error"}


# Anthropic's own client ----------------------------------------------------------------------------------------------

MUST: dict[str, Any] = {"tools": [WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 900, "messages": [{"role": "user", "content": "Rain?"}]}


MISSING = "Anthropic's client is not installed: pip install -e '.[test-clients]'"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose model is noise: what is right in a reply is the server's doing."""
    pytest.importorskip("anthropic", reason=MISSING)
    threads = torch.get_num_threads()
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), max_position_embeddings=8192)
    torch.set_num_threads(1)
    engine = TorchEngine(LlamaForCausalLM.from_pretrained(folder), [2])
    chat = LocalChat(engine, Renderer(tiny_tokenizer(), template("chatml"), "hermes"))
    defaults = SamplingParams(seed=1)
    app = create_app(chat, "tiny", guide=chat.guide, count_tokens=chat.count_tokens, defaults=defaults, api_keys=["k"])
    with running(app) as url:
        yield url
    engine.close()
    torch.set_num_threads(threads)


@pytest.fixture
def api(url: str) -> Iterator[Any]:
    import anthropic

    with anthropic.Anthropic(api_key="k", base_url=url, max_retries=0) as client:
        yield client


def check(given: Any) -> None:
    assert given["city"] in ("Oslo", "北京") and given["days"] <= 7


def test_the_client_calls_a_tool_and_sends_its_result_back(api: Any) -> None:
    reply = api.messages.create(**ASK, **MUST)
    assert reply.stop_reason == "tool_use"
    (call,) = (block for block in reply.content if block.type == "tool_use")
    check(call.input)
    messages = [*ASK["messages"], {"role": "assistant", "content": reply.content}, user(result(id=call.id))]
    assert (
        api.messages.create(**{**ASK, "messages": messages, "max_tokens": 5}, tools=[WEATHER]).usage.output_tokens <= 5
    )


def test_the_client_streams(api: Any) -> None:
    kinds = [event.type for event in api.messages.create(**{**ASK, "max_tokens": 5}, stream=True)]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    with api.messages.stream(**ASK, **MUST) as stream:
        kinds = [event.type for event in stream]
        reply = stream.get_final_message()
    assert kinds.count("input_json") > 5, "a grammar holds the call: its input comes as it is generated"
    check(reply.content[-1].input)
    assert reply.stop_reason == "tool_use" and reply.usage.input_tokens > 0 and reply.usage.output_tokens > 0


def test_the_client_counts_the_tokens_that_a_reply_is_generated_from(api: Any) -> None:
    prompts: list[dict[str, Any]] = [
        {"messages": ASK["messages"]},
        {"messages": [USER, {"role": "assistant", "content": "It"}], "system": "Be brief."},
        {"messages": [USER, CALLED, user(result("no", is_error=True))], "tools": [WEATHER], "system": [text("A")]},
        {"messages": [USER], "tools": [WEATHER], "tool_choice": {"type": "none"}},
    ]
    counts = [api.messages.count_tokens(model="tiny", **prompt).input_tokens for prompt in prompts]
    used = [api.messages.create(model="tiny", max_tokens=1, **prompt).usage for prompt in prompts]
    assert [each.input_tokens + each.cache_read_input_tokens for each in used] == counts and len(set(counts)) == 4
    again = api.messages.create(model="tiny", max_tokens=1, **prompts[0]).usage
    assert again.input_tokens < counts[0] == again.input_tokens + again.cache_read_input_tokens
    long = [{"role": "user", "content": "x" * 9000}]
    assert api.messages.count_tokens(model="tiny", messages=long).input_tokens > 9000


def test_the_client_parses_a_reply_into_a_class(api: Any) -> None:
    class Said(BaseModel):
        yes: bool

    assert isinstance(api.messages.parse(**ASK, output_format=Said).parsed_output, Said)


def test_the_clients_tool_runner_runs_tools_until_the_reply_is_text() -> None:
    anthropic = pytest.importorskip("anthropic", reason=MISSING)

    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        if messages[-1].role == "tool":
            return iter([Delta(f"It is {messages[-1].content}.", finish="stop", usage=Usage(9, 3))])
        call = ToolCall("clock", '{"zone": "CET"}')
        return iter([Delta("I look."), Delta(tool_call=call), Delta(finish="tool_calls", usage=Usage(5, 7))])

    @anthropic.beta_tool
    def clock(zone: str) -> str:
        """The time in a zone."""
        return f"noon {zone}"

    chat = Scripted(script)
    with running(create_app(chat, "tiny")) as url, anthropic.Anthropic(api_key="k", base_url=url) as api:
        for streams in (False, True):
            runner = api.beta.messages.tool_runner(**ASK, tools=[clock], stream=streams)
            replies = [reply.get_final_message() if streams else reply for reply in runner]
            assert [reply.stop_reason for reply in replies] == ["tool_use", "end_turn"]
            assert replies[-1].content[0].text == "It is noon CET."
    assert [each.role for each in chat.asked[-1][0]] == ["user", "assistant", "tool"]


def test_the_client_understands_errors(api: Any, url: str) -> None:
    import anthropic

    with pytest.raises(anthropic.NotFoundError) as missing:
        api.messages.create(**{**ASK, "model": "big"})
    assert missing.value.type == "not_found_error" and missing.value.request_id.startswith("req_")
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        api.messages.create(**ASK, tools=[{"type": "web_search_20250305", "name": "web_search"}])
    with anthropic.Anthropic(api_key="wrong", base_url=url) as other, pytest.raises(anthropic.AuthenticationError):
        other.messages.create(**ASK)
    with anthropic.Anthropic(auth_token="k", base_url=url) as other:
        assert other.messages.create(**{**ASK, "max_tokens": 2}).stop_reason


def test_the_asynchronous_client_sends_concurrent_requests(url: str) -> None:
    import anthropic

    async def ask() -> list[Any]:
        async with anthropic.AsyncAnthropic(api_key="k", base_url=url) as api:

            async def streamed() -> Any:
                async with api.messages.stream(**ASK, **MUST) as stream:
                    return (await stream.get_final_message()).content[-1].input

            return list(await asyncio.gather(*(streamed() for _ in range(4))))

    for given in asyncio.run(ask()):
        check(given)
