"""Sampling fields of OpenAI's request bodies. Knows no HTTP and no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from swift.serve.bad_request import invalid
from swift.serve.formats.request_fields import Optional64, RequestObject

MAX_CHOICES, MAX_STOPS, MAX_BIASES = 128, 16, 4096
MAX_STOP_LENGTH = 1000
"""Characters of a stop string."""

Penalty = Annotated[float | None, Field(ge=-2, le=2)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def set_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of SamplingParams that are not None. A `top_p` of 0 means only the most probable token."""
    exact = {"top_p": 1.0, "temperature": 0.0} if given["top_p"] == 0 else {}
    return {name: value for name, value in {**given, **exact}.items() if value is not None}


class SamplingFields(RequestObject):
    """The model and how it samples: what all of OpenAI's bodies have, SWIFT's extensions among them."""

    model: str
    stream: bool | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]] | None, Field(max_length=MAX_BIASES)] = (
        None
    )
    seed: Optional64 = None
    stop: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]], Field(max_length=MAX_STOPS)]
        | None,
        BeforeValidator(_as_list),
        WithJsonSchema({"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}]}),
    ] = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def _biases_are_of_tokens(self) -> SamplingFields:
        for token in self.logit_bias or ():
            if not token.isdecimal():
                raise invalid("logit_bias", f"'{token[:40]}' is not a token id")
        return self

    @property
    def token_limit(self) -> int | None:
        """The largest number of tokens of a reply that the request sets."""
        return None

    @property
    def alternatives(self) -> int | None:
        """How many of the most probable tokens are listed for each token; None: no log probabilities at all."""
        return None

    @property
    def confidence(self) -> bool:
        """Whether tool calls come with their confidence."""
        return False

    @property
    def sampling(self) -> dict[str, Any]:
        """The fields of SamplingParams that the request sets.

        A token limit beyond the context is an error if the client sets it; the default limit is clipped instead.
        """
        given: dict[str, Any] = {
            "max_tokens": self.token_limit,
            "clip": None if self.token_limit is None else False,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),  # vLLM's clients send -1 for "off"
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias and {int(token): value for token, value in self.logit_bias.items()},
            "seed": self.seed,
            "stop": None if self.stop is None else tuple(self.stop),
            "include_stop": self.include_stop_str_in_output,
            "ignore_eos": self.ignore_eos,
            "logprobs": self.alternatives is not None or None,
            "top_logprobs": self.alternatives,
            "confidence": self.confidence or None,
        }
        return set_fields(given)


class _StreamOptions(RequestObject):
    include_usage: bool | None = None


class SamplingRequest(SamplingFields):
    """What the bodies of chat completions and completions share."""

    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES)] = None
    user: str | None = None

    @model_validator(mode="after")
    def _options_are_of_a_stream(self) -> SamplingRequest:
        if self.stream_options and not self.stream:
            raise invalid("stream_options", "requires stream: true")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        return self.n or 1
