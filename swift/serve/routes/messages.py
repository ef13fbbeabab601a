"""Anthropic's POST /v1/messages and /v1/messages/count_tokens. Knows no model.

The headers `anthropic-version` and `anthropic-beta` change nothing and may be missing.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from swift.serve.chat_service import ChatService
from swift.serve.error_bodies import REQUEST_ID, new_request_id
from swift.serve.formats.messages_request import CountTokensRequest, MessagesRequest
from swift.serve.formats.messages_response import MessageBuilder, MessageOptions, TokenCount
from swift.serve.reply_response import json_response
from swift.serve.response_builder import as_json


def add_messages_routes(app: FastAPI, service: ChatService) -> None:
    @app.post("/v1/messages")
    async def messages(request: Request) -> Response:
        body, inner = await service.read(request, MessagesRequest, lambda body: body.inner)
        eager = body.tool_names if service.guides_calls(inner) else body.eager_tools
        request_id, stops = new_request_id(), body.stop_sequences or ()
        options = MessageOptions(body.model, body.max_tokens, request_id, stops, body.omits_thinking, eager)
        return _with_id(await service.respond(request, inner, MessageBuilder(options)), request_id)

    @app.post("/v1/messages/count_tokens")
    async def count_tokens(request: Request) -> Response:
        # a prompt beyond the context is counted too: clients ask in order to shorten it
        inner = await service.service.read_as(request, CountTokensRequest, lambda body: body.inner)
        count = TokenCount(input_tokens=await service.count_tokens(inner))
        return _with_id(json_response(as_json(count)), new_request_id())


def _with_id(response: Response, request_id: str) -> Response:
    response.headers[REQUEST_ID] = request_id
    return response
