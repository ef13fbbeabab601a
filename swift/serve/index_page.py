"""The page at the server's root, as JSON for programs and as HTML for browsers. Knows no model."""

from __future__ import annotations

import json
from html import escape

from fastapi import Response

WHAT = "swift: a language model behind OpenAI's API: chat completions, responses, completions"
USE = "point an OpenAI client at /v1 of this address"
ROUTES = {
    "/v1/models": "the served models",
    "/v1/chat/completions": "chat (POST)",
    "/v1/responses": "responses, which are stored (POST)",
    "/v1/completions": "text completion (POST)",
    "/v1/messages": "chat in Anthropic's format (POST)",
    "/tokenize": "the tokens of a text or of messages (POST)",
    "/detokenize": "the text of tokens (POST)",
    "/openapi.json": "all routes and fields",
    "/health": "whether the server is up",
    "/version": "the server's version",
    "/metrics": "Prometheus metrics",
}


def page(html: bool) -> Response:
    if not html:
        return Response(json.dumps({"what": WHAT, "use": USE, "routes": ROUTES}), media_type="application/json")
    rows = "".join(f'<li><a href="{path}">{path}</a>: {escape(what)}</li>' for path, what in ROUTES.items())
    return Response(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>swift</title><h1>swift</h1><p>{escape(WHAT)}. '
        f"To use it, {escape(USE)}.</p><ul>{rows}</ul></html>",
        media_type="text/html",
    )
