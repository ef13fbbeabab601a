"""What the routes of one server share: API keys, models, limits, sampling defaults. Knows no route and no model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from swift.engine.sampling import SamplingParams, TooLong
from swift.infer.chat import Deltas
from swift.serve.api_keys import ApiKeys
from swift.serve.bad_request import BadRequest, context_length_exceeded
from swift.serve.body_reader import Limits, read_body
from swift.serve.formats.request_fields import RequestObject, parse
from swift.serve.reply_response import start_reply
from swift.serve.reply_threads import ReplyCounter
from swift.serve.response_builder import ResponseBuilder
from swift.serve.served_models import ServedModels
from swift.serve.unknown_fields import UnknownFields

CheckLength = Callable[[Sequence[str]], None]
"""Raises TooLong if no prompt that contains these texts fits the context."""

Body = TypeVar("Body", bound=RequestObject)
Made = TypeVar("Made")

StartReply = Callable[[SamplingParams], Deltas]

LARGE_BODY = 1 << 16
"""Bytes from which a body is parsed on a thread; a smaller one is parsed sooner than a thread wakes up."""


class Service:
    """One server's state. `defaults` applies where a request is silent; its seed starts the sequence of seeds of
    requests without one, so that a server's run can be repeated."""

    def __init__(
        self,
        models: ServedModels,
        api_keys: ApiKeys,
        limits: Limits,
        defaults: SamplingParams,
        check_length: CheckLength | None = None,
    ) -> None:
        self.models, self.api_keys = models, api_keys
        self.replies = ReplyCounter(limits.queue)
        self.unknown_fields = UnknownFields()
        self._limits, self._defaults, self._check_length = limits, defaults, check_length
        self._seeds = random.Random(defaults.seed)

    async def read(self, request: Request, shape: type[Body]) -> Body:
        """The request's body as `shape`. Raises BadRequest for a wrong key, a body over the limits or a wrong field."""
        return await self.read_as(request, shape, lambda body: body)

    async def read_as(self, request: Request, shape: type[Body], translate: Callable[[Body], Made]) -> Made:
        """What `translate` makes of the request's body, parsed as `shape`.

        Raises BadRequest for a wrong key, a body over the limits or a wrong field, and what `translate` raises.
        """
        self.api_keys.check(request)
        content = await read_body(request, self._limits)
        if len(content) < LARGE_BODY:
            return self._parse(shape, content, translate)
        return await run_in_threadpool(self._parse, shape, content, translate)

    def _parse(self, shape: type[Body], content: bytes, translate: Callable[[Body], Made]) -> Made:
        body = parse(shape, content)
        self.unknown_fields.warn(body)
        return translate(body)

    def check_length(self, texts: Sequence[str], param: str) -> None:
        """Raises BadRequest, about the field `param`, if no prompt that contains the texts fits the context."""
        if self._check_length is None:
            return
        try:
            self._check_length(texts)
        except TooLong as error:
            raise context_length_exceeded(error, param) from error

    @property
    def defaults(self) -> SamplingParams:
        """The sampling parameters of requests that set none."""
        return self._defaults

    def seeded(self, model: str) -> SamplingParams:
        """The defaults with the model's adapter and the next seed. Raises BadRequest for an unknown model."""
        adapter = self.models.adapter(model)
        return replace(self._defaults, seed=self._seeds.getrandbits(63), adapter=adapter)

    def check_choices(self, replies: int) -> None:
        """Raises BadRequest for a request with more replies than the queue can hold."""
        if replies > self._limits.queue:
            raise BadRequest(
                f"n: {replies} replies in one request; at most {self._limits.queue} can be queued", param="n"
            )

    async def respond(
        self,
        request: Request,
        starts: Sequence[StartReply],
        params: SamplingParams,
        builder: ResponseBuilder,
        *,
        stream: bool,
        param: str,
    ) -> Response:
        """Generates one choice for each of `starts`, each with its own seed, and answers whole or as a stream.

        `param`: the field that errors about the length of the prompt name.
        """
        seeded = [partial(start, _reseeded(params, index)) for index, start in enumerate(starts)]
        try:
            reply = await start_reply(request, seeded, self.replies, builder)
        except TooLong as error:
            raise context_length_exceeded(error, param) from error
        return await reply.response(stream)


def _reseeded(params: SamplingParams, index: int) -> SamplingParams:
    assert params.seed is not None
    seed = params.seed + index
    return replace(params, seed=seed if seed < 2**63 else seed - 2**64) if index else params
