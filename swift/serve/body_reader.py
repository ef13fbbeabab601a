"""A request's body, unpacked, within limits of length and time. Knows no shape."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from anyio import fail_after
from fastapi import Request

from swift.serve.bad_request import BadRequest

UNPACKED = ("gzip", "x-gzip", "deflate")


class Limits(NamedTuple):
    """`body` in bytes, `patience` in seconds for a whole body to arrive, `queue` in replies that may wait."""

    body: int = 16 * 2**20
    patience: float = 60.0
    queue: int = 256


LIMITS = Limits()


async def body(request: Request, limits: Limits) -> bytes:
    """The whole body. Raises BadRequest for one that is too long or does not arrive in time.

    The limit of length holds for what it unpacks to, too.
    """
    unpack = _unpacker(request.headers.get("Content-Encoding", ""), limits.body)
    parts: list[bytes] = []
    size = 0
    try:
        with fail_after(limits.patience):
            async for part in request.stream():
                part = unpack.take(part)
                size += len(part)
                if size > limits.body:
                    raise BadRequest(f"the body is longer than {limits.body} bytes", status=413)
                parts.append(part)
    except TimeoutError:
        raise BadRequest(f"the body did not arrive within {limits.patience:g} seconds", status=408) from None
    unpack.end()
    return b"".join(parts)


class _Plain:
    def take(self, part: bytes) -> bytes:
        return part

    def end(self) -> None: ...


class _Unpacker(_Plain):
    """gzip, of one or several members, or deflate with zlib's header: what each begins with says which it is."""

    def __init__(self, limit: int) -> None:
        self._limit, self._stream, self._begun = limit, _stream(), False

    def take(self, part: bytes) -> bytes:
        """Unpacks at most one byte more than the limit."""
        unpacked = b""
        try:
            while part and len(unpacked) <= self._limit:
                if self._stream.eof:
                    self._stream = _stream()
                unpacked += self._stream.decompress(part, self._limit + 1 - len(unpacked))
                part, self._begun = self._stream.unused_data, True
        except zlib.error as error:
            raise BadRequest(f"the body cannot be unpacked: {error}") from None
        return unpacked

    def end(self) -> None:
        if self._begun and not self._stream.eof:
            raise BadRequest("the body cannot be unpacked: its end is missing")


def _unpacker(encoding: str, limit: int) -> _Plain:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return _Plain()
    if name in UNPACKED:
        return _Unpacker(limit)
    raise BadRequest(f"Content-Encoding: gzip, deflate or none is expected, not {encoding[:80]}", status=415)


def _stream() -> zlib._Decompress:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip and zlib
