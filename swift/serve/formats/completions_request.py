"""The body of POST /v1/completions. Knows no HTTP and no model."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from swift.engine.sampling import SamplingParams
from swift.serve.formats.request_fields import OneOf
from swift.serve.formats.sampling_request import SamplingRequest


def _prompts(value: Any) -> Any:
    """The prompts as a list; each is a string or a list of token ids."""
    several = value if isinstance(value, list) and value and isinstance(value[0], (str, list)) else [value]
    for prompt in several:
        tokens = isinstance(prompt, list) and all(type(each) is int for each in prompt)
        if not isinstance(prompt, str) and not tokens:
            raise ValueError("must be a string, a list of token ids, or a list of either")
        if not prompt:
            raise ValueError("the prompt is empty")
    return several


class TextRequest(SamplingRequest):
    """The body of POST /v1/completions."""

    prompt: Annotated[
        Any,
        AfterValidator(_prompts),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                    {"type": "array", "minItems": 1, "items": {"type": "integer"}},
                    {"type": "array", "items": {"type": "array", "minItems": 1, "items": {"type": "integer"}}},
                ]
            }
        ),
    ]
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    max_tokens: Annotated[int | None, Field(ge=0)] = None
    best_of: Annotated[Any, OneOf(None, 1)] = None
    echo: Annotated[Any, OneOf(None, False)] = None
    suffix: Annotated[Any, OneOf(None, "")] = None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens or (None if self.max_tokens is None else 1)

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """The sampling parameters; `defaults` for fields that the request does not set."""
        return replace(defaults, **self.sampling)

    @property
    def prompt_texts(self) -> list[list[str]]:
        """For each prompt, texts that it contains for certain."""
        return [[prompt] for prompt in self.prompt if isinstance(prompt, str)]
