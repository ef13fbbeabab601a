"""A request's body, within limits of length and time. Knows no shape."""

from __future__ import annotations

from typing import NamedTuple

from anyio import fail_after
from fastapi import Request

from swift.serve.refusal import BadRequest


class Limits(NamedTuple):
    """`body` in bytes, `patience` in seconds for a whole body to arrive, `queue` in replies that may wait."""

    body: int = 16 * 2**20
    patience: float = 60.0
    queue: int = 256


LIMITS = Limits()


async def body(request: Request, limits: Limits) -> bytes:
    """The whole body. Raises BadRequest for one that is too long or does not arrive in time."""
    parts: list[bytes] = []
    size = 0
    try:
        with fail_after(limits.patience):
            async for part in request.stream():
                size += len(part)
                if size > limits.body:
                    raise BadRequest(f"the body is longer than {limits.body} bytes", status=413)
                parts.append(part)
    except TimeoutError:
        raise BadRequest(f"the body did not arrive within {limits.patience:g} seconds", status=408) from None
    return b"".join(parts)
