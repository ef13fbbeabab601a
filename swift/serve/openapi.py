"""The server's OpenAPI document. Knows what requests and answers are made of, no route's code."""

from __future__ import annotations

from functools import cache
from typing import Any

from openai.types import Completion, Model
from openai.types.chat import ChatCompletion
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from swift.serve.request_bodies import ChatRequest, LoadRequest, TextRequest, UnloadRequest

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_STATUSES = {
    400: "A field is missing, wrong, or cannot be honoured; `param` names it",
    401: "No key, or not the right one",
    403: "Only behind a key",
    404: "No such route or model",
    405: "Another method",
    408: "The body did not arrive in time",
    413: "The body is too long, or holds too many values",
    415: "The body is packed in a way that is not known",
    429: "Too many replies wait; Retry-After says when to come back",
}
_MODELS: tuple[type[BaseModel], ...] = (ChatRequest, TextRequest, LoadRequest, UnloadRequest)
_ANSWERS: tuple[type[BaseModel], ...] = (ChatCompletion, Completion, Model)


@cache
def openapi() -> dict[str, Any]:
    """OpenAPI 3.1, its schemas made of the types that requests are read with and answers are written with."""
    template = "#/components/schemas/{model}"
    _, requests = models_json_schema([(each, "validation") for each in _MODELS], ref_template=template)
    _, answers = models_json_schema([(each, "serialization") for each in _ANSWERS], ref_template=template)
    schemas = {**answers["$defs"], **requests["$defs"], "Error": _ERROR}
    chat, text = _ref("ChatCompletion"), _ref("Completion")
    return {
        "openapi": "3.1.0",
        "info": {"title": "swift", "version": "1", "description": "OpenAI's chat completions and completions"},
        "security": [{}, {"key": []}],
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/": {"get": _operation("What this is", _json({"type": "object"}) | {"text/html": {}})},
            "/health": {"get": _operation("Whether the server is up", _json({"type": "object"}))},
            "/metrics": {"get": _operation("Figures for Prometheus", {"text/plain": {}})},
            "/v1/models": {"get": _operation("The base model and its adapters", _json({"type": "object"}), 401)},
            "/v1/models/{name}": {
                "get": _operation("One model", _json(_ref("Model")), 401, 404)
                | {"parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]}
            },
            "/v1/chat/completions": {
                "post": _posted("Answers messages", "ChatRequest", _json(chat) | {"text/event-stream": {}}, 404, 429)
            },
            "/v1/completions": {
                "post": _posted("Goes on with a text", "TextRequest", _json(text) | {"text/event-stream": {}}, 404, 429)
            },
            "/v1/embeddings": {"post": _operation("Not offered", {}, 401, 404)},
            "/v1/responses": {"post": _operation("Not offered", {}, 401, 404)},
            "/v1/load_lora_adapter": {"post": _posted("Adds an adapter", "LoadRequest", {"text/plain": {}}, 403, 404)},
            "/v1/unload_lora_adapter": {
                "post": _posted("Takes an adapter away", "UnloadRequest", {"text/plain": {}}, 403, 404)
            },
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _operation(summary: str, answer: dict[str, Any], *statuses: int) -> dict[str, Any]:
    errors = {str(status): {"description": _STATUSES[status], "content": _json(_ref("Error"))} for status in statuses}
    return {"summary": summary, "responses": {"200": {"description": "The answer", "content": answer}, **errors}}


def _posted(summary: str, body: str, answer: dict[str, Any], *statuses: int) -> dict[str, Any]:
    operation = _operation(summary, answer, *sorted({400, 401, 408, 413, 415, *statuses}))
    return {**operation, "requestBody": {"required": True, "content": _json(_ref(body))}}
