"""How a reply goes out: in one piece, or as server-sent events while it is made. Knows no JSON shape and no model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from swift.engine.sampling import TooLong
from swift.serve import response_bodies
from swift.serve.bad_request import BadRequest
from swift.serve.reply_threads import ReplyCounter, ReplyThreads, Start
from swift.serve.response_bodies import Reply

log = logging.getLogger("swift.serve")

GONE = 499  # nginx's number for a client that left; it is only ever logged
LEAVING = 2.0
"""Seconds that are waited for the number of tokens of a reply whose client left."""


async def begin(request: Request, starts: Sequence[Start], counter: ReplyCounter, reply: Reply) -> ReplyResponse:
    """Waits for the first delta, so that what cannot be answered is refused with a status. Raises TooLong too."""
    replies = ReplyThreads(starts, counter)
    try:
        async with _watched(request, replies):
            answer = ReplyResponse(request, replies, reply, await replies.read())
    except TooLong:
        replies.stop()
        raise
    except ValueError as error:
        replies.stop()
        raise BadRequest(str(error)) from error
    except BaseException:
        replies.stop()
        raise
    request.state.answer = answer  # for the log
    return answer


class ReplyResponse:
    """A reply that has begun, and how it goes out: in one piece, or as server-sent events while it is made."""

    def __init__(self, request: Request, replies: ReplyThreads, reply: Reply, first: Sequence[tuple[int, Any]]) -> None:
        self._request, self._replies, self._first = request, replies, first
        self.reply = reply
        self.left = False
        """Whether the client left before the reply's end."""

    @property
    def first_delta(self) -> float | None:
        return self._replies.first_delta

    async def _count(self) -> None:
        """What the reply cost until its client left; the model says it with its next step."""
        self.left = True
        for index, delta in await self._replies.rest(LEAVING):
            self.reply.add(index, delta)

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
                await self._count()
                return Response(status_code=GONE)
        finally:
            self._replies.stop()
        return json_response(response_bodies.as_json(self.reply.whole()))

    async def send(self, send: Send) -> None:
        """What has come since the last event goes out in one write: a slow reader gets fewer and larger ones."""
        try:
            async with _watched(self._request, self._replies):
                async for text in self._events():
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            if self._replies.stopped:
                await self._count()
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
            except Exception:  # the status is sent: what went invalid can only be told as an event
                log.exception("a stream broke")
                yield _event(response_bodies.error_json("the reply broke off; the server's log says how", 500))
                return
        if not self._replies.stopped:
            yield _told(self.reply.end()) + _event("[DONE]")


class _EventStream(Response):
    def __init__(self, answer: ReplyResponse) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._answer.send(send)


@asynccontextmanager
async def _watched(request: Request, replies: ReplyThreads) -> AsyncIterator[None]:
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
    return "".join(_event(response_bodies.as_json(event)) for event in events)


def _event(data: str) -> str:
    return f"data: {data}\n\n"


def json_response(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(text, status, headers, "application/json")
