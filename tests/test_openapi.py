"""The OpenAPI document describes the server: requests made from it never make the server fail."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import settings
from tiny import tiny_tokenizer

from swift.chat import Delta, Message, Tool, Usage
from swift.engine.sampling import SamplingParams
from swift.infer.prompt_tokens import PromptTokens
from swift.serve.openapi import openapi
from swift.serve.server import create_app
from swift.template import Renderer, template

PLAIN = SamplingParams()


def chat(
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    params: SamplingParams = PLAIN,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Generator[Delta, None, None]:
    yield Delta("Hello")
    yield Delta(finish="stop", usage=Usage(1, 1))


def complete(prompt: str | Sequence[int], params: SamplingParams) -> Generator[Delta, None, None]:
    return chat((), (), params)


def app(**options: Any) -> FastAPI:
    tokenization = PromptTokens(Renderer(tiny_tokenizer(), template("chatml")), 2048)
    return create_app(chat, "tiny", complete=complete, tokenization=tokenization, **options)


schema = schemathesis.openapi.from_asgi("/openapi.json", app())


@schema.parametrize()
@settings(max_examples=40, deadline=None)
def test_no_request_makes_the_server_fail(case: schemathesis.Case) -> None:
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = "tiny"  # an unknown one would be refused before anything else is looked at
    # What fields say about each other (stream_options requires stream) is in no schema.
    case.call_and_validate(excluded_checks=[schemathesis.checks.CHECKS.get_one("positive_data_acceptance")])


def test_every_route_is_in_the_document_and_no_other() -> None:
    built = app()
    served = {
        (route.path.replace(":path", ""), method)  # type: ignore[attr-defined]
        for route in built.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    told = {(path, method.upper()) for path, methods in openapi()["paths"].items() for method in methods}
    assert served - told == {("/openapi.json", "GET")}
    assert told <= served


def test_the_document_needs_no_key() -> None:
    http = TestClient(app(api_keys=["k"]))
    assert http.get("/openapi.json").json() == openapi()


def test_the_document_describes_blocks_and_errors_of_messages() -> None:
    document = openapi()
    schemas = document["components"]["schemas"]
    assert {"max_tokens", "system", "stop_sequences", "thinking"} <= schemas["MessagesRequest"]["properties"].keys()
    assert "max_tokens" not in schemas["CountTokensRequest"]["properties"]
    errors = document["paths"]["/v1/messages"]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
    assert errors == {"$ref": "#/components/schemas/MessagesError"}


def test_the_document_describes_responses() -> None:
    fields = openapi()["components"]["schemas"]["ResponsesRequest"]["properties"]
    assert {"model", "input", "instructions", "tools", "text", "store", "previous_response_id"} <= fields.keys()


@pytest.mark.parametrize("name", ["ChatRequest", "TextRequest"])
def test_the_document_describes_each_field(name: str) -> None:
    fields = openapi()["components"]["schemas"][name]["properties"]
    assert {"model", "n", "seed", "stop", "stream", "logprobs", "logit_bias", "user"} <= fields.keys()
    thinking = {"chat_template_kwargs", "enable_thinking", "reasoning_effort"}
    assert fields.keys() & thinking == (thinking if name == "ChatRequest" else set())
