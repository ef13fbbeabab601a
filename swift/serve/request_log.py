"""What the server's operator reads: a line a request, as text or JSON. Never a header, so never a key."""

from __future__ import annotations

import json
import logging
import time
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swift.serve.metrics import Metrics
from swift.serve.reply_response import GONE, ReplyResponse

log = logging.getLogger("swift.serve")


class RequestLog:
    """One line a request: what was asked, how it went, what it cost. Never a header, so never a key."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        state: dict[str, Any] = scope.setdefault("state", {})
        started = time.perf_counter()
        status = GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            self._tell(scope, status, started, state.get("answer"))

    def _tell(self, scope: Scope, status: int, started: float, answer: ReplyResponse | None) -> None:
        seconds = time.perf_counter() - started
        if answer is not None and answer.left:  # a stream's status was sent before
            status = GONE
        route = scope.get("route")
        self._metrics.request(route.path if route else "none", status, seconds)
        told: dict[str, Any] = {"method": scope["method"], "path": quote(scope["path"]), "status": status}
        told["seconds"] = round(seconds, 3)
        line = f"{told['method']} {told['path']} {status} {seconds:.2f}s"
        if answer is not None:
            reply = answer.reply
            prompt, completion = reply.usage
            told |= {"prompt_tokens": prompt, "completion_tokens": completion, "finish": reply.finish}
            line += f" {prompt}+{completion} tokens, {reply.finish}"
            if answer.first_delta:
                first = answer.first_delta - started
                told["first_token_seconds"] = round(first, 3)
                self._metrics.reply(prompt, completion, first, seconds - first, reply.longest)
        log.info("%s", line, extra={"fields": told})


class JsonLines(logging.Formatter):
    """Each log record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        # What logging adds by `extra` is an attribute, there or not.
        told |= getattr(record, "fields", None) or {"message": record.getMessage()}
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)
