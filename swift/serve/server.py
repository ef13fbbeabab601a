"""An HTTP app that answers as OpenAI's does: routes, streams, keys, limits. Knows no JSON shape and no model."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from anyio import fail_after
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swift.chat import Message as ChatMessage
from swift.infer.chat import Chat, Deltas
from swift.infer.engine import Busy
from swift.infer.grammar import Rules
from swift.infer.guide import Guide
from swift.infer.sample import SamplingParams
from swift.serve import answers, document, requests
from swift.serve.answers import Reply
from swift.serve.metrics import CONTENT_TYPE, Metrics
from swift.serve.replies import Counter, Replies, Start
from swift.serve.requests import BadRequest

log = logging.getLogger("swift.serve")

Complete = Callable[[str | Sequence[int], SamplingParams], Deltas]
"""Who goes on with a plain text, or with tokens."""

Drawn = Callable[[SamplingParams], Deltas]
See = Callable[[Sequence[ChatMessage]], Sequence[ChatMessage]]
"""Who fetches and opens the images of messages. Raises ValueError for one that is none."""

GONE = 499  # nginx's number for a client that left; it is only ever logged
RETRY_AFTER = "1"  # seconds


class Adapters(Protocol):
    """Who can answer with adapters beside the base model, as an engine does."""

    def add_adapter(self, name: str, folder: str) -> None: ...
    def remove_adapter(self, name: str) -> None: ...


class Limits(NamedTuple):
    """`body` in bytes, `patience` in seconds for a whole body to arrive, `queue` in replies that may wait."""

    body: int = 16 * 2**20
    patience: float = 60.0
    queue: int = 256


LIMITS = Limits()


class Models:
    """The base model and its adapters, by the names that requests give them."""

    def __init__(self, base: str, owned_by: str, adapters: Iterable[str] = ()) -> None:
        self.base, self._owned_by = base, owned_by
        self._cards = {base: answers.card(base, owned_by)}
        for name in adapters:
            self.add(name)

    def add(self, name: str) -> None:
        self._cards[name] = answers.card(name, self._owned_by, self.base)

    def remove(self, name: str) -> None:
        del self._cards[name]

    def __contains__(self, name: str) -> bool:
        return name in self._cards

    def __iter__(self) -> Any:
        return iter(self._cards.values())

    def find(self, name: str) -> Any:
        """The card of a model. Raises BadRequest that names those there are."""
        if name not in self._cards:
            raise BadRequest(
                f"there is no model '{name[:200]}' here; the models are: {', '.join(self._cards)}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return self._cards[name]

    def adapter(self, name: str) -> str:
        """What SamplingParams call the model: the base has no name there."""
        self.find(name)
        return "" if name == self.base else name


def create_app(
    chat: Chat,
    model_name: str,
    *,
    complete: Complete | None = None,
    guide: Callable[[Rules], Guide] | None = None,
    guide_tools: bool = False,
    adapters: Adapters | None = None,
    adapter_names: Iterable[str] = (),
    see: See | None = None,
    defaults: SamplingParams | None = None,
    api_key: str | None = None,
    owned_by: str = "swift",
    limits: Limits = LIMITS,
) -> FastAPI:
    """The app that serves `chat` as `model_name`.

    `complete` None: there is no /v1/completions. `guide` makes what holds replies to a schema or to calls that fit;
    None refuses such requests; `guide_tools` asks for it wherever tools are offered. `adapter_names` are those that
    `adapters` has. `see` None: messages with images are refused. `defaults` holds where a request is silent, `stop`
    included; its seed starts the sequence of seeds that silent requests get, so a server's run can be repeated. No
    interactive docs: they would load foreign scripts.
    """
    app = FastAPI(title="swift", docs_url=None, redoc_url=None, openapi_url=None)
    counter = Counter(limits.queue)
    metrics = Metrics(counter)
    app.add_middleware(_RequestLog, metrics=metrics)
    _tell_errors(app)
    models = Models(model_name, owned_by, adapter_names)
    changing = asyncio.Lock()  # adapters, one at a time
    silent = defaults or SamplingParams()
    seeds = random.Random(silent.seed)

    async def read(request: Request, shape: type[requests.Body]) -> requests.Body:
        _check_key(request, api_key)
        return requests.read(shape, await _body(request, limits))

    def drawn(body: requests.ChatRequest | requests.TextRequest) -> SamplingParams:
        seeded = replace(silent, seed=seeds.getrandbits(63), adapter=models.adapter(body.model))
        return body.params(seeded)

    async def answer(
        request: Request,
        starts: Sequence[Drawn],
        params: SamplingParams,
        reply: Reply,
    ) -> _Answer:
        """Starts `n` choices a prompt, each with a seed of its own, and waits for a sign that they can be answered."""
        drawn = [partial(start, _reseeded(params, index)) for index, start in enumerate(starts)]
        if len(drawn) > limits.queue:
            raise BadRequest(f"n: {len(drawn)} replies in one request; at most {limits.queue} can wait", param="n")
        return await _begin(request, drawn, counter, reply)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def figures() -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return _json(json.dumps(document.openapi()))

    @app.get("/v1/models")
    async def list_models(request: Request) -> Response:
        _check_key(request, api_key)
        return _json(answers.model_list(list(models)))

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        _check_key(request, api_key)
        return _json(answers.as_json(models.find(name)))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = await read(request, requests.ChatRequest)
        params, tools = drawn(body), body.offered
        messages = await _seen(see, body.dialogue)
        if rules := body.rules(guide_tools and guide is not None):
            params = replace(params, guide=await _guided(guide, rules))
        asked = answers.Asked(body.model, body.include_usage, body.choices, 1, body.told)
        starts = [partial(chat, messages, tools)] * body.choices
        replies = await answer(request, starts, params, answers.ChatReply(asked))
        return await replies.response(bool(body.stream))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await read(request, requests.TextRequest)
        params = drawn(body)
        if complete is None:
            raise BadRequest("this server only chats: use /v1/chat/completions", status=404)
        asked = answers.Asked(body.model, body.include_usage, body.choices, len(body.prompt), body.told)
        starts = [partial(complete, prompt) for prompt in body.prompt for _ in range(body.choices)]
        replies = await answer(request, starts, params, answers.TextReply(asked))
        return await replies.response(bool(body.stream))

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        _check_key(request, api_key)
        raise BadRequest("embeddings are not offered: this server generates text", status=404, code="not_offered")

    @app.post("/v1/load_lora_adapter")
    async def load_adapter(request: Request) -> Response:
        host = _adapter_host(adapters, api_key)
        body = await read(request, requests.LoadRequest)
        async with changing:
            if body.lora_name in models:
                raise BadRequest(f"lora_name: there is a model '{body.lora_name}' already", param="lora_name")
            try:
                await run_in_threadpool(host.add_adapter, body.lora_name, body.lora_path)
            except (ValueError, OSError) as error:
                raise BadRequest(f"lora_path: {error}", param="lora_path") from error
            models.add(body.lora_name)
        return Response(f"Success: LoRA adapter '{body.lora_name}' added successfully.", media_type="text/plain")

    @app.post("/v1/unload_lora_adapter")
    async def unload_adapter(request: Request) -> Response:
        host = _adapter_host(adapters, api_key)
        body = await read(request, requests.UnloadRequest)
        async with changing:
            if not models.adapter(body.lora_name):
                raise BadRequest(f"lora_name: '{body.lora_name}' is the base model", param="lora_name")
            models.remove(body.lora_name)  # first, so that no new request asks for it
            await run_in_threadpool(host.remove_adapter, body.lora_name)
        return Response(f"Success: LoRA adapter '{body.lora_name}' removed successfully.", media_type="text/plain")

    return app


async def _seen(see: See | None, messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """The messages with their images read, on a thread: fetching may take long."""
    if not any(message.images for message in messages):
        return messages
    if see is None:
        raise BadRequest("messages: this model takes no images", param="messages")
    try:
        return await run_in_threadpool(see, messages)
    except ValueError as error:
        raise BadRequest(f"messages: {error}", param="messages") from error


def _adapter_host(adapters: Adapters | None, api_key: str | None) -> Adapters:
    if adapters is None:
        raise BadRequest("this model takes no adapters", status=404)
    if api_key is None:
        raise BadRequest("adapters are only changed behind a key: start the server with --api_key", status=403)
    return adapters


async def _guided(guide: Callable[[Rules], Guide] | None, rules: Rules) -> Guide:
    what, param = ("tool_choice", "tool_choice") if rules.tools else ("response_format", "response_format")
    if guide is None:
        raise BadRequest(f"{what}: this server cannot hold replies to it", param=param)
    try:
        return await run_in_threadpool(guide, rules)
    except ValueError as error:
        raise BadRequest(f"{what}: {error}", param=param) from error


def _reseeded(params: SamplingParams, index: int) -> SamplingParams:
    assert params.seed is not None
    seed = params.seed + index
    return replace(params, seed=seed if seed < 2**63 else seed - 2**64) if index else params


async def _begin(request: Request, starts: Sequence[Start], counter: Counter, reply: Reply) -> _Answer:
    """Waits for the first delta, so that what cannot be answered is refused with a status."""
    replies = Replies(starts, counter)
    try:
        async with _watched(request, replies):
            answer = _Answer(request, replies, reply, await replies.read())
    except ValueError as error:
        replies.stop()
        raise BadRequest(str(error)) from error
    except BaseException:
        replies.stop()
        raise
    request.state.answer = answer  # for the log
    return answer


class _Answer:
    """A reply that has begun, and how it goes out: in one piece, or as server-sent events while it is made."""

    def __init__(self, request: Request, replies: Replies, reply: Reply, first: Sequence[tuple[int, Any]]) -> None:
        self._request, self._replies, self._first = request, replies, first
        self.reply = reply

    @property
    def first_delta(self) -> float | None:
        return self._replies.first_delta

    async def response(self, stream: bool) -> Response:
        return _EventStream(self) if stream else await self._whole()

    async def _whole(self) -> Response:
        try:
            async with _watched(self._request, self._replies):
                deltas = self._first
                while deltas:
                    for index, delta in deltas:
                        self.reply.add(index, delta)
                    deltas = await self._replies.read()
            if self._replies.stopped:
                return Response(status_code=GONE)
        finally:
            self._replies.stop()
        return _json(answers.as_json(self.reply.whole()))

    async def send(self, send: Send) -> None:
        """What has come since the last event goes out in one write: a slow reader gets fewer and larger ones."""
        try:
            async with _watched(self._request, self._replies):
                async for text in self._events():
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._replies.stop()

    async def _events(self) -> AsyncIterator[str]:
        deltas = self._first
        begun = self.reply.start()
        while deltas:
            yield _told([*begun, *(event for index, delta in deltas for event in self.reply.add(index, delta))])
            begun = []
            try:
                deltas = await self._replies.read()
            except Exception:  # the status is sent: what went wrong can only be told as an event
                log.exception("a stream broke")
                yield _event(answers.error_json("the reply broke off; the server's log says how", 500))
                return
        if not self._replies.stopped:
            yield _told(self.reply.end()) + _event("[DONE]")


class _EventStream(Response):
    def __init__(self, answer: _Answer) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._answer.send(send)


@asynccontextmanager
async def _watched(request: Request, replies: Replies) -> AsyncIterator[None]:
    """Stops the replies as soon as the client is gone; the body has been read, so nothing else can arrive."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        replies.stop()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def _told(events: Iterable[Any]) -> str:
    return "".join(_event(answers.as_json(event)) for event in events)


