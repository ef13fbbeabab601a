"""Reads and decompresses request bodies within limits of size and time. Knows no JSON."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from anyio import fail_after
from fastapi import Request

from swift.serve.bad_request import BadRequest

ENCODINGS = ("gzip", "x-gzip", "deflate")


class Limits(NamedTuple):
    """`body`: bytes of a body, decompressed. `timeout`: seconds in which a body must arrive. `queue`: replies that may
    wait for their first token."""

    body: int = 16 * 2**20
    timeout: float = 60.0
    queue: int = 256


LIMITS = Limits()


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body, decompressed. Raises BadRequest for one that is too large or does not arrive in time.

    The limit on the size applies before and after decompression.
    """
    decoder = _decoder(request.headers.get("Content-Encoding", ""), limits.body)
    parts: list[bytes] = []
    size = 0
    try:
        with fail_after(limits.timeout):
            async for part in request.stream():
                part = decoder.take(part)
                size += len(part)
                if size > limits.body:
                    raise BadRequest(f"the body is longer than {limits.body} bytes", status=413)
                parts.append(part)
    except TimeoutError:
        raise BadRequest(f"the body did not arrive within {limits.timeout:g} seconds", status=408) from None
    decoder.end()
    return b"".join(parts)


class _Plain:
    def take(self, part: bytes) -> bytes:
        return part

    def end(self) -> None: ...


class _Decompressor(_Plain):
    """gzip (one or several members) or deflate with zlib's header; the first bytes tell which."""

    def __init__(self, limit: int) -> None:
        self._limit, self._stream, self._begun = limit, _stream(), False

    def take(self, part: bytes) -> bytes:
        """Decompresses at most one byte more than the limit."""
        decompressed = b""
        try:
            while part and len(decompressed) <= self._limit:
                if self._stream.eof:
                    self._stream = _stream()
                decompressed += self._stream.decompress(part, self._limit + 1 - len(decompressed))
                part, self._begun = self._stream.unused_data, True
        except zlib.error as error:
            raise BadRequest(f"the body cannot be decompressed: {error}") from None
        return decompressed

    def end(self) -> None:
        if self._begun and not self._stream.eof:
            raise BadRequest("the body cannot be decompressed: it is incomplete")


def _decoder(encoding: str, limit: int) -> _Plain:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return _Plain()
    if name in ENCODINGS:
        return _Decompressor(limit)
    raise BadRequest(f"Content-Encoding must be gzip, deflate or absent, not {encoding[:80]}", status=415)


def _stream() -> zlib._Decompress:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip and zlib
