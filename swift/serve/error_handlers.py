"""Turns every exception into an error response, in the shape of the route's API. Knows no route."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swift.engine.interface import Busy
from swift.serve.bad_request import BadRequest
from swift.serve.error_bodies import REQUEST_ID, anthropic_error, is_anthropic, new_request_id, openai_error
from swift.serve.reply_response import CLIENT_CLOSED, json_response
from swift.system.nearest import closest

RETRY_AFTER = "1"  # seconds


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(BadRequest)
    async def bad_request(request: Request, error: BadRequest) -> Response:
        # A connection whose body was not read to its end cannot carry another request.
        closing = {"Connection": "close"} if error.status in (408, 413, 415) else {}
        headers = {401: {"WWW-Authenticate": "Bearer"}, 415: {"Accept-Encoding": "gzip, deflate", **closing}}
        sent = headers.get(error.status, closing)
        return _response(request, str(error), error.status, sent, param=error.param, code=error.code)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        message, wait = "the server is busy: try again later", {"Retry-After": RETRY_AFTER}
        return _response(request, message, 429, wait, code="rate_limit_exceeded")

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        what = {404: "no such route:", 405: "method not allowed:"}.get(error.status_code, error.detail)
        near = closest(request.url.path, _paths(app), 1) if error.status_code == 404 else []
        hint = f"; did you mean {near[0]}?" if near else ""
        message = f"{what} {request.url.path[:200]} ({request.method}){hint}"
        return _response(request, message, error.status_code, dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def disconnected(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED)


class InternalErrors:
    """ASGI middleware that answers a failure of the server with a 500, and raises it again for the log.

    Starlette's own handler runs outside of all middleware, where CORS adds no headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            if scope["type"] == "http" and not started:
                message = "internal server error: the server's log has the details"
                await _response(Request(scope), message, 500, {})(scope, receive, send)
            raise


def _response(
    request: Request,
    message: str,
    status: int,
    headers: dict[str, str],
    *,
    param: str | None = None,
    code: str | None = None,
) -> Response:
    if not is_anthropic(request.url.path):
        return json_response(openai_error(message, status, param=param, code=code), status, headers)
    request_id = new_request_id()
    body = anthropic_error(message, status, request_id, code)
    return json_response(body, status, {**headers, REQUEST_ID: request_id})


def _paths(app: FastAPI) -> list[str]:
    return [route.path for route in app.routes if isinstance(route, Route) and "{" not in route.path]
