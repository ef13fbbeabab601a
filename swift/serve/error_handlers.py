"""Turns every exception into an error response in OpenAI's shape. Knows no route."""

from __future__ import annotations

from difflib import get_close_matches

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from swift.engine.interface import Busy
from swift.serve import response_bodies
from swift.serve.bad_request import BadRequest
from swift.serve.reply_response import CLIENT_CLOSED, json_response

RETRY_AFTER = "1"  # seconds


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(BadRequest)
    async def bad_request(request: Request, error: BadRequest) -> Response:
        # A connection whose body was not read to its end cannot carry another request.
        closing = {"Connection": "close"} if error.status in (408, 413, 415) else None
        headers = {401: {"WWW-Authenticate": "Bearer"}, 415: {"Accept-Encoding": "gzip, deflate", **(closing or {})}}
        text = response_bodies.error_json(str(error), error.status, param=error.param, code=error.code)
        return json_response(text, error.status, headers.get(error.status, closing))

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        text = response_bodies.error_json("the server is busy: try again later", 429, code="rate_limit_exceeded")
        return json_response(text, 429, {"Retry-After": RETRY_AFTER})

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        what = {404: "no such route:", 405: "method not allowed:"}.get(error.status_code, error.detail)
        near = get_close_matches(request.url.path, _paths(app), 1) if error.status_code == 404 else []
        hint = f"; did you mean {near[0]}?" if near else ""
        text = response_bodies.error_json(
            f"{what} {request.url.path[:200]} ({request.method}){hint}", error.status_code
        )
        return json_response(text, error.status_code, dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def disconnected(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        return json_response(
            response_bodies.error_json("internal server error: the server's log has the details", 500), 500
        )


def _paths(app: FastAPI) -> list[str]:
    return [route.path for route in app.routes if isinstance(route, Route) and "{" not in route.path]
