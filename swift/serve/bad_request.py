"""What a client asks that is refused. Knows no HTTP and no request."""

from __future__ import annotations


class BadRequest(ValueError):
    """A request that is refused, as OpenAI's error object tells it."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def invalid(param: str, what: str) -> BadRequest:
    """An error about the field `param`; "" is the whole body."""
    return BadRequest(f"{param or 'the body'}: {what}", param=param or None)


def too_long(error: ValueError, param: str) -> BadRequest:
    """A prompt that the context does not hold."""
    return BadRequest(str(error), param=param, code="context_length_exceeded")