def _event(data: str) -> str:
    return f"data: {data}\n\n"


def _json(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(text, status, headers, "application/json")


async def _body(request: Request, limits: Limits) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        with fail_after(limits.patience):
            async for part in request.stream():
                size += len(part)
                if size > limits.body:
                    raise BadRequest(f"the body is longer than {limits.body} bytes", status=413)
                parts.append(part)
    except TimeoutError:
        raise BadRequest(f"the body did not arrive within {limits.patience:g} seconds", status=408) from None
    return b"".join(parts)


def _check_key(request: Request, api_key: str | None) -> None:
    if api_key is None:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # Header bytes arrive as Latin-1. compare_digest takes the same time wherever the first difference is.
    right = hmac.compare_digest(given.strip().encode("latin-1"), api_key.encode())
    if scheme.lower() != "bearer" or not right:
        what = "incorrect API key" if given else "no API key: send it as 'Authorization: Bearer KEY'"
        raise BadRequest(what, status=401, code="invalid_api_key")


def _tell_errors(app: FastAPI) -> None:
    """Every error leaves in OpenAI's shape."""

    @app.exception_handler(BadRequest)
    async def refused(request: Request, error: BadRequest) -> Response:
        # A body that is not read to its end cannot be followed by another request.
        closing = {"Connection": "close"} if error.status in (408, 413) else None
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else closing
        text = answers.error_json(str(error), error.status, param=error.param, code=error.code)
        return _json(text, error.status, headers)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        text = answers.error_json("the server is busy: try again", 429, code="rate_limit_exceeded")
        return _json(text, 429, {"Retry-After": RETRY_AFTER})

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        what = {404: "there is nothing at", 405: "this method is not allowed at"}.get(error.status_code, error.detail)
        text = answers.error_json(f"{what} {request.url.path} ({request.method})", error.status_code)
        return _json(text, error.status_code, dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _json(answers.error_json("the server failed; its log says how", 500), 500)


class _RequestLog:
    """One line a request: what was asked, how it went, what it cost. Never a header, so never a key."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

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
            self._tell(scope, status, started, state.get("answer"))

    def _tell(self, scope: Scope, status: int, started: float, answer: _Answer | None) -> None:
        seconds = time.perf_counter() - started
        route = scope.get("route")
        self._metrics.request(route.path if route else "none", status, seconds)
        told: dict[str, Any] = {"method": scope["method"], "path": quote(scope["path"]), "status": status}
        told["seconds"] = round(seconds, 3)
        line = f"{told['method']} {told['path']} {status} {seconds:.2f}s"
        if answer is not None:
            reply = answer.reply
            prompt, completion = reply.usage
            told |= {"prompt_tokens": prompt, "completion_tokens": completion, "finish": reply.finish}
            line += f" {prompt}+{completion} tokens, {reply.finish}"
            if answer.first_delta:
                first = answer.first_delta - started
                told["first_token_seconds"] = round(first, 3)
                self._metrics.reply(prompt, completion, first, seconds - first, reply.longest)
        log.info("%s", line, extra={"told": told})


class JsonLines(logging.Formatter):
    """Each log record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        # What logging adds by `extra` is an attribute, there or not.
        told |= getattr(record, "told", None) or {"message": record.getMessage()}
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)
