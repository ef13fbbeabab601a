"""The responses of /tokenize, /detokenize and /version, which are vLLM's. Knows no HTTP and no model."""

from __future__ import annotations

from pydantic import BaseModel


class TokenizeResponse(BaseModel):
    """`max_model_len`: the context of the model, null without a limit. `token_strs`: null if not requested."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeResponse(BaseModel):
    prompt: str


class VersionResponse(BaseModel):
    version: str
