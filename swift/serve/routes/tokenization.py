"""POST /tokenize and /detokenize. Knows no tokenizer and no chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from swift.chat import Message, Tool
from swift.serve.bad_request import BadRequest, invalid
from swift.serve.chat_service import ChatService
from swift.serve.formats.tokenize_request import DetokenizeRequest, TokenizeRequest
from swift.serve.formats.tokenize_response import DetokenizeResponse, TokenizeResponse
from swift.serve.reply_response import json_response


class Tokenization(Protocol):
    """What swift.infer.prompt_tokens does."""

    @property
    def context(self) -> int | None: ...
    def of_text(self, text: str, special: bool = True) -> list[int]: ...
    def of_dialogue(
        self, messages: Sequence[Message], tools: Sequence[Tool], template_kwargs: Mapping[str, Any], opens: bool
    ) -> list[int]: ...
    def strings(self, tokens: Sequence[int]) -> list[str]: ...
    def text(self, tokens: Sequence[int]) -> str: ...


def add_tokenization_routes(app: FastAPI, chats: ChatService, tokenization: Tokenization | None) -> None:
    """`tokenization` None: the routes refuse every request."""
    service = chats.service

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = await service.read(request, TokenizeRequest)
        known = _known(tokenization)
        if body.model is not None:
            service.models.find(body.model)
        if body.messages is None:
            tokens = await run_in_threadpool(known.of_text, body.prompt or "", body.add_special_tokens is not False)
        else:
            messages = await chats.with_images(body.dialogue, "messages")
            given = messages, body.described, body.template_kwargs, body.opens_reply
            try:
                tokens = await run_in_threadpool(known.of_dialogue, *given)
            except ValueError as error:
                raise invalid("messages", str(error)) from error
        strings = known.strings(tokens) if body.return_token_strs else None
        response = TokenizeResponse(count=len(tokens), max_model_len=known.context, tokens=tokens, token_strs=strings)
        return json_response(response.model_dump_json())

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        body = await service.read(request, DetokenizeRequest)
        known = _known(tokenization)
        if body.model is not None:
            service.models.find(body.model)
        try:
            text = await run_in_threadpool(known.text, body.tokens)
        except ValueError as error:
            raise BadRequest(f"tokens{error}", param="tokens") from error
        return json_response(DetokenizeResponse(prompt=text).model_dump_json())


def _known(tokenization: Tokenization | None) -> Tokenization:
    if tokenization is None:
        raise BadRequest("tokenization is not offered by this server", status=404, code="not_offered")
    return tokenization
