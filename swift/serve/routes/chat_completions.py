"""POST /v1/chat/completions. Knows no model."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from swift.serve.chat_service import ChatService
from swift.serve.formats.chat_completions_request import ChatRequest
from swift.serve.formats.chat_completions_response import ChatCompletionBuilder
from swift.serve.formats.choice_builder import ResponseOptions


def add_chat_routes(app: FastAPI, service: ChatService) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body, inner = await service.read(request, ChatRequest, lambda body: body.inner)
        options = ResponseOptions(body.model, body.include_usage, body.choices, 1, body.alternatives, body.confidence)
        return await service.respond(request, inner, ChatCompletionBuilder(options))
