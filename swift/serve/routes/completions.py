"""POST /v1/completions: continues texts or token ids. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from fastapi import FastAPI, Request, Response

from swift.chat import Delta, Usage
from swift.engine.sampling import SamplingParams
from swift.infer.chat import Deltas
from swift.serve.bad_request import BadRequest
from swift.serve.formats.choice_builder import ResponseOptions
from swift.serve.formats.completions_request import TextRequest
from swift.serve.formats.completions_response import CompletionBuilder
from swift.serve.service import Service

Complete = Callable[[str | Sequence[int], SamplingParams], Deltas]
"""Continues a text or token ids."""


def add_completion_routes(app: FastAPI, service: Service, complete: Complete | None) -> None:
    """`complete` None: the route refuses every request."""

    def checked(body: TextRequest) -> TextRequest:
        for texts in body.prompt_texts:
            service.check_length(texts, "prompt")
        return body

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await service.read_as(request, TextRequest, checked)
        params = body.params(service.seeded(body.model))
        if complete is None:
            raise BadRequest("completions are not supported by this server: use /v1/chat/completions", status=404)
        service.check_choices(len(body.prompt) * body.choices)
        generate: Complete = partial(_prefill_only, complete) if body.max_tokens == 0 else complete
        starts = [partial(generate, prompt) for prompt in body.prompt for _ in range(body.choices)]
        options = ResponseOptions(body.model, body.include_usage, body.choices, len(body.prompt), body.alternatives)
        builder = CompletionBuilder(options)
        return await service.respond(request, starts, params, builder, stream=bool(body.stream), param="prompt")


def _prefill_only(
    complete: Complete, prompt: str | Sequence[int], params: SamplingParams
) -> Generator[Delta, None, None]:
    """A reply of no tokens: the prompt is read, and the first sampled token is discarded."""
    usage = Usage(0, 0)
    with closing(complete(prompt, replace(params, max_tokens=1, logprobs=False))) as deltas:
        for delta in deltas:
            usage = delta.usage or usage
    yield Delta(finish="length", usage=Usage(usage.prompt_tokens, 0))
