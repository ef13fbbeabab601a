"""An HTTP app that answers as OpenAI's does: routes, streams, keys, limits. Knows no JSON shape and no model."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from swift.chat import Delta, Message, Usage
from swift.engine.sampling import SamplingParams, TooLong
from swift.guided.grammar import Rules
from swift.guided.guide import Guide
from swift.infer.chat import Chat, Deltas
from swift.serve import index_page, openapi, request_bodies, response_bodies
from swift.serve.api_keys import ApiKeys
from swift.serve.bad_request import BadRequest, too_long
from swift.serve.body_reader import LIMITS, Limits
from swift.serve.body_reader import body as read_body
from swift.serve.error_handlers import add_error_handlers
from swift.serve.metrics import CONTENT_TYPE, Metrics
from swift.serve.reply_response import ReplyResponse, begin, json_response
from swift.serve.reply_threads import ReplyCounter
from swift.serve.request_log import RequestLog
from swift.serve.response_bodies import Reply
from swift.serve.structured_outputs import CheckedChatBuilder, Guides
from swift.serve.unknown_fields import UnknownFields

Complete = Callable[[str | Sequence[int], SamplingParams], Deltas]
"""Who goes on with a plain text, or with tokens."""

Drawn = Callable[[SamplingParams], Deltas]
See = Callable[[Sequence[Message]], Sequence[Message]]
"""Who fetches and opens the images of messages. Raises ValueError for one that is none."""


Fits = Callable[[Sequence[str]], None]
"""Who knows whether a prompt that holds these texts can fit the context. Raises TooLong."""
Handler = TypeVar("Handler", bound=Callable[..., Any])
LONG = 1 << 16
"""Bytes of a body that is read on a thread."""


class Adapters(Protocol):
    """Who can answer with adapters beside the base model, as an engine does."""

    def add_adapter(self, name: str, folder: str) -> None: ...
    def remove_adapter(self, name: str) -> None: ...


class Models:
    """The base model and its adapters, by the names that requests give them."""

    def __init__(self, base: str, owned_by: str, adapters: Iterable[str] = ()) -> None:
        self.base, self._owned_by = base, owned_by
        self._cards = {base: response_bodies.card(base, owned_by)}
        for name in adapters:
            self.add(name)

    def add(self, name: str) -> None:
        self._cards[name] = response_bodies.card(name, self._owned_by, self.base)

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
    api_keys: Collection[str] = (),
    allow_origins: Sequence[str] = (),
    fits: Fits | None = None,
    variables: Collection[str] | None = None,
    owned_by: str = "swift",
    limits: Limits = LIMITS,
) -> FastAPI:
    """The app that serves `chat` as `model_name`.

    `complete` None: there is no /v1/completions. `guide` makes what holds replies to a schema or to calls that fit;
    None refuses such requests; `guide_tools` asks for it wherever tools are offered. `adapter_names` are those that
    `adapters` has. `fits` refuses texts that are too long before they are tokenised. `variables` are those that the
    chat template reads (None: not known); others are told in the log. `allow_origins`: the web pages that may ask, "*"
    for all. `see` None: messages with images are refused. `defaults` holds where a request is silent, `stop` included;
    its seed starts the sequence of seeds that silent requests get, so a server's run can be repeated. No interactive
    docs: they would load foreign scripts.
    """
    app = FastAPI(title="swift", docs_url=None, redoc_url=None, openapi_url=None)
    counter = ReplyCounter(limits.queue)
    metrics = Metrics(counter)
    if allow_origins:
        app.add_middleware(CORSMiddleware, allow_origins=allow_origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(RequestLog, metrics=metrics)
    add_error_handlers(app)
    keys, unknown = ApiKeys(api_keys), UnknownFields()
    models = Models(model_name, owned_by, adapter_names)
    guides = Guides(guide)
    changing = asyncio.Lock()  # adapters, one at a time
    silent = defaults or SamplingParams()
    seeds = random.Random(silent.seed)

    async def read(request: Request, shape: type[request_bodies.Body]) -> request_bodies.Body:
        keys.check(request)
        content = await read_body(request, limits)
        # A short one is read sooner than a thread is woken.
        return read_json(shape, content) if len(content) < LONG else await run_in_threadpool(read_json, shape, content)

    def read_json(shape: type[request_bodies.Body], content: bytes) -> request_bodies.Body:
        body = request_bodies.read(shape, content)
        unknown.look(body)
        if isinstance(body, (request_bodies.ChatRequest, request_bodies.TextRequest)) and fits is not None:
            _check_length(fits, body)
        return body

    def drawn(body: request_bodies.ChatRequest | request_bodies.TextRequest) -> SamplingParams:
        seeded = replace(silent, seed=seeds.getrandbits(63), adapter=models.adapter(body.model))
        return body.params(seeded)

    async def answer(
        request: Request,
        starts: Sequence[Drawn],
        params: SamplingParams,
        reply: Reply,
        param: str,
    ) -> ReplyResponse:
        """Starts `n` choices a prompt, each with a seed of its own, and waits for a sign that they can be answered."""
        drawn = [partial(start, _reseeded(params, index)) for index, start in enumerate(starts)]
        try:
            return await begin(request, drawn, counter, reply)
        except TooLong as error:
            raise too_long(error, param) from error

    def get(path: str) -> Callable[[Handler], Handler]:
        return app.api_route(path, methods=["GET", "HEAD"])

    def check_choices(replies: int) -> None:
        if replies > limits.queue:
            raise BadRequest(f"n: {replies} replies in one request; at most {limits.queue} can wait", param="n")

    @get("/")
    async def root(request: Request) -> Response:
        return index_page.page("text/html" in request.headers.get("Accept", ""))

    @get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @get("/metrics")
    async def figures() -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @get("/openapi.json")
    async def openapi_document() -> Response:
        return json_response(json.dumps(openapi.openapi()))

    @get("/v1/models")
    async def list_models(request: Request) -> Response:
        keys.check(request)
        return json_response(response_bodies.model_list(list(models)))

    @get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        keys.check(request)
        return json_response(response_bodies.as_json(models.find(name)))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = await read(request, request_bodies.ChatRequest)
        check_choices(body.choices)
        params, tools = drawn(body), body.offered
        messages = await _seen(see, body.dialogue)
        asked = response_bodies.ResponseOptions(body.model, body.include_usage, body.choices, 1, body.told)
        reply = response_bodies.ChatCompletionBuilder(asked)
        if rules := body.rules(guide_tools and guide is not None):
            held = await run_in_threadpool(guides.guide, rules, body)
            params, reply = replace(params, guide=held), CheckedChatBuilder(asked, rules, held.unenforced)
        start = partial(chat, messages, tools)
        if given := body.template_kwargs:
            start = partial(start, template_kwargs=given)
            unknown.look_at_variables(given, given if variables is None else variables)
        starts = [start] * body.choices
        replies = await answer(request, starts, params, reply, "messages")
        return await replies.response(bool(body.stream))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await read(request, request_bodies.TextRequest)
        params = drawn(body)
        if complete is None:
            raise BadRequest("this server only chats: use /v1/chat/completions", status=404)
        asked = response_bodies.ResponseOptions(
            body.model, body.include_usage, body.choices, len(body.prompt), body.told
        )
        check_choices(len(body.prompt) * body.choices)
        go_on: Complete = partial(_only_read, complete) if body.max_tokens == 0 else complete
        starts = [partial(go_on, prompt) for prompt in body.prompt for _ in range(body.choices)]
        replies = await answer(request, starts, params, response_bodies.CompletionBuilder(asked), "prompt")
        return await replies.response(bool(body.stream))

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        keys.check(request)
        raise BadRequest("embeddings are not offered: this server generates text", status=404, code="not_offered")

    @app.post("/v1/responses")
    async def responses(request: Request) -> Response:
        keys.check(request)
        raise BadRequest(
            "responses are not offered: use /v1/chat/completions, for which clients have a setting",
            status=404,
            code="not_offered",
        )

    @app.post("/v1/load_lora_adapter")
    async def load_adapter(request: Request) -> Response:
        host = _adapter_host(adapters, keys)
        body = await read(request, request_bodies.LoadRequest)
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
        host = _adapter_host(adapters, keys)
        body = await read(request, request_bodies.UnloadRequest)
        async with changing:
            if not models.adapter(body.lora_name):
                raise BadRequest(f"lora_name: '{body.lora_name}' is the base model", param="lora_name")
            models.remove(body.lora_name)  # first, so that no new request asks for it
            await run_in_threadpool(host.remove_adapter, body.lora_name)
        return Response(f"Success: LoRA adapter '{body.lora_name}' removed successfully.", media_type="text/plain")

    return app


async def _seen(see: See | None, messages: Sequence[Message]) -> Sequence[Message]:
    """The messages with their images read, on a thread: fetching may take long."""
    if not any(message.images for message in messages):
        return messages
    if see is None:
        raise BadRequest("messages: this model takes no images", param="messages")
    try:
        return await run_in_threadpool(see, messages)
    except ValueError as error:
        raise BadRequest(f"messages: {error}", param="messages") from error


def _check_length(fits: Fits, body: request_bodies.ChatRequest | request_bodies.TextRequest) -> None:
    try:
        for texts in body.texts:
            fits(texts)
    except TooLong as error:
        raise too_long(error, "messages" if isinstance(body, request_bodies.ChatRequest) else "prompt") from error


def _only_read(complete: Complete, prompt: str | Sequence[int], params: SamplingParams) -> Generator[Delta, None, None]:
    """A reply of no tokens: the prompt is read, and its first token thrown away."""
    usage = Usage(0, 0)
    with closing(complete(prompt, replace(params, max_tokens=1, logprobs=False))) as deltas:
        for delta in deltas:
            usage = delta.usage or usage
    yield Delta(finish="length", usage=Usage(usage.prompt_tokens, 0))


def _adapter_host(adapters: Adapters | None, keys: ApiKeys) -> Adapters:
    if adapters is None:
        raise BadRequest("this model takes no adapters", status=404)
    if not keys:
        raise BadRequest("adapters are only changed behind a key: start the server with --api_key", status=403)
    return adapters


def _reseeded(params: SamplingParams, index: int) -> SamplingParams:
    assert params.seed is not None
    seed = params.seed + index
    return replace(params, seed=seed if seed < 2**63 else seed - 2**64) if index else params
