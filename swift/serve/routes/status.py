"""Routes about the server itself: index page, health, version, metrics, OpenAPI document."""

from __future__ import annotations

import json
from importlib.metadata import version

from fastapi import FastAPI, Request, Response

from swift.serve import index_page, openapi
from swift.serve.formats.tokenize_response import VersionResponse
from swift.serve.metrics import CONTENT_TYPE, Metrics
from swift.serve.reply_response import json_response

GET = ["GET", "HEAD"]


def add_status_routes(app: FastAPI, metrics: Metrics) -> None:
    @app.api_route("/", methods=GET)
    async def index(request: Request) -> Response:
        return index_page.page("text/html" in request.headers.get("Accept", ""))

    @app.api_route("/health", methods=GET)
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.api_route("/version", methods=GET)
    async def its_version() -> Response:
        return json_response(VersionResponse(version=version("swift-agents")).model_dump_json())

    @app.api_route("/metrics", methods=GET)
    async def prometheus() -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @app.api_route("/openapi.json", methods=GET)
    async def document() -> Response:
        return json_response(json.dumps(openapi.openapi()))
