"""An HTTP app that answers as OpenAI's does: routes, streams, keys, limits. Knows no JSON shape and no model."""

from __future__ import annotations

import hmac
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from anyio import CancelScope
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swift.chat import Delta
from swift.chat import Message as ChatMessage
from swift.infer.chat import Chat
from swift.infer.sample import SamplingParams
from swift.serve import wire

log = logging.getLogger("swift.serve")

Complete = Callable[[str | Sequence[int], SamplingParams], Generator[Delta, None, None]]
"""Who goes on with a plain text, or with tokens."""

See = Callable[[Sequence[ChatMessage]], Sequence[ChatMessage]]
"""Who fetches and opens the images of messages. Raises ValueError for one that is none."""

Body = TypeVar("Body", wire.ChatRequest, wire.TextRequest)
GONE = 499  # nginx's number for a client that left; it is only ever logged


class Ask(NamedTuple):
    """A request that was understood: what starts its answer, and what the answer is written with."""

    start: Callable[[], Generator[Delta, None, None]]
    reply: wire.Reply
    stream: bool


def create_app(
    chat: Chat,
    model_name: str,
    *,
    complete: Complete | None = None,
    see: See | None = None,
    defaults: SamplingParams | None = None,
    api_key: str | None = None,
    owned_by: str = "swift",
    max_body: int = 16 * 2**20,
) -> FastAPI:
    """The app that serves `chat` as `model_name`.

    `defaults` holds where a request is silent, `stop` included; its seed starts the sequence of seeds that silent
    requests get, so a server's run can be repeated. `complete` None: there is no /v1/completions. `see` None: messages
    with images are refused. `max_body` is in bytes. No interactive docs: their pages would load foreign scripts.
    """
    app = FastAPI(title="swift", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_RequestLog)
    _tell_errors(app)
    card = wire.card(model_name, owned_by)
    silent = defaults or SamplingParams()
    seeds = random.Random(silent.seed)

    async def understood(request: Request, shape: type[Body]) -> tuple[Body, SamplingParams]:
        _check_key(request, api_key)
        body = wire.read(shape, await _body(request, max_body))
        _check_model(body.model, model_name)
        return body, body.params(replace(silent, seed=seeds.getrandbits(63)))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        _check_key(request, api_key)
        return _json(wire.model_list([card]))

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        _check_key(request, api_key)
        _check_model(name, model_name)
        return _json(wire.as_json(card))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body, params = await understood(request, wire.ChatRequest)
        messages, tools = await _seen(see, body.dialogue), body.offered
        reply = wire.ChatReply(model_name, body.include_usage)
        return await _answer(request, Ask(lambda: chat(messages, tools, params), reply, bool(body.stream)))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body, params = await understood(request, wire.TextRequest)
        if complete is None:
            raise wire.BadRequest("this server only chats: use /v1/chat/completions", status=404)
        start = complete  # narrowed, for the closure
        reply = wire.TextReply(model_name, body.include_usage)
        return await _answer(request, Ask(lambda: start(body.prompt, params), reply, bool(body.stream)))

    return app


