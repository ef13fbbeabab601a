"""The request log: one line per request, as text or JSON. Logs no header, and so no API key."""

from __future__ import annotations

import json
import logging
import time
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swift.serve.metrics import Metrics
from swift.serve.reply_response import CLIENT_CLOSED, ReplyResponse

log = logging.getLogger("swift.serve")


class RequestLog:
    """ASGI middleware that logs each request (route, status, duration, tokens) and counts it in the metrics."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        state: dict[str, Any] = scope.setdefault("state", {})
        started = time.perf_counter()
        status = CLIENT_CLOSED

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            status = 500
            raise
        finally:
            self._log(scope, status, started, state.get("reply"))

    def _log(self, scope: Scope, status: int, started: float, response: ReplyResponse | None) -> None:
        seconds = time.perf_counter() - started
        if response is not None and response.disconnected:  # a stream has sent status 200 before
            status = CLIENT_CLOSED
        route = scope.get("route")
        self._metrics.request(route.path if route else "none", status, seconds)
        fields: dict[str, Any] = {"method": scope["method"], "path": quote(scope["path"]), "status": status}
        fields["seconds"] = round(seconds, 3)
        line = f"{fields['method']} {fields['path']} {status} {seconds:.2f}s"
        if response is not None:
            reply = response.builder
            prompt, completion = reply.usage
            finish = ",".join(dict.fromkeys(draft.finish or "cancelled" for draft in reply.drafts))
            fields |= {"prompt_tokens": prompt, "completion_tokens": completion, "finish": finish}
            line += f" {prompt}+{completion} tokens, {finish}"
            if response.first_delta:
                first = response.first_delta - started
                fields["first_token_seconds"] = round(first, 3)
                self._metrics.reply(reply.usage, reply.drafts, first, seconds, response.disconnected)
        log.info("%s", line, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Each log record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        # Records of this server carry `fields` (logging's `extra`); others do not.
        fields |= getattr(record, "fields", None) or {"message": record.getMessage()}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
