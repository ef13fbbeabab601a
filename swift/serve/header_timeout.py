"""A timeout for the headers of a request, which uvicorn does not have. Knows no request."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT = 20.0
"""Seconds in which the request line and headers must arrive."""


class HeaderTimeoutProtocol(H11Protocol):  # type: ignore[misc]  # uvicorn's types are not read
    """uvicorn's keep-alive timeout covers the time between requests, not the time within a request's headers."""

    timeout = HEADER_TIMEOUT
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.timeout, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        awaits_head = self.conn.their_state is h11.IDLE
        if not awaits_head:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.timeout, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