async def _seen(see: See | None, messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """The messages with their images read, on a thread: fetching may take long."""
    if not any(message.images for message in messages):
        return messages
    if see is None:
        raise wire.BadRequest("messages: this model takes no images", param="messages")
    try:
        return await run_in_threadpool(see, messages)
    except ValueError as error:
        raise wire.BadRequest(f"messages: {error}", param="messages") from error


async def _answer(request: Request, ask: Ask) -> Response:
    """Waits for the first delta, so that what cannot be answered is refused with a status, then streams or collects."""
    deltas = _Deltas(ask)
    try:
        first = await deltas.next()
    except ValueError as error:
        await deltas.aclose()
        raise wire.BadRequest(str(error)) from error
    request.state.reply = ask.reply  # for the log
    if ask.stream:
        return _EventStream(ask.reply, first, deltas)
    async with aclosing(deltas):
        while first is not None:
            ask.reply.add(first)
            if await request.is_disconnected():
                return Response(status_code=GONE)
            first = await deltas.next()
    return _json(wire.as_json(ask.reply.whole()))


class _Deltas:
    """A reply's deltas, drawn on threads: making one may take long, and the event loop must not wait for it."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._made: Generator[Delta, None, None] | None = None

    async def next(self) -> Delta | None:
        """The next delta; None after the last."""
        return await run_in_threadpool(self._next)

    async def aclose(self) -> None:
        # Shielded: this runs when the client is gone and the request cancelled.
        with CancelScope(shield=True):
            if self._made is not None:
                await run_in_threadpool(self._made.close)

    def _next(self) -> Delta | None:
        if self._made is None:
            self._made = self._ask.start()
        return next(self._made, None)


class _EventStream(StreamingResponse):
    """Server-sent events. Whatever happens, also when the client leaves, the deltas are closed."""

    def __init__(self, reply: wire.Reply, first: Delta | None, deltas: _Deltas) -> None:
        super().__init__(
            self._events(reply, first), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
        self._deltas = deltas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._deltas):
            await super().__call__(scope, receive, send)

    async def _events(self, reply: wire.Reply, delta: Delta | None) -> AsyncIterator[str]:
        for event in reply.start():
            yield _event(wire.as_json(event))
        while delta is not None:
            for event in reply.add(delta):
                yield _event(wire.as_json(event))
            try:
                delta = await self._deltas.next()
            except Exception:  # the status is sent: what went wrong can only be told as an event
                log.exception("a stream broke")
                yield _event(wire.error_json("the reply broke off; the server's log says how", 500))
                return
        for event in reply.end():
            yield _event(wire.as_json(event))
        yield _event("[DONE]")


def _event(data: str) -> str:
    return f"data: {data}\n\n"


def _json(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(text, status, headers, "application/json")


async def _body(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise wire.BadRequest(f"the body is longer than {limit} bytes", status=413)
        parts.append(part)
    return b"".join(parts)


def _check_key(request: Request, api_key: str | None) -> None:
    if api_key is None:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # Header bytes arrive as Latin-1. compare_digest takes the same time wherever the first difference is.
    right = hmac.compare_digest(given.strip().encode("latin-1"), api_key.encode())
    if scheme.lower() != "bearer" or not right:
        what = "incorrect API key" if given else "no API key: send it as 'Authorization: Bearer KEY'"
        raise wire.BadRequest(what, status=401, code="invalid_api_key")


def _check_model(asked: str, served: str) -> None:
    if asked != served:
        raise wire.BadRequest(
            f"there is no model '{asked[:200]}' here; the models are: {served}",
            status=404,
            param="model",
            code="model_not_found",
        )


def _tell_errors(app: FastAPI) -> None:
    """Every error leaves in OpenAI's shape."""

    @app.exception_handler(wire.BadRequest)
    async def refused(request: Request, error: wire.BadRequest) -> Response:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        text = wire.error_json(str(error), error.status, param=error.param, code=error.code)
        return _json(text, error.status, headers)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        what = {404: "there is nothing at", 405: "this method is not allowed at"}.get(error.status_code, error.detail)
        text = wire.error_json(f"{what} {request.url.path} ({request.method})", error.status_code)
        return _json(text, error.status_code, dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _json(wire.error_json("the server failed; its log says how", 500), 500)


class _RequestLog:
    """One line a request: what was asked, how it went, what it cost. Never a header, so never a key."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        state: dict[str, Any] = scope.setdefault("state", {})
        started = time.perf_counter()
        status = GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            line = f"{scope['method']} {quote(scope['path'])} {status} {time.perf_counter() - started:.2f}s"
            reply: wire.Reply | None = state.get("reply")
            if reply is not None:
                prompt, completion = reply.usage
                line += f" {prompt}+{completion} tokens, {reply.finish}"
            log.info("%s", line)
