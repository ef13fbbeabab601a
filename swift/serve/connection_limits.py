"""Limits on connections: how many are open, and how long a request's head is. Knows no request."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import OrderedDict
from typing import Any

import h11

from swift.serve.error_bodies import openai_error
from swift.serve.header_timeout import HeaderTimeoutProtocol

log = logging.getLogger("swift.serve")

MAX_HEAD = 1 << 16
"""Bytes of a request line and its headers."""
BACKLOG = 256
"""Connections that the kernel accepts on the server's behalf; the event loop takes as many at once."""
KEEP_ALIVE = 75
"""Seconds for which a connection without a request stays open. Clients keep theirs for 4 to 60 s; a server that closes
first resets the request that a client is just sending."""
RESERVED_FILES = BACKLOG + 128
"""Files that connections leave to accepted connections that are not counted yet, and to the rest of the process."""
WARN_EVERY = 60.0  # seconds


class OpenConnections:
    """The connections of a server, at most `limit`; beyond it the one that has been silent for longest is closed.

    A connection is silent while its next request's head has not arrived. Those with a request under way stay.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._silent: OrderedDict[LimitedProtocol, None] = OrderedDict()
        self._warned = -WARN_EVERY

    def waits(self, connection: LimitedProtocol) -> None:
        self._silent[connection] = None

    def speaks(self, connection: LimitedProtocol) -> None:
        self._silent.pop(connection, None)

    def make_room(self) -> bool:
        """Closes the connection that has been silent for longest. False: none is."""
        if time.monotonic() - self._warned > WARN_EVERY:
            self._warned = time.monotonic()
            log.warning(
                "%d connections are open, as many as the limit of open files (ulimit -n) allows: the server closes "
                "those that send nothing",
                self.limit,
            )
        if not self._silent:
            return False
        connection, _ = self._silent.popitem(last=False)
        connection.transport.abort()
        return True


class LimitedProtocol(HeaderTimeoutProtocol):
    """A connection of a server that holds its limits. `others`: all connections of the server."""

    def __init__(self, others: OpenConnections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = KEEP_ALIVE
        self._others = others

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self._others.limit and not self._others.make_room():
            self._refuse(503, "the server has as many connections as it can hold, all with requests: try again later")
        else:
            self._others.waits(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._others.speaks(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._others.waits(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.speaks(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, or too long. uvicorn calls it while it handles h11's error."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status == 431:
            self._refuse(431, f"the request's line and headers are longer than {MAX_HEAD} bytes")
        else:
            self._refuse(400, f"the request is not HTTP: {str(error)[:200]}" if error else msg)

    def _refuse(self, status: int, message: str) -> None:
        body = openai_error(message, status).encode()
        head = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=status, headers=head), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()
