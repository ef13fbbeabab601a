"""POST /v1/chat/completions. Knows a Chat, not the model behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from swift.chat import Message
from swift.infer.chat import Chat
from swift.serve.bad_request import BadRequest
from swift.serve.request_bodies import ChatRequest
from swift.serve.response_bodies import ChatCompletionBuilder, ResponseOptions
from swift.serve.service import Service
from swift.serve.structured_outputs import CheckedChatBuilder, Guides

LoadImages = Callable[[Sequence[Message]], Sequence[Message]]
"""Fetches and opens the images of messages. Raises ValueError for one that cannot be read."""


def add_chat_routes(
    app: FastAPI,
    service: Service,
    chat: Chat,
    guides: Guides,
    guide_tools: bool,
    load_images: LoadImages | None,
    template_variables: Collection[str] | None,
) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = await service.read(request, ChatRequest)
        service.check_choices(body.choices)
        params = service.params(body)
        messages = await _with_images(body.dialogue, load_images)
        options = ResponseOptions(body.model, body.include_usage, body.choices, 1, body.alternatives, body.confidence)
        builder = ChatCompletionBuilder(options)
        if rules := body.rules(guide_tools):
            guide = await run_in_threadpool(guides.guide, rules, body)
            params, builder = replace(params, guide=guide), CheckedChatBuilder(options, rules, guide.unenforced)
        start = partial(chat, messages, body.offered_tools)
        if variables := body.template_kwargs:
            start = partial(start, template_kwargs=variables)
            if template_variables is not None:
                service.unknown_fields.warn_of_variables(variables, template_variables)
        starts = [start] * body.choices
        return await service.respond(request, starts, params, builder, stream=bool(body.stream), param="messages")


async def _with_images(messages: Sequence[Message], load_images: LoadImages | None) -> Sequence[Message]:
    """The messages with their images loaded, on a thread: fetching can take long."""
    if not any(message.images for message in messages):
        return messages
    if load_images is None:
        raise BadRequest("messages: this model does not accept images", param="messages")
    try:
        return await run_in_threadpool(load_images, messages)
    except ValueError as error:
        raise BadRequest(f"messages: {error}", param="messages") from error
