"""The error for requests that are refused. Knows no HTTP and no request."""

from __future__ import annotations


class BadRequest(ValueError):
    """A refused request, with the fields of OpenAI's error object."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def invalid(param: str, what: str) -> BadRequest:
    """An error about the field `param`; "" is the whole body."""
    return BadRequest(f"{param or 'the body'}: {what}", param=param or None)


def context_length_exceeded(error: ValueError, param: str) -> BadRequest:
    """A prompt that is longer than the model's context."""
    return BadRequest(str(error), param=param, code="context_length_exceeded")
