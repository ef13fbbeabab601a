"""The operations of a service become tools: its own document, real requests on this machine, documents of all kinds."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from email import message_from_string
from pathlib import Path
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from fastapi.security import APIKeyCookie, APIKeyQuery, HTTPAuthorizationCredentials, HTTPBasic, HTTPBearer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from test_agent_command import called, said
from test_server import Scripted, served

from swift import cli
from swift.assembly.tool_sources import open_tools
from swift.chat import Delta, Message, ToolCall
from swift.flag_groups import ToolFlags
from swift.guided.schema_support import enforceable
from swift.serve.server import create_app
from swift.tools.bound_tool import BoundTool
from swift.tools.call import Limits, Result, call, call_all
from swift.tools.openapi import OpenApi
from swift.tools.openapi.source import MAX_BODY

TOKEN = "a-secret/of the user"
BEARER, BASIC = Depends(HTTPBearer()), Depends(HTTPBasic())
KEY, SESSION = Depends(APIKeyQuery(name="key")), Depends(APIKeyCookie(name="session"))


class Item(BaseModel):
    name: str
    price: float
    parts: list[Item] = []


def shop() -> FastAPI:
    app = FastAPI(title="Odd Shop", generate_unique_id_function=lambda route: route.name)

    @app.get("/items/{number}")
    def item(
        number: int,
        words: Annotated[list[str] | None, Query(description="What it is called.")] = None,
        x_trace: Annotated[str | None, Header()] = None,
        taste: Annotated[str | None, Cookie()] = None,
    ) -> dict[str, Any]:
        """One item of the shop."""
        return {"number": number, "words": words, "trace": x_trace, "taste": taste}

    @app.get("/named/{name}")
    def named(name: str, request: Request) -> str:
        return f"{name} from {request.scope['raw_path'].decode()}"

    @app.post("/items", status_code=201)
    def add(item: Item) -> Item:
        return item

    @app.delete("/items/{number}", status_code=204)
    def remove(number: int) -> None: ...

    @app.get("/bearer")
    def with_bearer(request: Request, key: Annotated[HTTPAuthorizationCredentials, BEARER]) -> dict[str, str]:
        return {"right": str(key.credentials == TOKEN), **request.headers}

    @app.get("/basic")
    def with_basic(request: Request, key: Annotated[Any, BASIC]) -> dict[str, str]:
        return {"right": str((key.username, key.password) == ("ann", TOKEN)), **request.headers}

    @app.get("/key")
    def with_key(request: Request, key: Annotated[str, KEY]) -> dict[str, str]:
        return {"right": str(key == TOKEN), "url": str(request.url)}

    @app.get("/cookie")
    def with_cookie(request: Request, key: Annotated[str, SESSION]) -> dict[str, str]:
        return {"right": str(key == "a-secret-cookie"), **request.headers}

    @app.get("/away/{port}")
    def away(port: int) -> RedirectResponse:
        return RedirectResponse(f"http://127.0.0.1:{port}/stolen")

    @app.get("/moved")
    def moved() -> RedirectResponse:
        return RedirectResponse("/items/7")

    @app.get("/round")
    def around() -> RedirectResponse:
        return RedirectResponse("/round")

    @app.get("/missing")
    def missing() -> None:
        raise HTTPException(404, "no such thing")

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("a bug")

    @app.get("/endless")
    def endless() -> StreamingResponse:
        def text() -> Iterator[bytes]:
            while True:
                yield b"x" * 100_000

        return StreamingResponse(text(), media_type="text/plain")

    @app.get("/leak")
    def leak(key: Annotated[Any, BEARER]) -> PlainTextResponse:
        return PlainTextResponse("x" * (MAX_BODY - 6) + str(key.credentials))

    @app.get("/drip")
    async def drip() -> StreamingResponse:
        async def text() -> Any:
            while True:
                yield b"x"
                await asyncio.sleep(0.01)

        return StreamingResponse(text(), media_type="text/plain")

    @app.get("/picture")
    def picture() -> Response:
        return Response(b"\x89PNG" + b"\0" * 1230, media_type="image/png")

    @app.get("/latin")
    def latin() -> Response:
        return PlainTextResponse("é".encode("latin-1"), media_type="text/plain; charset=latin-1")

    return app


class Running(uvicorn.Server):
    """A server on a free port of this machine, as long as the block runs."""

    def __init__(self, app: Any) -> None:
        super().__init__(uvicorn.Config(app, port=0, log_level="critical"))
        self._thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        while not self.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.should_exit = self.force_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Running(shop()) as url:
        yield url


@pytest.fixture(scope="module")
def source(url: str) -> Iterator[OpenApi]:
    source = OpenApi(f"{url}/openapi.json")
    yield source
    source.close()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """A service that answers with the request."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    target = f"{scope['raw_path'].decode()}?{scope['query_string'].decode()}".rstrip("?")
    told = {"method": scope["method"], "target": target, "headers": headers, "body": body.decode()}
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
    await send(start)
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


@pytest.fixture(scope="module")
def mirror() -> Iterator[str]:
    with Running(echo) as url:
        yield url


def run(source: OpenApi, tool: str, seconds: float = 20, **arguments: Any) -> Result:
    return call(source.tools, ToolCall(tool, json.dumps(arguments)), Limits(seconds))


def tool_of(source: OpenApi, name: str) -> BoundTool:
    return next(bound for bound in source.tools if bound.name == name)


# A real service -------------------------------------------------------------------------------------------------------


