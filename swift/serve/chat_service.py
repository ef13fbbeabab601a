"""Answers an InnerRequest: images, grammar, template variables, queue. Knows no wire format and no model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from swift.chat import Message, Tool
from swift.infer.chat import Chat
from swift.serve.bad_request import BadRequest
from swift.serve.formats.request_fields import RequestObject
from swift.serve.inner_request import InnerRequest
from swift.serve.response_builder import ResponseBuilder
from swift.serve.service import Service
from swift.serve.structured_outputs import CheckedBuilder, Guides

CountTokens = Callable[[Sequence[Message], Sequence[Tool], Mapping[str, Any] | None], int]
"""The number of tokens of a prompt: messages, tools, variables of the chat template. Raises ValueError."""

LoadImages = Callable[[Sequence[Message]], Sequence[Message]]
"""Fetches and opens the images of messages. Raises ValueError for one that cannot be read."""

Body = TypeVar("Body", bound=RequestObject)


class ChatService:
    """What the routes of all chat formats share. `service`: keys, models, limits and sampling defaults.

    Args:
        guide_tools: constrain calls to the offered tools in every request, not only in those that require it.
        load_images: None refuses messages with images.
        template_variables: variables that the chat template reads; requests that set others are logged. None: unknown.
        count_tokens: None: prompts cannot be counted.
    """

    def __init__(
        self,
        service: Service,
        chat: Chat,
        guides: Guides,
        guide_tools: bool,
        load_images: LoadImages | None,
        template_variables: Collection[str] | None,
        count_tokens: CountTokens | None = None,
    ) -> None:
        self.service = service
        self._chat, self._guides, self._guide_tools = chat, guides, guide_tools
        self._load_images, self._template_variables = load_images, template_variables
        self._count_tokens = count_tokens

    async def read(
        self, request: Request, shape: type[Body], translate: Callable[[Body], InnerRequest]
    ) -> tuple[Body, InnerRequest]:
        """The request's body as `shape` and as an InnerRequest.

        Raises BadRequest for a wrong key, a body over the limits, a wrong field, or a prompt that cannot fit the
        context.
        """

        def inner(body: Body) -> tuple[Body, InnerRequest]:
            return body, self.checked(translate(body))

        return await self.service.read_as(request, shape, inner)

    def checked(self, inner: InnerRequest) -> InnerRequest:
        """The same request. Raises BadRequest if its messages cannot fit the context."""
        self.service.check_length(inner.prompt_texts, inner.fields.messages)
        return inner

    async def respond(self, request: Request, inner: InnerRequest, builder: ResponseBuilder) -> Response:
        """Generates the replies and answers whole or as a stream."""
        self.service.check_choices(inner.replies)
        params = inner.params(self.service.seeded(inner.model))
        messages = await self.with_images(inner.messages, inner.fields.messages)
        if inner.choice.mode == "required" or inner.json_schema is not None:
            params = replace(params, min_confidence=0.0)  # there is nothing that the reply could be instead
        if rules := inner.rules(self._guide_tools):
            guide = await run_in_threadpool(self._guides.guide, rules, inner.fields)
            params = replace(params, guide=guide)
            builder = CheckedBuilder(builder, rules, guide.unenforced, inner.fields)
        start = partial(self._chat, messages, inner.offered_tools)
        if variables := self._variables(inner):
            start = partial(start, template_kwargs=variables)
        starts = [start] * inner.replies
        return await self.service.respond(
            request, starts, params, builder, stream=inner.stream, param=inner.fields.messages
        )

    async def count_tokens(self, inner: InnerRequest) -> int:
        """The number of tokens of the prompt with which `respond` would generate. Raises BadRequest as it does."""
        self.service.models.find(inner.model)
        if self._count_tokens is None:
            raise BadRequest("this server cannot count the tokens of a prompt", status=404)
        messages, variables = await self.with_images(inner.messages, inner.fields.messages), self._variables(inner)
        try:
            return await run_in_threadpool(self._count_tokens, messages, inner.offered_tools, variables)
        except ValueError as error:
            raise BadRequest(str(error)) from error

    def guides_calls(self, inner: InnerRequest) -> bool:
        """Whether a grammar constrains the calls of the reply: their arguments are JSON while they are generated."""
        rules = inner.rules(self._guide_tools)
        return rules is not None and bool(rules.tools)

    def _variables(self, inner: InnerRequest) -> Mapping[str, Any]:
        """The request's variables of the chat template; those that it does not read are logged."""
        if inner.template_kwargs and self._template_variables is not None:
            self.service.unknown_fields.warn_of_variables(inner.template_kwargs, self._template_variables)
        return inner.template_kwargs

    async def with_images(self, messages: Sequence[Message], field: str) -> Sequence[Message]:
        """The messages with their images loaded, on a thread: fetching can take long. `field`: theirs, for errors."""
        if not any(message.images for message in messages):
            return messages
        if self._load_images is None:
            raise BadRequest(f"{field}: this model does not accept images", param=field)
        try:
            return await run_in_threadpool(self._load_images, messages)
        except ValueError as error:
            raise BadRequest(f"{field}: {error}", param=field) from error
