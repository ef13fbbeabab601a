"""The operations of a service become tools: its own document, real requests on this machine, documents of all kinds."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from fastapi.security import APIKeyCookie, APIKeyQuery, HTTPAuthorizationCredentials, HTTPBasic, HTTPBearer
from pydantic import BaseModel

from swift.chat import ToolCall
from swift.guided.schema_support import enforceable
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


def run(source: OpenApi, tool: str, seconds: float = 20, **arguments: Any) -> Result:
    return call(source.tools, ToolCall(tool, json.dumps(arguments)), Limits(seconds))


def tool_of(source: OpenApi, name: str) -> BoundTool:
    return next(bound for bound in source.tools if bound.name == name)


# A real service -------------------------------------------------------------------------------------------------------


def test_an_operation_becomes_a_tool_with_its_name_description_and_arguments(source: OpenApi) -> None:
    bound = tool_of(source, "item")
    assert bound.tool.description == "Item. One item of the shop."
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


def written(folder: Path, paths: Mapping[str, Any] | str, **more: Any) -> str:
    """The path of a document with these paths, or with this text."""
    document = {"openapi": "3.0.3", "info": {"title": "t", "version": "1"}, "servers": [{"url": "http://127.0.0.1:1"}]}
    text = paths if isinstance(paths, str) else json.dumps({**document, "paths": paths, **more})
    file = folder / "document.json"
    file.write_text(text, encoding="utf-8")
    return str(file)


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