def test_an_operation_becomes_a_tool_with_its_name_description_and_arguments(source: OpenApi) -> None:
    bound = tool_of(source, "item")
    assert bound.tool.description == "One item of the shop."
    assert list(bound.tool.parameters["properties"]) == ["number", "words", "x-trace", "taste"]
    assert bound.tool.parameters["properties"]["words"]["description"] == "What it is called."
    assert bound.tool.parameters["required"] == ["number"]
    assert source.name == "odd_shop"


def test_only_operations_that_get_are_read_only(source: OpenApi) -> None:
    assert [bound.name for bound in source.tools if not bound.read_only] == ["remove", "add"]


def test_parameters_reach_their_places(source: OpenApi) -> None:
    result = run(source, "item", number=3, words=["a&b", "c d"], **{"x-trace": "t", "taste": "sweet; sour"})
    assert json.loads(result.text) == {"number": 3, "words": ["a&b", "c d"], "trace": "t", "taste": "sweet%3B%20sour"}


def test_the_fields_of_a_body_are_arguments_and_a_wrong_one_is_not_sent(source: OpenApi) -> None:
    result = run(source, "add", name="lamp", price=2.5, parts=[{"name": "bulb", "price": 1}])
    assert json.loads(result.text) == {
        "name": "lamp", "price": 2.5, "parts": [{"name": "bulb", "price": 1.0, "parts": []}],
    }  # fmt: skip
    assert "'price' is a required property" in run(source, "add", name="lamp").text
    assert "'cost' was unexpected" in run(source, "add", name="lamp", price=1, cost=2).text
    assert run(source, "add", name="lamp", price=1, parts=[{"name": 3, "price": 1}]).failure == "bad arguments"


def test_a_reply_without_a_body_says_so(source: OpenApi) -> None:
    assert run(source, "remove", number=3).text == "[204 No Content, no body]"


@pytest.mark.parametrize("name", ["a b", "ü?x=1#y", "100%", "a%2Fb", "...", ";a=b", "{number}", "\n"])
def test_a_path_parameter_is_one_segment_whatever_it_contains(source: OpenApi, name: str) -> None:
    assert json.loads(run(source, "named", name=name).text).startswith(f"{name} from /named/")


@pytest.mark.parametrize("name", ["", ".", "..", "../items/3", "a/b", "/", "%2e%2e", "..\\..", "..%2f.."])
def test_a_path_parameter_leads_to_no_other_path(source: OpenApi, name: str) -> None:
    result = run(source, "named", name=name)
    assert result.failure == "raised" and "'name' is" in result.text and "path and must not" in result.text


def test_errors_of_the_service_are_results(source: OpenApi) -> None:
    assert run(source, "missing").text == 'Error: 404 Not Found: {"detail": "no such thing"}'
    assert run(source, "broken").text == "Error: 500 Internal Server Error: Internal Server Error"


def test_an_endless_body_is_cut(source: OpenApi) -> None:
    result = call(source.tools, ToolCall("endless"), Limits(20, 10 * MAX_BODY))
    assert result.text.startswith(f"[the body is longer than {MAX_BODY:,} bytes, this is its beginning]\nxxx")
    assert len(result.text) < MAX_BODY + 100


def test_a_body_that_drips_ends_at_the_time_limit_and_calls_go_on(source: OpenApi) -> None:
    assert run(source, "drip", 0.3).failure == "timeout"
    assert run(source, "remove", number=3).failure == ""


def test_binary_bodies_are_placeholders_and_other_encodings_are_read(source: OpenApi) -> None:
    assert run(source, "picture").text == "[binary: image/png, 1234 bytes]"
    assert run(source, "latin").text == "é"


def test_calls_run_from_several_threads(source: OpenApi) -> None:
    results = call_all(source.tools, [ToolCall("named", json.dumps({"name": str(number)})) for number in range(20)])
    assert [json.loads(result.text).split()[0] for result in results] == [str(number) for number in range(20)]


def test_a_service_that_is_away_is_one_line(tmp_path: Path) -> None:
    source = OpenApi(written(tmp_path, {"/x": {"get": {"operationId": "x"}}}), base_url="http://127.0.0.1:1")
    result = run(source, "x")
    assert result.failure == "raised" and "http://127.0.0.1:1" in result.text and "\n" not in result.text
    source.close()
    assert "closed" in run(source, "x").text


# Redirects and secrets ------------------------------------------------------------------------------------------------


