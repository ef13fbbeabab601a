"""The server answers like OpenAI's: over HTTP, with a scripted chat, and once with the official client."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import socket
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import openai
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tiny import thinking_tokenizer, tiny_model_folder, tiny_tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from swift.agent import tool_format
from swift.chat import Delta, Message, Tool, ToolCall, Usage
from swift.engine.interface import Busy, TokenOutput
from swift.engine.sampling import SamplingParams, TooLong
from swift.engine.torch_engine import TorchEngine
from swift.guided.grammar import Rules
from swift.guided.guide import Guide, Vocabulary
from swift.guided.schema_support import Unenforced
from swift.infer.local_chat import LocalChat
from swift.serve.body_reader import Limits
from swift.serve.request_log import JsonLines
from swift.serve.server import create_app
from swift.template import Renderer, template

PLAIN = SamplingParams()
USER = {"role": "user", "content": "hi"}
Script = Callable[[Sequence[Message]], Iterator[Delta]]


class Scripted:
    """A chat that follows a script and records its requests."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or (
            lambda messages: iter([Delta("Hello"), Delta(" there", finish="stop", usage=Usage(3, 2))])
        )
        self.asked: list[tuple[tuple[Message, ...], tuple[Tool, ...], SamplingParams]] = []
        self.closed = threading.Event()
        self.template_kwargs: Mapping[str, Any] | None = None

    def __call__(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        params: SamplingParams = PLAIN,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Generator[Delta, None, None]:
        self.template_kwargs = template_kwargs
        self.asked.append((tuple(messages), tuple(tools), params))
        try:
            yield from self.script(messages)
        finally:
            self.closed.set()

    @property
    def params(self) -> SamplingParams:
        return self.asked[-1][2]


def client(chat: Scripted | None = None, **options: Any) -> TestClient:
    return TestClient(create_app(chat or Scripted(), "tiny", **options), raise_server_exceptions=False)


def ask(http: TestClient, path: str = "/v1/chat/completions", **fields: Any) -> Any:
    body = {"model": "tiny", "messages": [USER]} if "chat" in path else {"model": "tiny", "prompt": "Once"}
    return http.post(path, json={**body, **fields})


def error(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status
    body: dict[str, dict[str, Any]] = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def events(text: str) -> list[Any]:
    lines = text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app behind a real server on a free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_health_and_the_list_of_models() -> None:
    http = client(owned_by="me")
    assert http.get("/health").json() == {"status": "ok"}
    body = http.get("/v1/models").json()
    assert body["object"] == "list"
    assert [(model["id"], model["object"], model["owned_by"]) for model in body["data"]] == [("tiny", "model", "me")]
    assert body["data"][0] == http.get("/v1/models/tiny").json()
    assert "big" in error(http.get("/v1/models/big"), 404)["message"]


def test_a_chat_completion_is_answered_in_one_piece() -> None:
    response = ask(client())
    assert response.headers["content-type"] == "application/json"
    choice = response.json()["choices"][0]
    assert choice["message"]["content"] == "Hello there"
    assert choice["finish_reason"] == "stop"
    assert response.json()["usage"]["total_tokens"] == 5


def test_a_chat_completion_is_streamed_as_events() -> None:
    response = ask(client(), stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == "Hello there"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 2


def test_tools_reach_the_chat_and_calls_come_back() -> None:
    tool = {"type": "function", "function": {"name": "fire", "parameters": {}}}
    chat = Scripted(lambda _: iter([Delta(tool_call=ToolCall("fire", "{}")), Delta(finish="tool_calls")]))
    choice = ask(client(chat), tools=[tool]).json()["choices"][0]
    assert chat.asked[0][1] == (Tool(tool),)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "fire", "arguments": "{}"}


def test_the_servers_defaults_apply_to_fields_that_a_request_does_not_set() -> None:
    chat = Scripted()
    http = client(chat, defaults=SamplingParams(temperature=0.3, top_k=20, seed=42, stop=("Observation:",)))
    ask(http)
    assert (chat.params.temperature, chat.params.top_k, chat.params.stop) == (0.3, 20, ("Observation:",))
    ask(http, temperature=0, stop=["\n"], seed=7, include_stop_str_in_output=True)
    assert (chat.params.temperature, chat.params.top_k, chat.params.stop) == (0, 20, ("\n",))
    assert (chat.params.seed, chat.params.include_stop) == (7, True)


def test_requests_without_a_seed_get_different_ones_and_the_same_again_after_a_restart() -> None:
    def seeds() -> list[int | None]:
        chat = Scripted()
        http = client(chat, defaults=SamplingParams(seed=42))
        ask(http), ask(http)
        return [params.seed for _, _, params in chat.asked]

    first = seeds()
    assert first[0] != first[1]
    assert seeds() == first


def test_a_plain_text_is_continued_without_a_chat_template() -> None:
    prompts: list[Any] = []

    def complete(prompt: str | Sequence[int], params: SamplingParams) -> Generator[Delta, None, None]:
        prompts.append(prompt)
        yield Delta(" upon", finish="length", usage=Usage(1, 1))

    http = client(complete=complete)
    assert ask(http, "/v1/completions").json()["choices"][0]["text"] == " upon"
    assert ask(http, "/v1/completions", prompt=[1, 2], stream=True).text.endswith("data: [DONE]\n\n")
    assert ask(http, "/v1/completions", prompt=["a", "b"], n=2).json()["usage"]["prompt_tokens"] == 2
    assert sorted(map(str, prompts)) == sorted(map(str, ["Once", [1, 2], "a", "a", "b", "b"]))
    assert "chat" in error(ask(client(), "/v1/completions"), 404)["message"]


def test_a_key_is_required_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    http = client(api_keys=["sécret"])
    for header in (
        {},
        {"Authorization": "Bearer secret"},
        {"Authorization": "sécret".encode()},
        {"Authorization": "Bearer"},
        {"x-api-key": "secret"},
        {"Authorization": "Bearer secret", "x-api-key": "secret"},
    ):
        for response in (
            http.get("/v1/models", headers=header),
            http.post("/v1/chat/completions", content=b"{", headers=header),
            http.post("/v1/completions", content=b"{", headers=header),
        ):
            assert error(response, 401)["code"] == "invalid_api_key"
    for right in ({"Authorization": "Bearer sécret".encode()}, {"x-api-key": "sécret".encode()}):
        assert http.get("/v1/models", headers=right).status_code == 200
    assert http.get("/health").status_code == 200
    assert "cret" not in caplog.text


def test_errors_have_anthropics_shape_on_its_routes_alone() -> None:
    response = client().post("/v1/messages/of/nobody", json={})
    told = response.json()
    assert response.status_code == 404
    assert (told["type"], told["error"]["type"]) == ("error", "not_found_error")
    assert "/v1/messages/of/nobody" in told["error"]["message"]
    assert told["request_id"] == response.headers["request-id"]
    error(client().post("/v1/messages_of_nobody", json={}), 404)


def test_the_error_for_an_unknown_model_lists_the_known_ones() -> None:
    told = error(ask(client(), model="gpt-4"), 404)
    assert (told["param"], told["code"]) == ("model", "model_not_found")
    assert "'gpt-4'" in told["message"] and "tiny" in told["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"model": "\xff\xfe"}', b"\x00\x01"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_body_that_cannot_be_read_is_a_400(path: str, body: bytes) -> None:
    assert error(client().post(path, content=body), 400)["type"] == "invalid_request_error"


def test_an_invalid_field_is_a_400_with_its_name() -> None:
    assert error(ask(client(), temperature="hot"), 400)["param"] == "temperature"


def test_a_body_that_is_too_long_is_a_413() -> None:
    http = client(limits=Limits(body=100))
    assert "100 bytes" in error(http.post("/v1/chat/completions", content=b" " * 101), 413)["message"]
    parts = iter([b" " * 60, b" " * 60])
    assert error(http.post("/v1/chat/completions", content=parts), 413)


def test_unknown_routes_and_wrong_methods_have_the_same_shape() -> None:
    http = client()
    assert "/v1/chat" in error(http.get("/v1/chat"), 404)["message"]
    response = http.get("/v1/chat/completions")
    assert "GET" in error(response, 405)["message"]
    assert response.headers["allow"] == "POST"


def test_what_cannot_be_answered_is_a_400_streamed_or_not() -> None:
    def refuse(messages: Sequence[Message]) -> Iterator[Delta]:
        raise ValueError("the prompt has 9 tokens, the model's context is 8")
        yield

    for stream in (False, True):
        assert "context is 8" in error(ask(client(Scripted(refuse)), stream=stream), 400)["message"]


def test_an_internal_error_is_a_500_without_its_details() -> None:
    def fail(messages: Sequence[Message]) -> Iterator[Delta]:
        raise RuntimeError("secret path")
        yield

    told = error(ask(client(Scripted(fail))), 500)
    assert told["type"] == "server_error"
    assert "secret" not in told["message"]


def test_a_stream_that_breaks_ends_with_an_error_event() -> None:
    def half(messages: Sequence[Message]) -> Iterator[Delta]:
        yield Delta("Hel")
        raise RuntimeError("out of memory")

    *_, text, broken = events(ask(client(Scripted(half)), stream=True).text)
    assert text["choices"][0]["delta"] == {"content": "Hel"}
    assert broken["error"]["type"] == "server_error"
    assert "memory" not in broken["error"]["message"]


def test_one_line_is_logged_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="swift.serve")
    http = client()
    ask(http), ask(http, stream=True), ask(http, model="x"), http.get("/a%0Ab")
    lines = [record.getMessage() for record in caplog.records if record.name == "swift.serve"]
    assert [line.split()[:3] for line in lines] == [
        ["POST", "/v1/chat/completions", "200"],
        ["POST", "/v1/chat/completions", "200"],
        ["POST", "/v1/chat/completions", "404"],
        ["GET", "/a%0Ab", "404"],
    ]
    assert ["3+2 tokens, stop" in line for line in lines] == [True, True, False, False]


def test_a_log_line_may_be_json(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="swift.serve")
    caplog.handler.setFormatter(JsonLines())
    http = client(Scripted(lambda _: (_ for _ in "x" if 1 / 0)))
    ask(client()), ask(http)
    good, bad = (json.loads(line) for line in caplog.text.splitlines())
    assert good["level"] == "info" and good["time"] > 0 and good["seconds"] >= good["first_token_seconds"] >= 0
    told = ("method", "path", "status", "prompt_tokens", "completion_tokens", "finish")
    assert [good[name] for name in told] == ["POST", "/v1/chat/completions", 200, 3, 2, "stop"]
    assert bad["status"] == 500
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("swift.serve").exception("broke")
    assert "KeyError" in json.loads(caplog.text.splitlines()[-1])["error"]


class Host:
    """An adapter host; a folder without "good" in its name is not an adapter."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def add_adapter(self, name: str, folder: str) -> None:
        if "good" not in folder:
            raise ValueError(f"{folder}: no adapter")
        self.held[name] = folder

    def remove_adapter(self, name: str) -> None:
        del self.held[name]


KEY = {"Authorization": "Bearer k"}


def test_adapters_are_models_that_are_loaded_and_unloaded_with_a_key() -> None:
    host, chat = Host(), Scripted()
    host.add_adapter("first", "/good/1")
    http = client(chat, adapters=host, adapter_names=["first"], api_keys=["k"])

    def post(path: str, **body: str) -> Any:
        return http.post(f"/v1/{path}_lora_adapter", json=body, headers=KEY)

    def names() -> list[str]:
        return [model["id"] for model in http.get("/v1/models", headers=KEY).json()["data"]]

    assert post("load", lora_name="second", lora_path="/good/2").status_code == 200
    assert names() == ["tiny", "first", "second"]
    assert http.get("/v1/models/second", headers=KEY).json()["parent"] == "tiny"
    for model, adapter in (("tiny", ""), ("second", "second")):
        http.post("/v1/chat/completions", json={"model": model, "messages": [USER]}, headers=KEY)
        assert chat.params.adapter == adapter
    assert error(post("load", lora_name="second", lora_path="/good/3"), 400)["param"] == "lora_name"
    assert "no adapter" in error(post("load", lora_name="third", lora_path="/bad"), 400)["message"]
    assert post("unload", lora_name="second").status_code == 200
    assert host.held.keys() == {"first"} and names() == ["tiny", "first"]
    assert error(post("unload", lora_name="second"), 404)
    assert error(post("unload", lora_name="tiny"), 400)["param"] == "lora_name"
    assert error(http.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "/good"}), 401)


def test_without_a_key_adapters_cannot_be_changed() -> None:
    body = {"lora_name": "x", "lora_path": "/good"}
    assert "--api_key" in error(client(adapters=Host()).post("/v1/load_lora_adapter", json=body), 403)["message"]
    assert error(client(api_keys=["k"]).post("/v1/load_lora_adapter", json=body, headers=KEY), 404)


def test_constraints_on_a_reply_reach_the_chat_or_are_refused() -> None:
    class Held(NamedTuple):
        rules: Rules
        unenforced: tuple[Unenforced, ...] = ()

        def begin(self) -> Any: ...

    tool = {"type": "function", "function": {"name": "fire"}}
    chat = Scripted()
    must = {"tools": [tool], "tool_choice": "required"}
    assert ask(client(chat, guide=Held), **must).status_code == 200
    assert chat.params.guide == Held(Rules((Tool(tool),), required=True))
    ask(client(chat, guide=Held), tools=[tool])
    assert chat.params.guide is None
    ask(client(chat, guide=Held, guide_tools=True), tools=[tool])
    assert chat.params.guide == Held(Rules((Tool(tool),)))
    assert error(ask(client(), **must), 400)["param"] == "tool_choice"
    assert error(ask(client(), response_format={"type": "json_object"}), 400)["param"] == "response_format"

    def refuse(rules: Rules) -> Any:
        raise ValueError("no grammar for this")

    assert "no grammar" in error(ask(client(guide=refuse), **must), 400)["message"]


MAIL = {
    "type": "function",
    "function": {
        "name": "mail",
        "parameters": {
            "type": "object",
            "properties": {"to": {"type": "string", "pattern": r"^(?!\.)[a-z@.]+$"}, "cc": {"type": "string"}},
            "required": ["to"],
        },
    },
}


class Guiding(Scripted):
    """A scripted chat with the guides of a model whose tool-call format is Hermes."""

    def __init__(self, arguments: str = '{"to": "a@b.de"}') -> None:
        call = ToolCall("mail", arguments, "1")
        super().__init__(lambda messages: iter([Delta(tool_call=call), Delta(finish="tool_calls", usage=Usage(1, 1))]))
        self._vocabulary = Vocabulary(tiny_tokenizer(), [2])

    def guide(self, rules: Rules) -> Guide:
        return self._vocabulary.guide(tool_format("hermes"), rules)


def test_a_request_with_an_unsupported_keyword_is_answered_and_the_keyword_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chat = Guiding()
    http = client(chat, guide=chat.guide, guide_tools=True)
    with caplog.at_level(logging.WARNING, "swift.serve"):
        for fields in ({}, {}, {"tool_choice": "required"}, {"tools": [MAIL, CLOCK]}):
            assert ask(http, **{"tools": [MAIL], **fields}).status_code == 200
    assert chat.params.guide is not None
    (told,) = caplog.messages
    assert told.startswith("tool 'mail': the grammar does not enforce 'pattern' at /properties/to: ")
    assert "look-ahead" in told
    assert told.endswith("validated afterwards")


CLOCK = {"type": "function", "function": {"name": "clock"}}
NAMED = {"type": "function", "function": {"name": "mail"}}
STRICT = {**MAIL, "function": {**MAIL["function"], "strict": True}}  # type: ignore[dict-item]
FORMAT = {"name": "n", "strict": True, "schema": {"type": "object", "properties": {"a": {"not": {}}}}}


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"tools": [CLOCK, MAIL], "tool_choice": NAMED}, "tools[1].function.parameters", "'pattern' at /properties/to"),
        ({"tools": [STRICT]}, "tools[0].function.parameters", "tool 'mail': a grammar cannot enforce 'pattern' at"),
        (
            {"response_format": {"type": "json_schema", "json_schema": FORMAT}},
            "response_format.json_schema.schema",
            "'not' at /properties/a",
        ),
    ],
)
def test_a_strict_schema_that_cannot_be_enforced_is_refused_with_its_field(
    fields: dict[str, Any], param: str, said: str
) -> None:
    chat = Guiding()
    told = error(ask(client(chat, guide=chat.guide), **fields), 400)
    assert told["param"] == param
    assert said in told["message"]
    assert not chat.asked


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_violates_an_unenforced_keyword_is_logged(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    right, wrong = Guiding(), Guiding('{"to": ".a@b.de"}')
    with caplog.at_level(logging.WARNING, "swift.serve"):
        for chat in (right, wrong):
            http = client(chat, guide=chat.guide, guide_tools=True)
            assert ask(http, tools=[MAIL], stream=stream).status_code == 200
    broken = [text for text in caplog.messages if "violates" in text]
    assert len(broken) == 1
    assert broken[0].startswith("tool 'mail': a reply violates the schema at /to: 'pattern': '.a@b.de' does not match")


def test_content_in_place_of_a_call_is_validated_too(caplog: pytest.LogCaptureFixture) -> None:
    vocabulary = Vocabulary(tiny_tokenizer(), [2])
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    chat = Scripted(lambda messages: iter([Delta("[1, 1]"), Delta(finish="stop", usage=Usage(1, 1))]))
    http = client(chat, guide=lambda rules: vocabulary.guide(tool_format("hermes"), rules))
    with caplog.at_level(logging.WARNING, "swift.serve"):
        assert ask(http, response_format=wanted).json()["choices"][0]["message"]["content"] == "[1, 1]"
    assert [text.split(":")[0] for text in caplog.messages] == ["response_format"] * 2
    assert "'uniqueItems': [1, 1] has non-unique elements" in caplog.messages[1]


def test_unsupported_routes_say_so_and_unknown_ones_name_the_nearest() -> None:
    assert "not offered" in error(client().post("/v1/embeddings", json={}), 404)["message"]
    assert "did you mean /v1/chat/completions" in error(client().post("/chat/completions", json={}), 404)["message"]


def test_the_index_page_is_json_for_programs_and_html_for_people() -> None:
    http = client(api_keys=["k"])
    assert "/v1/chat/completions" in http.get("/").json()["routes"]
    page = http.get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html") and "/openapi.json" in page.text


def test_head_is_answered_wherever_get_is() -> None:
    http = client()
    for path in ("/", "/health", "/metrics", "/openapi.json", "/v1/models", "/v1/models/tiny"):
        assert http.head(path).status_code == 200, path
    assert http.head("/v1/models/big").status_code == 404
    assert http.delete("/v1/models").headers["allow"] in ("GET, HEAD", "HEAD, GET")


def test_web_pages_may_send_requests_if_their_origin_is_allowed() -> None:
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    asks["Access-Control-Request-Headers"] = "authorization,content-type"
    http = client(allow_origins=["https://app.example"], api_keys=["k"])
    allowed = http.options("/v1/chat/completions", headers=asks)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    refused = http.post("/v1/chat/completions", json={}, headers={"Origin": "https://app.example"})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://app.example"
    other = http.options("/v1/chat/completions", headers={**asks, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    assert error(client().options("/v1/chat/completions", headers=asks), 405)


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_a_web_page_reads_replies_streams_and_errors(header: str) -> None:
    def fail(messages: Sequence[Message]) -> Iterator[Delta]:
        if messages[0].content == "fail":
            raise RuntimeError("broken")
        if messages[0].content == "busy":
            raise Busy("full")
        yield Delta("Hello", finish="stop", usage=Usage(1, 1))

    origin = "https://app.example"
    http = client(Scripted(fail), allow_origins=[origin], api_keys=["k"], limits=Limits(body=1000))
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    asks["Access-Control-Request-Headers"] = f"{header},anthropic-version,content-type"
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/tokenize", "/nowhere"):
        preflight = http.options(path, headers=asks)
        assert preflight.status_code == 200, "browsers send no key with a preflight"
        assert preflight.headers["access-control-allow-origin"] == origin
        allowed = preflight.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
        assert {header, "anthropic-version", "content-type"} <= set(allowed)
        assert "POST" in preflight.headers["access-control-allow-methods"]
    key = {"Origin": origin, header: "Bearer k" if header == "authorization" else "k"}
    for sent, status in (
        ({}, 200),
        ({"stream": True}, 200),
        ({"model": "big"}, 404),
        ({"temperature": "hot"}, 400),
        ({"messages": [{"role": "user", "content": "x" * 1000}]}, 413),
        ({"messages": [{"role": "user", "content": "busy"}]}, 429),
        ({"messages": [{"role": "user", "content": "fail"}]}, 500),
    ):
        body = {"model": "tiny", "messages": [USER], **sent}
        answer = http.post("/v1/chat/completions", json=body, headers=key)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == origin, status
        assert "retry-after" in answer.headers["access-control-expose-headers"].lower()
    assert http.post("/nowhere", headers=key).headers["access-control-allow-origin"] == origin
    assert "access-control-allow-origin" not in http.get("/health", headers={"Origin": "https://other.example"}).headers


def test_a_compressed_body_is_decompressed_within_the_limit() -> None:
    sent = json.dumps({"model": "tiny", "messages": [USER]}).encode()

    def post(content: bytes, encoding: str, **options: Any) -> Any:
        return client(**options).post("/v1/chat/completions", content=content, headers={"Content-Encoding": encoding})

    for packed, encoding in (
        (gzip.compress(sent), "gzip"),
        (gzip.compress(sent[:9]) + gzip.compress(sent[9:]), "GZIP"),
        (zlib.compress(sent), "deflate"),
        (sent, "identity"),
    ):
        assert post(packed, encoding).status_code == 200, encoding
    bomb = gzip.compress(b" " * 10_000_000)
    assert "100000 bytes" in error(post(bomb, "gzip", limits=Limits(body=100_000)), 413)["message"]
    assert "decompressed" in error(post(sent, "gzip"), 400)["message"]
    assert "it is incomplete" in error(post(gzip.compress(sent)[:-9], "gzip"), 400)["message"]
    assert "gzip, deflate" in error(post(sent, "br"), 415)["message"]


def test_any_of_several_keys_is_accepted() -> None:
    http = client(api_keys=["one", "two"])
    statuses = {key: http.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code for key in KEYS}
    assert statuses == {"one": 200, "two": 200, "three": 401, "one two": 401}


KEYS = ("one", "two", "three", "one two")


def test_max_tokens_may_be_0_for_a_completion() -> None:
    asked: list[SamplingParams] = []

    def complete(prompt: str | Sequence[int], params: SamplingParams) -> Generator[Delta, None, None]:
        asked.append(params)
        yield Delta("x", finish="length", usage=Usage(7, 1))

    for fields in ({}, {"stream": True}):
        response = ask(client(complete=complete), "/v1/completions", max_tokens=0, **fields)
        assert response.status_code == 200 and '"text":"x"' not in response.text
    body = ask(client(complete=complete), "/v1/completions", max_tokens=0).json()
    assert body["choices"][0]["text"] == "" and body["choices"][0]["finish_reason"] == "length"
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}
    assert error(ask(client(), max_tokens=0), 400)["param"] == "max_tokens"


def test_an_unknown_field_is_logged_once_with_the_most_similar_known_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="swift.serve")
    http = client()
    tool = {"type": "function", "function": {"name": "f", "paramters": {}}}
    fields: dict[str, Any] = {"max_token": 5, "guided_json": {"type": ["object"] * 3}, "tools": [tool], "zzz": 1}
    fields |= {"stream": True, "stream_options": {"include_usag": True}, "user": "me", "metadata": {"a": "b"}}
    fields["messages"] = [{**USER, "contnt": "x"}, {**USER, "contnt": "y"}]
    for _ in range(2):
        assert ask(http, **fields).status_code == 200
    told = sorted(record.getMessage().removeprefix("a request holds the unknown field ") for record in caplog.records)
    assert told == [
        "guided_json, which is ignored; did you mean response_format?",
        "max_token, which is ignored; did you mean max_tokens?",
        "messages[].contnt, which is ignored; did you mean content?",
        "stream_options.include_usag, which is ignored; did you mean include_usage?",
        "tools[].function.paramters, which is ignored; did you mean parameters?",
        "zzz, which is ignored",
    ]


def test_a_prompt_that_is_too_long_has_openais_code() -> None:
    def refuse(messages: Sequence[Message]) -> Iterator[Delta]:
        raise TooLong("the prompt has 9 tokens")
        yield

    told = error(ask(client(Scripted(refuse))), 400)
    assert (told["code"], told["param"]) == ("context_length_exceeded", "messages")


def test_an_engine_whose_queue_is_full_is_a_429() -> None:
    def full(messages: Sequence[Message]) -> Iterator[Delta]:
        raise Busy("full")
        yield

    response = ask(client(Scripted(full)), stream=True)
    assert error(response, 429)["code"] == "rate_limit_exceeded"
    assert response.headers["retry-after"] == "1"


def test_each_choice_has_its_own_seed() -> None:
    chat = Scripted()
    choices = ask(client(chat), n=3, seed=2**63 - 2).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert {params.seed for _, _, params in chat.asked} == {2**63 - 2, 2**63 - 1, -(2**63)}


def endless(messages: Sequence[Message]) -> Iterator[Delta]:
    while True:
        time.sleep(0.01)
        yield Delta("la ")


def test_a_client_that_disconnects_ends_its_reply() -> None:
    chat = Scripted(endless)
    with (
        served(create_app(chat, "tiny")) as url,
        openai.OpenAI(api_key="-", base_url=f"{url}/v1", max_retries=0) as api,
    ):
        with api.chat.completions.create(model="tiny", messages=[USER], stream=True) as stream:  # type: ignore[list-item]
            next(iter(stream))
            assert not chat.closed.is_set()
        assert chat.closed.wait(5)
        chat.closed.clear()
        with pytest.raises(openai.APITimeoutError):
            api.chat.completions.create(model="tiny", messages=[USER], timeout=0.3)  # type: ignore[list-item]
        assert chat.closed.wait(5)


def test_a_client_that_leaves_while_it_asks_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with served(create_app(Scripted(), "tiny")) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        for _ in range(100):
            time.sleep(0.02)
            if caplog.records:
                break
    assert [record.getMessage().split()[:3] for record in caplog.records] == [["POST", "/v1/completions", "499"]]


def test_a_long_reply_does_not_hold_up_other_requests() -> None:
    slow = threading.Event()

    def wait(messages: Sequence[Message]) -> Iterator[Delta]:
        slow.wait(10)
        yield Delta("done", finish="stop")

    with served(create_app(Scripted(wait), "tiny")) as url, openai.OpenAI(api_key="-", base_url=f"{url}/v1") as api:
        thread = threading.Thread(target=lambda: api.chat.completions.create(model="tiny", messages=[USER]))  # type: ignore[list-item]
        thread.start()
        assert [model.id for model in api.models.list()] == ["tiny"]
        slow.set()
        thread.join()


def test_a_model_behind_the_app_chats_and_completes(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "model")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    chat = LocalChat(
        TorchEngine(LlamaForCausalLM.from_pretrained(folder), [2]), Renderer(tokenizer, template("chatml"))
    )
    http = TestClient(create_app(chat, "tiny", complete=chat.complete))
    options = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
    whole = ask(http, **options).json()
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 4
    *chunks, _ = events(ask(http, stream=True, **options).text)
    streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert streamed == whole["choices"][0]["message"]["content"]
    text = ask(http, "/v1/completions", **options).json()
    counts = {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}  # one token a letter
    assert text["usage"] == {**counts, "prompt_tokens_details": {"cached_tokens": 0}}
    assert ask(http, "/v1/completions", prompt=tokenizer.encode("Once"), **options).json()["choices"] == text["choices"]
    assert "context of 2048" in error(ask(http, max_tokens=5000), 400)["message"]
    assert "token 99999" in error(ask(http, "/v1/completions", prompt=[99999]), 400)["message"]


FIRE_ALARM = """Answer the following questions as best you can. You have access to the following APIs:
1. fire_recognition: Call this tool to interact with the fire recognition API. Parameters: [{"name": "image"}]

Use the following format:

Thought: you should always think about what to do
Action: the action to take, should be one of the above tools[fire_recognition]
Begin!"""


def fire_alarm(messages: Sequence[Message]) -> Iterator[Delta]:
    """Calls a tool; continues once the last message contains an observation."""
    observed = messages[-1].role == "assistant" and messages[-1].content.endswith("'on_fire': True}]")
    text = (
        "\nFinal Answer: There is fire"
        if observed
        else "Action: fire_recognition\nAction Input: /tmp/1.jpg\nObservation:"
    )
    for letter in text:
        yield Delta(letter)
    yield Delta(finish="stop", usage=Usage(100, len(text)))


def test_the_official_client_chats_streams_and_continues_a_reply() -> None:
    chat = Scripted(fire_alarm)
    out = io.StringIO()
    with (
        served(create_app(chat, "tiny", defaults=SamplingParams(stop=("Observation",)))) as url,
        contextlib.redirect_stdout(out),
    ):
        client = openai.OpenAI(api_key="EMPTY", base_url=f"{url}/v1")
        model_type = client.models.list().data[0].id
        print(f"model_type: {model_type}")
        messages: list[Any] = [
            {"role": "system", "content": FIRE_ALARM},
            {"role": "user", "content": "输入图片是/tmp/1.jpg,协助判断图片中是否存在着火点"},
        ]
        resp = client.chat.completions.create(model=model_type, messages=messages, stop=["Observation:"], seed=42)
        response = resp.choices[0].message.content
        print(f"response: {response}")
        assert response is not None
        messages.append(
            {"role": "assistant", "content": response + "\n[{'coordinate': [101.1, 200.9], 'on_fire': True}]"}
        )
        stream_resp = client.chat.completions.create(
            model=model_type, messages=messages, stop=["Observation:"], stream=True, seed=42
        )
        print("response: ", end="")
        for chunk in stream_resp:
            print(chunk.choices[0].delta.content, end="", flush=True)
        print()
        client.close()
    assert out.getvalue() == (
        "model_type: tiny\n"
        "response: Action: fire_recognition\nAction Input: /tmp/1.jpg\nObservation:\n"
        "response: \nFinal Answer: There is fire\n"
    )
    assert [(params.stop, params.seed) for _, _, params in chat.asked] == [(("Observation:",), 42)] * 2
    assert [message.role for message in chat.asked[1][0]] == ["system", "user", "assistant"]


def test_clients_with_tools_as_text_and_with_tools_are_served_at_once(tmp_path: Path) -> None:
    """A client that writes tools and observations as text gets text, while others send `tools`."""
    folder = tiny_model_folder(tmp_path / "model")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    class Acts:
        """An engine that acts, and once it has observed something, answers."""

        prompts: ClassVar[list[str]] = []

        def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> Iterator[TokenOutput]:
            self.prompts.append(tokenizer.decode(tokens))
            observed = self.prompts[-1].endswith("Observation:\n[yes]\n")
            said = "Final Answer: fire" if observed else "Action: look\nAction Input: {}\nObservation: made up"
            return (TokenOutput(token, 0.0) for token in [*tokenizer.encode(said, add_special_tokens=False)])

        def close(self) -> None: ...

    chat = LocalChat(Acts(), Renderer(tokenizer, template("chatml"), "react_en"))  # type: ignore[arg-type]
    http = TestClient(create_app(chat, "tiny", defaults=SamplingParams(stop=("Observation",)), guide=chat.guide))
    said = ask(http, stop=["Observation:"]).json()["choices"][0]
    assert said["message"]["content"] == "Action: look\nAction Input: {}\nObservation:"
    assert said["finish_reason"] == "stop" and "tool_calls" not in said["message"]
    assert ask(http).json()["choices"][0] == said, "--stop_words Observation means the same"
    going_on = {"role": "assistant", "content": said["message"]["content"] + "\n[yes]\n"}
    *chunks, _ = events(ask(http, messages=[USER, going_on], stop=["Observation:"], stream=True).text)
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in chunks) == "Final Answer: fire"
    look = {"type": "function", "function": {"name": "look"}}
    called = ask(http, tools=[look], stop=["Observation:"]).json()["choices"][0]
    assert called["finish_reason"] == "tool_calls" and called["message"]["content"] is None
    assert called["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}
    after = ask(http, tools=[look], messages=[USER, going_on]).json()["choices"][0]
    assert (after["message"]["content"], after["finish_reason"]) == ("fire", "stop")


def test_the_official_client_understands_our_errors() -> None:
    with served(create_app(Scripted(), "tiny", api_keys=["k"])) as url:
        with openai.OpenAI(api_key="wrong", base_url=f"{url}/v1") as api, pytest.raises(openai.AuthenticationError):
            api.models.list()
        with openai.OpenAI(api_key="k", base_url=f"{url}/v1") as api:
            with pytest.raises(openai.NotFoundError, match="model 'big' not found"):
                api.chat.completions.create(model="big", messages=[{"role": "user", "content": "hi"}])
            with pytest.raises(openai.BadRequestError) as caught:
                api.chat.completions.create(model="tiny", messages=[])
            assert caught.value.param == "messages"


def test_variables_of_the_chat_template_reach_the_chat() -> None:
    chat = Scripted()
    for fields, variables in (
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ({"reasoning_effort": "high", "n": 2}, {"reasoning_effort": "high"}),
        ({}, None),
    ):
        assert ask(client(chat), **fields).status_code == 200
        assert chat.template_kwargs == variables
    assert "enable_thinking" in error(ask(client(chat), enable_thinking=1), 400)["message"]


def test_a_variable_that_the_chat_template_does_not_read_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    read = Renderer(thinking_tokenizer(), None).variables
    http = client(template_variables=read)
    for _ in range(2):
        assert ask(http, reasoning_effort="low", enable_thinking=False).status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "a request sets reasoning_effort, which the model's chat template does not read"
    ]
    assert not Renderer(tiny_tokenizer(), template("qwen")).variables


def test_a_chat_of_three_arguments_serves_requests_without_variables() -> None:
    def chat(
        messages: Sequence[Message], tools: Sequence[Tool] = (), params: SamplingParams = PLAIN
    ) -> Generator[Delta, None, None]:
        yield Delta("Hello", finish="stop", usage=Usage(1, 1))

    assert ask(TestClient(create_app(chat, "tiny"))).status_code == 200  # type: ignore[arg-type]


def thinking_chat(*said: str) -> tuple[LocalChat, list[str]]:
    """A chat with a model that says one text after the other, whose template opens a thought; and its prompts."""
    tokenizer, prompts = thinking_tokenizer(), []

    class Engine:
        context = None

        def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> Any:
            text = said[len(prompts)]
            prompts.append(tokenizer.decode(tokens))
            return (TokenOutput(token, 0.0, None) for token in tokenizer.encode(text, add_special_tokens=False))

        def close(self) -> None: ...

    return LocalChat(Engine(), Renderer(tokenizer, None)), prompts


def test_reasoning_is_sent_as_reasoning_content_complete_and_streamed_and_comes_back() -> None:
    chat, prompts = thinking_chat("Hm.\n</think>\n\nYes.", "Hm.\n</think>\n\nYes.", "Yes.", "Hm.")
    http = TestClient(create_app(chat, "tiny"))
    message = ask(http).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes.")
    sent = [each["choices"][0]["delta"] for each in events(ask(http, stream=True).text)[:-1]]
    assert "".join(delta.get("reasoning_content", "") for delta in sent) == "Hm."
    assert "".join(delta.get("content") or "" for delta in sent) == "Yes."
    message = ask(http, enable_thinking=False).json()["choices"][0]["message"]
    assert "reasoning_content" not in message and message["content"] == "Yes."
    message = ask(http, messages=[USER, {"role": "assistant", **message}, USER]).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", ""), "it ended within its thought"
    ends = [prompt.rpartition("assistant\n")[2] for prompt in prompts]
    assert ends == ["<think>\n", "<think>\n", "<think>\n\n</think>\n\n", "<think>\n"]


def test_a_dialogue_whose_template_rewrites_earlier_rounds_is_served_and_continued() -> None:
    chat, prompts = thinking_chat("a</think>b", " c", "d", "e")
    http = TestClient(create_app(chat, "tiny"))
    thought = {"role": "assistant", "content": "It is", "reasoning_content": "Hm."}
    assert ask(http, messages=[USER, thought, USER]).status_code == 200
    assert "Hm." not in prompts[0]
    message = ask(http, messages=[USER, thought]).json()["choices"][0]["message"]
    assert message["content"] == " c"
    assert prompts[1].endswith("<think>\nHm.\n</think>\n\nIt is")


def test_fields_that_continue_a_message_say_what_the_server_does_or_are_refused() -> None:
    begun = [USER, {"role": "assistant", "content": "Once"}]
    chat = Scripted()
    assert (
        ask(client(chat), messages=begun, continue_final_message=True, add_generation_prompt=False).status_code == 200
    )
    assert ask(client(chat), continue_final_message=False, add_generation_prompt=True).status_code == 200
    for fields in (
        {"messages": begun, "continue_final_message": False},
        {"messages": begun, "add_generation_prompt": True},
        {"continue_final_message": True},
        {"add_generation_prompt": False},
    ):
        told = error(ask(client(chat), **fields), 400)
        assert told["param"] == list(fields)[-1] and "must be" in told["message"]
