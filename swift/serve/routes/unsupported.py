"""Routes of OpenAI's API that this server does not implement: each answers 404 and names the alternative."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from swift.serve.api_keys import ApiKeys
from swift.serve.bad_request import BadRequest


def add_unsupported_routes(app: FastAPI, api_keys: ApiKeys) -> None:
    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        api_keys.check(request)
        raise BadRequest("embeddings are not offered: this server generates text", status=404, code="not_offered")
