"""The API keys of a server. Knows no route."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from fastapi import Request

from swift.serve.bad_request import BadRequest


class ApiKeys:
    """The keys that a server accepts; without any, every request is accepted."""

    def __init__(self, keys: Collection[str] = ()) -> None:
        self._keys = [key.encode() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def check(self, request: Request) -> None:
        """Raises BadRequest (401) for a request with none of the keys, neither as OpenAI's clients send it nor as
        Anthropic's."""
        if not self._keys:
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        other = request.headers.get("x-api-key", "")
        accepted = [self._is_known(token) and scheme.lower() == "bearer", self._is_known(other)]
        if not any(accepted):
            none = "no API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            raise BadRequest("incorrect API key" if token or other else none, status=401, code="invalid_api_key")

    def _is_known(self, given: str) -> bool:
        # Header bytes arrive as Latin-1. compare_digest takes the same time wherever the first difference is, and
        # every key is compared.
        right = [hmac.compare_digest(given.strip().encode("latin-1"), key) for key in self._keys]
        return any(right)