def test_redirects_are_followed_on_the_same_host_alone(source: OpenApi) -> None:
    asked: list[str] = []

    async def thief(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asked.append(scope["path"])

    with Running(thief) as other:
        port = int(other.rpartition(":")[2])
        result = run(source, "away", port=port)
    assert result.text == f"Error: the server redirects to another host ({other}), which is not followed"
    assert not asked
    assert json.loads(run(source, "moved").text)["number"] == 7
    assert run(source, "around").text == "Error: more than 5 redirects"


SCHEMES = {"HTTPBEARER": TOKEN, "HTTPBASIC": f"ann:{TOKEN}", "APIKEYQUERY": TOKEN, "APIKEYCOOKIE": "a-secret-cookie"}


@pytest.mark.parametrize("tool", ["with_bearer", "with_basic", "with_key", "with_cookie"])
def test_keys_from_the_environment_are_sent_and_appear_nowhere(
    tool: str, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in SCHEMES.items():
        monkeypatch.setenv(f"SWIFT_TOOL_{name}", value)
    caplog.set_level(logging.DEBUG)
    source = OpenApi(f"{url}/openapi.json")
    text = run(source, tool).text
    source.close()
    assert '"right": "True"' in text and "[secret]" in text
    for shown in (text, caplog.text, repr(source.tools)):
        assert "a-secret" not in shown and "YW5uOm" not in shown


def test_a_key_at_the_place_where_a_body_is_cut_is_hidden_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFT_TOOL_HTTPBEARER", TOKEN)
    source = OpenApi(f"{url}/openapi.json", keep=["leak"])
    result = call(source.tools, ToolCall("leak"), Limits(20, 2 * MAX_BODY))
    source.close()
    assert result.text.endswith("xxx[secret]") and TOKEN[:4] not in result.text


def test_a_missing_key_is_named_when_the_document_is_read(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    OpenApi(f"{url}/openapi.json", keep=["with_bearer"]).close()
    said = capsys.readouterr().err
    assert "1 operation without credentials: set SWIFT_TOOL_HTTPBEARER (or --tool_header 'Authorization: ...')" in said


def test_a_header_of_the_user_is_sent_and_is_no_argument(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Trace": "mine"}
    source = OpenApi(f"{url}/openapi.json", headers=headers, keep=["with_bearer", "item"])
    assert "x-trace" not in tool_of(source, "item").tool.parameters["properties"]
    assert json.loads(run(source, "item", number=1).text)["trace"] == "mine"
    text = run(source, "with_bearer").text
    assert '"right": "True"' in text and "a-secret" not in text
    assert capsys.readouterr().err == ""
    source.close()


# Documents ------------------------------------------------------------------------------------------------------------


def written(folder: Path, paths: Mapping[str, Any] | str, name: str = "document.json", **more: Any) -> str:
    """The path of a document with these paths, or with this text."""
    document = {"openapi": "3.0.3", "info": {"title": "t", "version": "1"}, "servers": [{"url": "http://127.0.0.1:1"}]}
    text = paths if isinstance(paths, str) else json.dumps({**document, "paths": paths, **more})
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def opened(folder: Path, operation: Mapping[str, Any], path: str = "/x", url: str = "", **more: Any) -> OpenApi:
    """The source of a document with one operation, `x`; at `url` or nowhere."""
    about = {"operationId": "x", **operation}
    servers = [{"url": url or "http://127.0.0.1:1"}]
    return OpenApi(written(folder, {path: {"post": about}}, **{"servers": servers, **more}))


def schema_of(source: OpenApi) -> Any:
    source.close()
    return source.tools[0].tool.parameters


def sent(source: OpenApi, **arguments: Any) -> Any:
    """What the mirror received of a call of `x`."""
    result = run(source, "x", **arguments)
    assert not result.failure, result.text
    source.close()
    return json.loads(result.text)


LIST, PAIRS = [3, 4.0, "a,b"], {"r": 100, "g": "a b"}
QUERIES = [
    ({}, "a b&c", "?v=a%20b%26c"),
    ({}, True, "?v=true"),
    ({}, 3.0, "?v=3"),
    ({}, None, ""),
    ({}, [], ""),
    ({}, LIST, "?v=3&v=4&v=a%2Cb"),
    ({"explode": False}, LIST, "?v=3,4,a%2Cb"),
    ({"style": "spaceDelimited", "explode": False}, LIST, "?v=3%204%20a%2Cb"),
    ({"style": "pipeDelimited", "explode": False}, LIST, "?v=3%7C4%7Ca%2Cb"),
    ({}, PAIRS, "?r=100&g=a%20b"),
    ({"explode": False}, PAIRS, "?v=r,100,g,a%20b"),
    ({"style": "deepObject"}, {"a": {"b": 1}, "c": [1, 2]}, "?v%5Ba%5D%5Bb%5D=1&v%5Bc%5D=1&v%5Bc%5D=2"),
    ({"allowReserved": True}, "a/b?c&d", "?v=a/b?c%26d"),
]


@pytest.mark.parametrize(("about", "value", "query"), QUERIES)
def test_styles_of_query_parameters(about: dict[str, Any], value: Any, query: str, tmp_path: Path, mirror: str) -> None:
    source = opened(tmp_path, {"parameters": [{"name": "v", "in": "query", **about}]}, url=mirror)
    assert sent(source, v=value)["target"] == f"/x{query}"


PATHS = [
    ({}, 5, "/x/5/y"),
    ({}, LIST, "/x/3,4,a%2Cb/y"),
    ({}, PAIRS, "/x/r,100,g,a%20b/y"),
    ({"explode": True}, PAIRS, "/x/r=100,g=a%20b/y"),
    ({"style": "label"}, 5, "/x/.5/y"),
    ({"style": "label", "explode": True}, LIST, "/x/.3.4.a%2Cb/y"),
    ({"style": "matrix"}, LIST, "/x/;v=3,4,a%2Cb/y"),
    ({"style": "matrix", "explode": True}, LIST, "/x/;v=3;v=4;v=a%2Cb/y"),
    ({"style": "matrix", "explode": True}, PAIRS, "/x/;r=100;g=a%20b/y"),
]


@pytest.mark.parametrize(("about", "value", "target"), PATHS)
def test_styles_of_path_parameters(about: dict[str, Any], value: Any, target: str, tmp_path: Path, mirror: str) -> None:
    parameters = [{"name": "v", "in": "path", "required": True, **about}]
    source = opened(tmp_path, {"parameters": parameters}, "/x/{v}/y", mirror)
    assert sent(source, v=value)["target"] == target


def test_headers_and_parameters_as_json(tmp_path: Path, mirror: str) -> None:
    parameters = [
        {"name": "X-List", "in": "header"},
        {"name": "X-Pairs", "in": "header", "explode": True},
        {"name": "filter", "in": "query", "content": {"application/json": {"schema": {"type": "object"}}}},
        {"name": "Accept", "in": "header", "required": True},
    ]
    source = opened(tmp_path, {"parameters": parameters}, url=mirror)
    assert list(source.tools[0].tool.parameters["properties"]) == ["X-List", "X-Pairs", "filter"]
    assert "must not contain line breaks" in run(source, "x", **{"X-List": "a\r\nHost: b"}).text
    told = sent(source, **{"X-List": [1, "ü"], "X-Pairs": {"a": 1, "b": 2}, "filter": {"a": [1, None]}})
    assert (told["headers"]["x-list"], told["headers"]["x-pairs"]) == ("1,ü", "a=1,b=2")
    assert told["target"] == "/x?filter=%7B%22a%22%3A%5B1%2Cnull%5D%7D"


def test_parameters_of_one_name_in_two_places_are_two_arguments(tmp_path: Path, mirror: str) -> None:
    parameters = [{"name": "id", "in": "path", "required": True}, {"name": "id", "in": "query"}]
    told = sent(opened(tmp_path, {"parameters": parameters}, "/x/{id}", mirror), id=1, query_id=2)
    assert told["target"] == "/x/1?id=2"


NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
BODIES = [
    ("application/json", NAME, {"required": True}, {"name": "é"}, '{"name":"é"}'),
    ("application/vnd.x+json", NAME, {"required": True}, {"name": "é"}, '{"name":"é"}'),
    ("application/json", NAME, {}, {"body": {"name": "a"}}, '{"name":"a"}'),  # all or nothing
    ("application/json", NAME, {}, {}, ""),
    ("application/json", {**NAME, "required": []}, {"required": True}, {}, "{}"),
    (
        "application/json",
        {**NAME, "additionalProperties": True},
        {},
        {"body": {"name": "a", "b": 1}},
        '{"name":"a","b":1}',
    ),
    ("application/json", {"allOf": [NAME]}, {"required": True}, {"body": {"name": "a"}}, '{"name":"a"}'),
    ("application/json", {"type": "array"}, {}, {"body": [1, None]}, "[1,null]"),
    ("text/plain", {"type": "string"}, {}, {"body": "é\n"}, "é\n"),
    ("application/x-www-form-urlencoded", NAME, {"required": True}, {"name": "a&b é"}, "name=a%26b+%C3%A9"),
    (
        "application/x-www-form-urlencoded",
        {"type": "object"},
        {"required": True},
        {"body": {"a": [1, 2], "b": {"c": True}, "d": None}},
        "a=1&a=2&b=%7B%22c%22%3Atrue%7D",
    ),
]


@pytest.mark.parametrize(("kind", "schema", "about", "arguments", "body"), BODIES)
def test_bodies(
    kind: str, schema: Any, about: Any, arguments: dict[str, Any], body: str, tmp_path: Path, mirror: str
) -> None:
    source = opened(tmp_path, {"requestBody": {"content": {kind: {"schema": schema}}, **about}}, url=mirror)
    told = sent(source, **arguments)
    assert told["body"] == body
    assert told["headers"].get("content-type") == (kind if body else None)


def test_a_body_stands_apart_where_its_fields_would_clash_with_parameters(tmp_path: Path, mirror: str) -> None:
    operation = {
        "parameters": [{"name": "name", "in": "query"}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": NAME}}},
    }
    told = sent(opened(tmp_path, operation, url=mirror), name="q", body={"name": "b"})
    assert (told["target"], told["body"]) == ("/x?name=q", '{"name":"b"}')


def test_files_of_multipart_bodies(tmp_path: Path, mirror: str) -> None:
    fields = {"note": {"type": "string"}, "file": {"type": "string", "format": "binary"}}
    content = {"multipart/form-data": {"schema": {"type": "object", "properties": fields}}}
    source = opened(tmp_path, {"requestBody": {"required": True, "content": content}}, url=mirror)
    told = sent(source, note="für", file="a\r\nb")
    message = message_from_string(f"Content-Type: {told['headers']['content-type']}\n\n{told['body']}")
    parts = [
        (part.get_param("name", header="content-disposition"), part.get_filename(), part.get_payload())
        for part in message.get_payload()
    ]
    assert parts == [("note", None, "für"), ("file", "file", "a\r\nb")]


def test_json_comes_first_of_several_content_types(tmp_path: Path, mirror: str) -> None:
    content = {"application/xml": {"schema": NAME}, "text/plain": {}, "application/json": {"schema": NAME}}
    told = sent(opened(tmp_path, {"requestBody": {"content": content, "required": True}}, url=mirror), name="a")
    assert told["headers"]["content-type"] == "application/json"


# Schemas --------------------------------------------------------------------------------------------------------------


def test_schemas_of_openapi_3_0_become_json_schemas(tmp_path: Path) -> None:
    fields = {
        "above": {"type": "integer", "minimum": 1, "exclusiveMinimum": True, "maximum": 9, "exclusiveMaximum": False},
        "word": {"type": "string", "nullable": True, "enum": ["a"], "example": "a", "xml": {"name": "w"}},
        "either": {"oneOf": [{"type": "string"}, {"type": "integer"}], "nullable": True, "description": "Either."},
        "title": {"type": "string", "title": "Title", "x-order": 1},
        "number": {"type": "integer", "readOnly": True},
        "secret": {"type": "string", "format": "password"},
    }
    schema = {"type": "object", "properties": fields, "required": ["number", "title"]}
    content = {"application/json": {"schema": schema}}
    assert schema_of(opened(tmp_path, {"requestBody": {"required": True, "content": content}})) == {
        "type": "object",
        "properties": {
            "above": {"type": "integer", "exclusiveMinimum": 1, "maximum": 9},
            "word": {"type": ["string", "null"], "enum": ["a", None]},
            "either": {
                "anyOf": [{"oneOf": [{"type": "string"}, {"type": "integer"}]}, {"type": "null"}],
                "description": "Either.",
            },
            "title": {"type": "string"},
            "secret": {"type": "string"},
        },
        "required": ["title"],
        "additionalProperties": False,
    }


def ref(place: str) -> dict[str, Any]:
    return {"$ref": f"#/components/{place}"}


def test_references_of_every_kind_lead_to_what_they_name(tmp_path: Path, mirror: str) -> None:
    schemas = {
        "a/b c": {"type": "integer"},
        "Thing": {"type": "object", "properties": {"colour": {**ref("schemas/Colour"), "description": "Its colour."}}},
        "Colour": {"type": "string", "enum": ["red", "blue"], "description": "A colour."},
    }
    body = {"required": True, "content": {"application/json": {"schema": ref("schemas/Thing")}}}
    item = {"operationId": "x", "parameters": [ref("parameters/Id")], "requestBody": ref("requestBodies/Thing")}
    components = {
        "pathItems": {"Xs": {"post": item}},
        "parameters": {"Id": {"name": "id", "in": "path", "required": True, "schema": ref("schemas/a~1b%20c")}},
        "requestBodies": {"Thing": body},
        "schemas": schemas,
    }
    paths = {"/x/{id}": ref("pathItems/Xs")}
    source = OpenApi(written(tmp_path, paths, components=components, servers=[{"url": mirror}]))
    assert source.tools[0].tool.parameters["properties"] == {
        "id": {"type": "integer"},
        "colour": {"type": "string", "enum": ["red", "blue"], "description": "Its colour."},
    }
    told = sent(source, id=3, colour="red")
    assert (told["target"], told["body"]) == ("/x/3", '{"colour":"red"}')


def cyclic(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a document whose operation takes the schema `A`."""
    return {"components": {"schemas": schemas}}


OF_A = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}
}
TO_A, TO_B = {"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/B"}


def test_schemas_that_contain_each_other_stay_finite_checked_and_guided(tmp_path: Path) -> None:
    schemas = {
        "A": {"type": "object", "properties": {"b": TO_B, "n": {"type": "integer"}}, "additionalProperties": False},
        "B": {"type": "array", "items": TO_A},
    }
    source = opened(tmp_path, OF_A, **cyclic(schemas))
    schema = schema_of(source)
    assert "#/components" not in json.dumps(schema) and enforceable(schema).unenforced == ()
    inner: dict[str, Any] = {"n": 1}
    for _ in range(20):
        inner = {"b": [inner]}
    assert source.tools[0].validator.is_valid(inner)
    text = json.dumps(inner).replace("1", '"one"')
    assert "'one' is not of type 'integer'" in call(source.tools, ToolCall("x", text)).text


def test_a_long_chain_of_schemas_stays_shallow(tmp_path: Path) -> None:
    def link(number: int) -> dict[str, Any]:
        return {"type": "object", "properties": {"x": ref(f"schemas/S{number}")}}

    schemas = {"A": link(0), **{f"S{number}": link(number + 1) for number in range(500)}, "S500": {"type": "integer"}}
    source = opened(tmp_path, OF_A, **cyclic(schemas))
    assert 50 < len(schema_of(source)["$defs"]) < 70
    assert json.dumps(schema_of(source)).count("properties") == 501
    assert call(source.tools, ToolCall("x", '{"x": {"x": {"x": 1}}}')).text.endswith("1 is not of type 'object'")


def test_a_schema_that_no_prompt_can_hold_is_left_out(tmp_path: Path) -> None:
    schemas = {"A": {"type": "string", "enum": [f"value {number}" for number in range(20_000)]}}
    with pytest.raises(ValueError, match=r"its schema has 2..,... characters, and 200,000 are possible"):
        opened(tmp_path, OF_A, **cyclic(schemas))


@pytest.mark.parametrize(
    "schemas",
    [
        {"A": TO_A},
        {"A": TO_B, "B": TO_A},
        {"A": {"allOf": [TO_B]}, "B": {"anyOf": [TO_A, {"type": "null"}]}},
        {"A": {"type": "object", "properties": {"x": {"not": TO_B}}}, "B": {"oneOf": [TO_B]}},
    ],
)
def test_a_schema_that_is_only_itself_is_left_out(schemas: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"document\.json: no operations: none of 1 can be a tool: POST /x .*itself"):
        opened(tmp_path, OF_A, **cyclic(schemas))


# What cannot be used --------------------------------------------------------------------------------------------------

HEAD = '"openapi": "3.1.0", "info": {}'


def aliases(levels: int, times: int) -> str:
    """A few lines of YAML that stand for nested lists of as many levels, each of as many items."""
    lists = [f"a{level + 1}: &a{level + 1} [{', '.join([f'*a{level}'] * times)}]" for level in range(levels)]
    return "\n".join(["a0: &a0 [x]", *lists])


BAD_DOCUMENTS = {
    "": "an empty file",
    "<!doctype html><html>": "an HTML or XML page",
    "[1, 2]": "not an OpenAPI document: it must be an object",
    '{"tools": []}': "it has no field 'openapi' (its fields: tools)",
    '{"swagger": "2.0", "paths": {}}': "Swagger 2.0, and only OpenAPI 3 is supported: convert it",
    '{"openapi": "4.0", "paths": {}}': "OpenAPI 4.0 is not supported, only 3.0, 3.1 and 3.2",
    "{" + HEAD + "}": "'paths' is missing",
    "{" + HEAD + ', "paths": []}': "'paths' must be an object",
    "{" + HEAD + ', "paths": {}}': "no operations: none",
    "{" + HEAD + ',\n "paths": {]}': "line 2, column 12: not JSON",
    "{" + HEAD + ', "paths": {}, "paths": {}}': "the key 'paths' twice",
    "openapi: 3.1.0\npaths: {a: [}": "line 2, column 13: not YAML",
    "openapi: 3.1.0\npaths: {}\npaths: {}": "line 3, column 1: the key 'paths' occurs twice",
    "openapi: 3.1.0\n--- \nx: 1": "line 2, column 1: a second document",
    "x: !!python/object/apply:os.system [ls]": "python/object/apply:os.system is not supported",
    "x: !!python/name:os.system": "python/name:os.system is not supported",
    "x: &a [*a]": "line 1, column 8: the alias *a is unknown, or within what it stands for",
    "? {a: b}\n: c": "a key must be a text",
    "[" * 5000: "nested deeper than 200 levels",
    '{"a":' * 100_000: "nested too deep",
    '{"a":' * 300 + "1" + "}" * 300: "nested deeper than 200 levels",
    aliases(300, 1): "nested deeper than 200 levels",
    aliases(9, 9): "more than 3,000,000 values",
}


@pytest.mark.parametrize(("text", "reason"), BAD_DOCUMENTS.items(), ids=range(len(BAD_DOCUMENTS)))
def test_what_is_no_document_is_one_line_with_its_name(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        OpenApi(written(tmp_path, text))
    assert str(error.value).startswith(f"{tmp_path}/document.json: ") and reason in str(error.value)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 300 + len(str(tmp_path))


def test_documents_that_cannot_be_read(tmp_path: Path, url: str) -> None:
    for document, reason in {
        str(tmp_path / "none.json"): "no such file",
        str(tmp_path): "not a file",
        f"{url}/docs": f"an HTML page, not an OpenAPI document; often it is {url}/openapi.json",
        f"{url}/missing?key=abc": f"{url}/missing: the server answers 404",
        "http://127.0.0.1:1/openapi.json": "http://127.0.0.1:1/openapi.json: ",
        "http://ann:pw@127.0.0.1:1/openapi.json": "a name or password in the URL is not supported",
    }.items():
        with pytest.raises((ValueError, OSError)) as error:
            OpenApi(document)
        assert reason in str(error.value) and "\n" not in str(error.value)
        assert "abc" not in str(error.value) and "pw" not in str(error.value)


def test_yaml_is_read_as_json_would_be(tmp_path: Path) -> None:
    text = """
openapi: 3.1.0
info: {title: On, version: 2024-01-01}
servers: [{url: http://127.0.0.1:1}]
x-shared: &shared {type: string, enum: [on, no, "1", 2020-01-01]}
paths:
  /x:
    get:
      operationId: x
      responses: {200: {description: ok}}
      parameters:
        - {name: on, in: query, required: true, schema: *shared}
        - {name: off, in: query, schema: {<<: *shared, default: no}}
        - {name: number, in: query, schema: {minimum: 1.5, maximum: 3e2, default: null}}
"""
    assert schema_of(OpenApi(written(tmp_path, text, "api.yaml"))) == {
        "type": "object",
        "properties": {
            "on": {"type": "string", "enum": ["on", "no", "1", "2020-01-01"]},
            "off": {"type": "string", "enum": ["on", "no", "1", "2020-01-01"], "default": "no"},
            "number": {"minimum": 1.5, "maximum": 300.0, "default": None},
        },
        "required": ["on"],
        "additionalProperties": False,
    }


UNSUPPORTED = [
    ({"requestBody": {"content": {"application/xml": {"schema": NAME}}}}, "a body as application/xml is not supported"),
    ({"parameters": [{"name": "a", "in": "querystring"}]}, "a parameter in 'querystring' is not supported"),
    ({"parameters": [{"name": "a", "in": "path"}]}, "the path parameter 'a' is not in the path"),
    ({"parameters": [{"$ref": "#/components/x"}]}, "'$ref: #/components/x' is not in the document"),
    ({"parameters": [{"name": "a", "in": "query", "schema": {"type": "text"}}]}, "parameters is not a JSON schema"),
    ({"parameters": [{"name": "a", "in": "query", "schema": {"$dynamicRef": "#a"}}]}, "$dynamicRef is not supported"),
    ({"parameters": {}}, "paths./x.post.parameters: must be a list"),
]


@pytest.mark.parametrize(("operation", "reason"), UNSUPPORTED, ids=range(len(UNSUPPORTED)))
def test_an_operation_that_cannot_be_a_tool_is_named_and_the_others_stay(
    operation: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"/x": {"post": {"operationId": "x", **operation}}, "/y": {"get": {"operationId": "y"}}}
    source = OpenApi(written(tmp_path, paths))
    source.close()
    said = capsys.readouterr().err
    assert [bound.name for bound in source.tools] == ["y"]
    assert "left out 1 of 2 operations: POST /x (" in said and reason in said and said.count("\n") == 1
    with pytest.raises(ValueError, match="x cannot be a tool: "):
        OpenApi(written(tmp_path, paths), keep=["x"])


def test_a_reference_to_another_file_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"paths\./x\.post\.parameters\[0\]: '\$ref: other\.yaml#/Id' leaves the document"
    ):
        opened(tmp_path, {"parameters": [{"$ref": "other.yaml#/Id"}]})


def test_names_of_tools_are_valid_and_distinct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {
        "/a": {"get": {"operationId": "list things!"}, "post": {"operationId": "list.things"}},
        "/b/{id}/c": {"get": {"parameters": [{"name": "id", "in": "path", "required": True}]}},
        "/d": {"get": {"operationId": "x" * 100}, "put": {"operationId": "x" * 100}},
    }
    source = OpenApi(written(tmp_path, paths))
    source.close()
    names = [bound.name for bound in source.tools]
    assert names == ["list_things", "list_things_2", "get_b_id_c", "x" * 64, "x" * 62 + "_2"]
    assert "two operations have one name: POST /a is 'list_things_2'" in capsys.readouterr().err


RICH: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Rich"},
    "servers": [{"url": "http://{host}:1", "variables": {"host": {"default": "127.0.0.1"}}}],
    "security": [{"key": []}, {}],
    "paths": {
        "/a/{id}": {
            "parameters": [ref("parameters/Id")],
            "put": {"operationId": "a", "summary": "A", "requestBody": ref("requestBodies/Node"), "tags": ["a"]},
        }
    },
    "components": {
        "parameters": {"Id": {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}},
        "requestBodies": {"Node": {"required": True, "content": {"application/json": {"schema": ref("schemas/Node")}}}},
        "schemas": {
            "Node": {
                "type": "object",
                "required": ["left"],
                "properties": {
                    "left": ref("schemas/Node"),
                    "kind": {"type": "string", "nullable": True, "enum": ["a"]},
                },
                "additionalProperties": False,
            }
        },
        "securitySchemes": {"key": {"type": "apiKey", "in": "query", "name": "k"}},
    },
}


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from places(inner, (*place, key))


ODD = [
    None,
    True,
    -1,
    "",
    "x",
    "#/paths",
    [],
    [{}],
    {},
    ref("schemas/Node"),
    {"$ref": "#"},
    {"$ref": 3},
    {"x": {"y": 1}},
]


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.sampled_from(list(places(RICH))), odd=st.sampled_from(ODD))
def test_whatever_a_document_contains_it_becomes_tools_or_one_line(
    place: tuple[Any, ...], odd: Any, tmp_path: Path
) -> None:
    document = copy.deepcopy(RICH)
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = copy.deepcopy(odd)
    try:
        source = OpenApi(written(tmp_path, json.dumps(document)))
    except ValueError as error:
        assert type(error) is ValueError and len(str(error).splitlines()) == 1
    else:
        assert [bound.name for bound in source.tools] and source.name
        source.close()


# Where requests go ----------------------------------------------------------------------------------------------------


def test_the_url_of_the_service(tmp_path: Path, mirror: str) -> None:
    port = mirror.rpartition(":")[2]
    variables = {"port": {"default": port}, "version": {"default": "v2"}}
    servers = [{"url": "http://127.0.0.1:{port}/{version}/", "variables": variables}]
    assert sent(opened(tmp_path, {}, servers=servers))["target"] == "/v2/x"
    assert sent(opened(tmp_path, {"servers": [{"url": f"{mirror}/own"}]}))["target"] == "/own/x"
    source = OpenApi(written(tmp_path, {"/x": {"post": {"operationId": "x"}}}), base_url=f"{mirror}/mine/")
    assert sent(source)["target"] == "/mine/x"


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ([], "it names no server: give the URL of the service with --tool_base_url"),
        ([{"url": "/v1"}], "servers[0].url is '/v1', without a host: give the URL of the service with --tool_base_url"),
        ([{"url": "http://{host}/"}], "the variable {host} has no default: give --tool_base_url"),
        ([{"url": "ws://127.0.0.1"}], "'ws://127.0.0.1' is not an http or https URL"),
        ([{"url": "http://ann:pw@127.0.0.1"}], "a name or password in the URL is not supported: use --tool_header"),
    ],
)
def test_a_document_without_a_usable_server_names_the_flag(servers: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        opened(tmp_path, {}, servers=servers)
    assert reason in str(error.value)


def test_a_base_url_without_a_scheme_is_completed_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--tool_base_url: 'localhost:8000' is not .*; did you mean http://localhost"):
        OpenApi(written(tmp_path, {"/x": {"get": {}}}), base_url="localhost:8000")


def test_keys_go_to_no_host_that_only_the_document_names(mirror: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.dumps(
        {"openapi": "3.1.0", "servers": [{"url": mirror}], "paths": {"/x": {"post": {"operationId": "x"}}}}
    )
    app = FastAPI()
    app.add_api_route("/api.json", lambda: Response(document, media_type="application/json"))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with Running(app) as elsewhere:
        with pytest.raises(ValueError, match=f"another host, {mirror}: to send your keys there, give --tool_base_url"):
            OpenApi(f"{elsewhere}/api.json", headers=headers)
        told = sent(OpenApi(f"{elsewhere}/api.json", headers=headers, base_url=mirror))
        assert told["headers"]["authorization"] == "[secret]"
        assert capsys.readouterr().err == ""
        assert "authorization" not in sent(OpenApi(f"{elsewhere}/api.json"))["headers"]
        assert f"api.json: its operations are on another host, {mirror}\n" in capsys.readouterr().err


def test_an_operation_on_another_host_gets_no_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {"/x": {"get": {"servers": [{"url": "http://localhost:2"}]}}, "/y": {"get": {"operationId": "y"}}}
    source = OpenApi(written(tmp_path, paths), headers={"X-Key": TOKEN})
    source.close()
    assert [bound.name for bound in source.tools] == ["y"]
    assert "GET /x (it is on another host, http://localhost:2, which gets no keys)" in capsys.readouterr().err


def test_the_first_alternative_whose_keys_are_set_is_used(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schemes = {
        "a-b": {"type": "apiKey", "in": "header", "name": "X-A"},
        "b": {"type": "apiKey", "in": "cookie", "name": "b"},
        "o": {"type": "oauth2", "flows": {}},
    }
    more = {"components": {"securitySchemes": schemes}, "security": [{"a-b": [], "o": []}, {"b": []}, {"o": []}]}
    monkeypatch.setenv("SWIFT_TOOL_O", "token")
    headers = sent(opened(tmp_path, {}, url=mirror, **more))["headers"]
    assert headers["authorization"] == "[secret]" and "cookie" not in headers
    monkeypatch.setenv("SWIFT_TOOL_A_B", "key-a")
    monkeypatch.setenv("SWIFT_TOOL_B", "key-b")
    headers = sent(opened(tmp_path, {}, url=mirror, **more))["headers"]
    assert (headers["authorization"], headers["x-a"]) == ("[secret]", "[secret]") and "cookie" not in headers
    assert "authorization" not in sent(opened(tmp_path, {"security": []}, url=mirror, **more))["headers"]
    assert capsys.readouterr().err == ""


def test_a_key_that_two_documents_would_get_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFT_TOOL_O", TOKEN)
    more = {"components": {"securitySchemes": {"o": {"type": "oauth2", "flows": {}}}}, "security": [{"o": []}]}
    documents = [written(tmp_path, {f"/{name}": {"get": {}}}, f"{name}.json", **more) for name in "ab"]
    open_tools(ToolFlags(tools=tuple(documents[:1]))).close()
    with pytest.raises(ValueError, match=r"SWIFT_TOOL_O would be sent to .*a\.json and to .*b\.json: use one of them"):
        open_tools(ToolFlags(tools=tuple(documents)))


@pytest.mark.parametrize("headers", [{"X Y": "v"}, {"X": "a-secret\r\nY: z"}, {"X": "a-secret ü"}])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(headers: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--tool_header: ") as error:
        OpenApi(written(tmp_path, {"/x": {"get": {}}}), headers=headers)
    assert "a-secret" not in str(error.value)


def test_names_or_patterns_choose_the_operations(url: str) -> None:
    source = OpenApi(f"{url}/openapi.json", keep=["with_*", "add"])
    assert [bound.name for bound in source.tools] == ["add", "with_bearer", "with_basic", "with_key", "with_cookie"]
    source.close()
    with pytest.raises(ValueError, match=r"no operation is named 'ad'; did you mean 'add'\?"):
        OpenApi(f"{url}/openapi.json", keep=["ad"])


def test_a_schema_that_contains_itself_stays_finite_and_guides_replies(source: OpenApi) -> None:
    schema = tool_of(source, "add").tool.parameters
    assert schema["properties"]["parts"]["items"] == {"$ref": "#/$defs/Item-Input"}
    assert enforceable(schema).unenforced == ()


# The example ----------------------------------------------------------------------------------------------------------

SHOP = Path(__file__).parents[1] / "examples" / "agent" / "shop" / "shop.py"


@pytest.fixture
def shop_url() -> Iterator[str]:
    """The shop of the examples, started by its one command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SHOP), "--port", str(port), "--key", TOKEN])
    try:
        while process.poll() is None and not _answers(port):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/openapi.json"
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_agent_buys_in_the_shop_of_the_examples(
    shop_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWIFT_TOOL_SHOPKEY", TOKEN)
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("search_products", {"words": "blue", "max_price": 5}),
        ("search_products", {"words": "MUG", "in_stock": True}),
        ("put_into_basket", {"sku": "MUG-BLUE", "quantity": 2}),
        ("put_into_basket", {"sku": "MUG-BLUE", "quantity": 11}),
        ("put_into_basket", {"sku": "SPADE"}),
        ("remove_from_basket", {"sku": "SPADE"}),
        ("show_basket", {}),
        ("place_order", {"address": "1 Main Street, Oslo"}),
        ("place_order", {"address": "1 Main Street, Oslo"}),
        ("get_product", {"sku": "MUG-BLUE"}),
        ("cancel_order", {"number": 1}),
        ("cancel_order", {"number": 1}),
        ("get_order", {"number": 1}),
    ]

    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        made = sum(message.role == "tool" for message in messages)
        return iter(called(calls[made]) if made < len(calls) else said("Done."))

    with served(create_app(Scripted(script), "tiny")) as model:
        words = ["--tools", shop_url, "--task", "Buy.", "--max_turns", "20", "--output", "trace.jsonl"]
        assert cli.main(["agent", "run", "--endpoint", f"{model}/v1", *words]) == 0
    trace = (tmp_path / "trace.jsonl").read_text()
    results = [message["content"] for message in json.loads(trace)["messages"] if message["role"] == "tool"]
    values = [json.loads(text.removeprefix("Error: 409 Conflict: ")) for text in results]
    assert [[product["sku"] for product in found] for found in values[:2]] == [["PEN-BLUE"], ["MUG-BLUE"]]
    assert values[2] == {"lines": [{"sku": "MUG-BLUE", "quantity": 2}], "total": 17.0} == values[6]
    assert values[3] == {"detail": "12 of MUG-BLUE are in stock, 2 are in the basket"}
    assert (values[7]["state"], values[8]) == ("placed", {"detail": "the basket is empty"})
    assert values[9]["stock"] == 10
    assert values[11] == {"detail": "order 1 is cancelled already"}
    assert values[12]["state"] == "cancelled"
    written = capsys.readouterr()
    assert written.out == "Done.\n" and TOKEN not in trace + written.err
    source = OpenApi(shop_url)
    source.close()
    read = {"search_products", "get_product", "show_basket", "list_orders", "get_order"}
    assert {bound.name for bound in source.tools if bound.read_only} == read
