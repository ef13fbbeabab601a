"""The bodies of error responses: OpenAI's shape, and Anthropic's on its routes. Knows no exception."""

from __future__ import annotations

import json
import uuid

from openai.types.shared import ErrorObject

MESSAGES_PATH = "/v1/messages"
"""Paths that begin with it are Anthropic's."""
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
NO_THREADS = "thread_unsupported_request"
"""The code with which Anthropic's client goes on without a conversation that the server keeps."""
REQUEST_ID = "request-id"
"""The header with the id of a request, on Anthropic's routes."""


def is_anthropic(path: str) -> bool:
    return path == MESSAGES_PATH or path.startswith(f"{MESSAGES_PATH}/")


def new_request_id() -> str:
    return f"req_{uuid.uuid4().hex[:24]}"


def openai_error(message: str, status: int, *, param: str | None = None, code: str | None = None) -> str:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = ErrorObject(message=message, type=kind, param=param, code=code)
    return json.dumps({"error": error.model_dump(exclude_unset=True)}, ensure_ascii=False)


def anthropic_error(message: str, status: int, request_id: str, code: str | None = None) -> str:
    """`code`: one of Anthropic's is part of the body, OpenAI's are not."""
    kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    error: dict[str, object] = {"type": kind, "message": message}
    if code == NO_THREADS:
        error["details"] = {"error_code": code}
    return json.dumps({"type": "error", "error": error, "request_id": request_id}, ensure_ascii=False)
