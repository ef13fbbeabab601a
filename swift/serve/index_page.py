"""What the server says of itself at its root, to programs and to people. Knows no model."""

from __future__ import annotations

import json
from html import escape

from fastapi import Response

WHAT = "swift: a language model behind OpenAI's chat completions and completions"
USE = "point a client of OpenAI's at /v1 of this address"
PLACES = {
    "/v1/models": "the models served",
    "/v1/chat/completions": "chat (POST)",
    "/v1/completions": "text that is gone on with (POST)",
    "/openapi.json": "every route and field",
    "/health": "whether the server is up",
    "/metrics": "figures for Prometheus",
}


def page(html: bool) -> Response:
    if not html:
        return Response(json.dumps({"what": WHAT, "use": USE, "routes": PLACES}), media_type="application/json")
    rows = "".join(f'<li><a href="{path}">{path}</a>: {escape(what)}</li>' for path, what in PLACES.items())
    return Response(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>swift</title><h1>swift</h1><p>{escape(WHAT)}. '
        f"To use it, {escape(USE)}.</p><ul>{rows}</ul></html>",
        media_type="text/html",
    )
