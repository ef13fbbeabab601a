"""Sends a reply, complete or as server-sent events. Knows no JSON shape and no model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from swift.engine.sampling import TooLong
from swift.serve.bad_request import BadRequest
from swift.serve.reply_threads import ReplyCounter, ReplyThreads, Start
from swift.serve.response_builder import ResponseBuilder, as_json

log = logging.getLogger("swift.serve")

CLIENT_CLOSED = 499  # nginx's status for a client that disconnected; it is only logged
USAGE_TIMEOUT = 2.0
"""Seconds to wait for the token counts of a reply whose client disconnected."""


async def start_reply(
    request: Request, starts: Sequence[Start], counter: ReplyCounter, builder: ResponseBuilder
) -> ReplyResponse:
    """Starts the choices and waits for the first delta, so that a refusal still gets its own status.

    Raises BadRequest for what the chat refuses with a ValueError, TooLong for a prompt that is too long.
    """
    replies = ReplyThreads(starts, counter)
    try:
        async with _stopped_on_disconnect(request, replies):
            reply = ReplyResponse(request, replies, builder, await replies.read())
    except TooLong:
        replies.stop()
        raise
    except ValueError as error:
        replies.stop()
        raise BadRequest(str(error)) from error
    except BaseException:
        replies.stop()
        raise
    request.state.reply = reply  # for the request log
    return reply


class ReplyResponse:
    """A reply that has begun; it is sent complete or as server-sent events."""

    def __init__(
        self, request: Request, replies: ReplyThreads, builder: ResponseBuilder, first: Sequence[tuple[int, Any]]
    ) -> None:
        self._request, self._replies, self._first = request, replies, first
        self.builder = builder
        self.disconnected = False
        """Whether the client disconnected before the end of the reply."""

    @property
    def first_delta(self) -> float | None:
        return self._replies.first_delta

    async def _count_usage(self) -> None:
        """Collects the token counts of a reply whose client disconnected; they come with the model's next step."""
        self.disconnected = True
        for index, delta in await self._replies.rest(USAGE_TIMEOUT):
            self.builder.add(index, delta)

    async def response(self, stream: bool) -> Response:
        return _EventStream(self) if stream else await self._complete()

    async def _complete(self) -> Response:
        try:
            async with _stopped_on_disconnect(self._request, self._replies):
                deltas = self._first
                while deltas:
                    for index, delta in deltas:
                        self.builder.add(index, delta)
                    deltas = await self._replies.read()
            if self._replies.stopped:
                await self._count_usage()
                return Response(status_code=CLIENT_CLOSED)
        finally:
            self._replies.stop()
        return json_response(as_json(self.builder.response()))

    async def send(self, send: Send) -> None:
        """Sends the events. Deltas since the last write are sent together: slow clients get fewer, larger writes."""
        try:
            async with _stopped_on_disconnect(self._request, self._replies):
                async for text in self._events():
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            if self._replies.stopped:
                await self._count_usage()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._replies.stop()

    async def _events(self) -> AsyncIterator[str]:
        deltas = self._first
        opening = self.builder.start()
        while deltas:
            events = [*opening, *(event for index, delta in deltas for event in self.builder.add(index, delta))]
            yield "".join(map(self.builder.frame, events))
            opening = []
            try:
                deltas = await self._replies.read()
            except Exception:  # the status has been sent: only an event can report the error
                log.exception("a stream failed")
                yield self.builder.failed("internal server error during the reply: the server's log has the details")
                return
        if not self._replies.stopped:
            yield self.builder.end()


class _EventStream(Response):
    def __init__(self, reply: ReplyResponse) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._reply.send(send)


@asynccontextmanager
async def _stopped_on_disconnect(request: Request, replies: ReplyThreads) -> AsyncIterator[None]:
    """Cancels the replies when the client disconnects. The body has been read, so no other message can arrive."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        replies.stop()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def json_response(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(text, status, headers, "application/json")
