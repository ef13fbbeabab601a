"""The server's OpenAPI document. Knows the types of requests and responses, no route's code."""

from __future__ import annotations

from functools import cache
from typing import Any

from openai.types import Completion, Model
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from swift.serve.formats.adapter_requests import LoadRequest, UnloadRequest
from swift.serve.formats.chat_completions_request import ChatRequest
from swift.serve.formats.completions_request import TextRequest
from swift.serve.formats.messages_request import CountTokensRequest, MessagesRequest
from swift.serve.formats.messages_response import MessageResponse, TokenCount
from swift.serve.formats.responses_request import ResponsesRequest
from swift.serve.formats.tokenize_request import DetokenizeRequest, TokenizeRequest
from swift.serve.formats.tokenize_response import DetokenizeResponse, TokenizeResponse, VersionResponse

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
_MESSAGES_ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}
_CONFIDENCE = {
    "type": ["number", "null"],
    "minimum": 0,
    "maximum": 1,
    "description": "The probability that the model gives to this call; only if the request has x_confidence: true",
}
_DECLINED = {
    "type": "array",
    "items": {"$ref": "#/components/schemas/ChatCompletionMessageFunctionToolCall"},
    "description": "Calls below the minimum confidence, which the reply makes words of; only if the request has "
    "x_confidence: true",
}
_STATUSES = {
    400: "A field is missing, invalid or not supported; `param` names it",
    401: "The API key is missing or wrong",
    403: "Requires a server with an API key",
    404: "Unknown route or model",
    405: "Method not allowed",
    408: "The body did not arrive in time",
    413: "The body is too large or holds too many values",
    415: "The content encoding is not supported",
    429: "The queue is full; Retry-After has the seconds to wait",
}
_PAGE = [
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
    {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"]}},
    {"name": "after", "in": "query", "schema": {"type": "string"}},
]
_MODELS: tuple[type[BaseModel], ...] = (
    ChatRequest,
    ResponsesRequest,
    TextRequest,
    MessagesRequest,
    CountTokensRequest,
    TokenizeRequest,
    DetokenizeRequest,
    LoadRequest,
    UnloadRequest,
)
_RESPONSES: tuple[type[BaseModel], ...] = (
    ChatCompletion,
    Response,
    Completion,
    MessageResponse,
    InputTokenCountResponse,
    TokenCount,
    TokenizeResponse,
    DetokenizeResponse,
    VersionResponse,
    Model,
)


@cache
def openapi() -> dict[str, Any]:
    """OpenAPI 3.1; the schemas are generated from the types that parse requests and write responses."""
    template = "#/components/schemas/{model}"
    requests: list[tuple[type[BaseModel], JsonSchemaMode]] = [(each, "validation") for each in _MODELS]
    responses: list[tuple[type[BaseModel], JsonSchemaMode]] = [(each, "serialization") for each in _RESPONSES]
    _, models = models_json_schema([*requests, *responses], ref_template=template)
    schemas = {**models["$defs"], "Error": _ERROR, "MessagesError": _MESSAGES_ERROR}
    schemas["ChatCompletionMessageFunctionToolCall"]["properties"]["x_confidence"] = _CONFIDENCE
    schemas["ChatCompletionMessage"]["properties"]["x_declined_calls"] = _DECLINED
    chat, text, message = _ref("ChatCompletion"), _ref("Completion"), _ref("MessageResponse")
    stored = {"parameters": [_path("response_id")]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "swift", "version": "1", "description": "OpenAI's and Anthropic's APIs"},
        "security": [{}, {"key": []}, {"x-api-key": []}],
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "paths": {
            "/": {"get": _operation("Index page", _json({"type": "object"}) | {"text/html": {}})},
            "/health": {"get": _operation("Health check", _json({"type": "object"}))},
            "/metrics": {"get": _operation("Prometheus metrics", {"text/plain": {}})},
            "/v1/models": {"get": _operation("List the base model and its adapters", _json({"type": "object"}), 401)},
            "/v1/models/{name}": {
                "get": _operation("Describe one model", _json(_ref("Model")), 401, 404)
                | {"parameters": [_path("name")]}
            },
            "/v1/chat/completions": {
                "post": _posted(
                    "Generate a reply to messages", "ChatRequest", _json(chat) | {"text/event-stream": {}}, 404, 429
                )
            },
            "/v1/responses": {
                "post": _posted(
                    "Generate a response to items",
                    "ResponsesRequest",
                    _json(_ref("Response")) | {"text/event-stream": {}},
                    404,
                    429,
                )
            },
            "/v1/responses/input_tokens": {
                "post": _posted(
                    "Count the tokens of a prompt", "ResponsesRequest", _json(_ref("InputTokenCountResponse")), 404
                )
            },
            "/v1/responses/{response_id}": {
                "get": _operation("A stored response", _json(_ref("Response")), 400, 401, 404) | stored,
                "delete": _operation("Delete a stored response", _json({"type": "object"}), 401, 404) | stored,
            },
            "/v1/responses/{response_id}/cancel": {
                "post": _operation("Refused: no response runs in the background", {}, 400, 401, 404) | stored
            },
            "/v1/responses/{response_id}/input_items": {
                "get": _operation("The items that it answered", _json({"type": "object"}), 400, 401, 404)
                | {"parameters": [*stored["parameters"], *_PAGE]}
            },
            "/v1/completions": {
                "post": _posted("Continue a text", "TextRequest", _json(text) | {"text/event-stream": {}}, 404, 429)
            },
            "/v1/messages": {
                "post": _posted(
                    "Generate a reply to messages (Anthropic's API)",
                    "MessagesRequest",
                    _json(message) | {"text/event-stream": {}},
                    404,
                    429,
                    error="MessagesError",
                )
            },
            "/v1/messages/count_tokens": {
                "post": _posted(
                    "Count the tokens of a prompt (Anthropic's API)",
                    "CountTokensRequest",
                    _json(_ref("TokenCount")),
                    404,
                    error="MessagesError",
                )
            },
            "/tokenize": {
                "post": _posted("Count and list the tokens", "TokenizeRequest", _json(_ref("TokenizeResponse")), 404)
            },
            "/detokenize": {
                "post": _posted("The text of tokens", "DetokenizeRequest", _json(_ref("DetokenizeResponse")), 404)
            },
            "/version": {"get": _operation("The version of the server", _json(_ref("VersionResponse")))},
            "/v1/embeddings": {"post": _operation("Not offered", {}, 401, 404)},
            "/v1/load_lora_adapter": {
                "post": _posted("Load a LoRA adapter", "LoadRequest", {"text/plain": {}}, 403, 404)
            },
            "/v1/unload_lora_adapter": {
                "post": _posted("Unload a LoRA adapter", "UnloadRequest", {"text/plain": {}}, 403, 404)
            },
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _operation(summary: str, response: dict[str, Any], *statuses: int, error: str = "Error") -> dict[str, Any]:
    errors = {str(status): {"description": _STATUSES[status], "content": _json(_ref(error))} for status in statuses}
    return {"summary": summary, "responses": {"200": {"description": "The response", "content": response}, **errors}}


def _posted(summary: str, body: str, response: dict[str, Any], *statuses: int, error: str = "Error") -> dict[str, Any]:
    operation = _operation(summary, response, *sorted({400, 401, 408, 413, 415, *statuses}), error=error)
    return {**operation, "requestBody": {"required": True, "content": _json(_ref(body))}}
