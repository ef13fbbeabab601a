"""The ways to an MCP server: a process or a URL. Knows the streams of the official SDK, and no request of MCP."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO, TypeAlias

from swift.agent.arguments import excerpt
from swift.system import utf8
from swift.system.urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2
    from mcp.client._transport import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage
    from typing_extensions import Self

    Incoming: TypeAlias = ReadStream[SessionMessage | Exception]
    Streams: TypeAlias = tuple[Incoming, WriteStream[SessionMessage]]

LAST_LINES = 20
"""Lines of a server's standard error that are kept."""
MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Of a server-sent event: a result with a screenshot exceeds the SDK's 1 MiB."""
HINTS = {
    401: "; --tool_header gives credentials",
    403: "; --tool_header gives credentials",
    404: "; is the path right? Most servers have /mcp",
    405: "; the older HTTP+SSE transport is not supported",
}

_NAMES_ERROR = re.compile(r"\W*(\w+\.)*\w*(error|exception|fatal)\b", re.IGNORECASE)
"""`KeyError: 'x'`, `Error: Cannot find module`, `[ERROR] ...`, `httpx.ConnectError: ...`"""


def printable(text: str) -> str:
    """Text of a server without the escape sequences and control characters that would change the terminal."""
    return re.sub(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", "", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text))


class Link(Protocol):
    """One connection's way to a server."""

    @property
    def label(self) -> str:
        """The server in an error message. Contains no secret."""

    @property
    def is_process(self) -> bool:
        """Whether this process starts and ends the server."""

    @property
    def refused(self) -> str:
        """With what HTTP status the last message was refused, "" if it was not."""

    @property
    def lost_session(self) -> bool:
        """Whether the server has forgotten the session: it restarted, and refused the last request without effect."""

    @property
    def last_lines(self) -> Sequence[str]:
        """The last lines that the server wrote to standard error."""

    def open(self, ended: asyncio.Event) -> AbstractAsyncContextManager[Streams]:
        """The streams of a connection. Sets `ended` when the other side closes them. Raises ValueError."""

    async def reason(self) -> str:
        """What the other side said when it failed, "" if nothing."""


class Process:
    """A program that speaks MCP on standard input and output.

    It has a session of its own, so that Ctrl-C does not reach it, and this process's environment.
    """

    is_process = True
    lost_session = False
    refused = ""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._errors: deque[str] = deque(maxlen=LAST_LINES)
        self._reader: threading.Thread | None = None

    @property
    def label(self) -> str:
        return f"'{excerpt(' '.join(self._command))}'"

    @property
    def last_lines(self) -> Sequence[str]:
        return tuple(self._errors)

    @asynccontextmanager
    async def open(self, ended: asyncio.Event) -> AsyncIterator[Streams]:
        from mcp import StdioServerParameters, stdio_client

        program, *words = self._command
        server = StdioServerParameters(
            command=program, args=words, env=dict(os.environ), encoding_error_handler="replace"
        )
        async with AsyncExitStack() as stack:
            with self._standard_error() as errlog:
                try:
                    read, write = await stack.enter_async_context(stdio_client(server, errlog))
                except FileNotFoundError:
                    raise ValueError(f"no such command: '{program}'") from None
                except (OSError, ValueError) as error:
                    raise ValueError(f"cannot start '{program}': {error}") from None
            yield _Watched(read, ended), write

    @contextmanager
    def _standard_error(self) -> Iterator[TextIO]:
        """A pipe whose lines are kept."""
        readable, writable = os.pipe()
        self._reader = threading.Thread(target=self._read, args=(readable,), daemon=True)
        self._reader.start()
        with os.fdopen(writable, "w") as errlog:
            yield errlog

    def _read(self, readable: int) -> None:
        with os.fdopen(readable, encoding="utf-8", errors="replace") as stream:
            while line := stream.readline(10_000):
                if line.strip():
                    self._errors.append(printable(line.rstrip()))

    async def reason(self) -> str:
        """The last line of standard error that names an error, or else the last line."""
        if self._reader is not None:
            await asyncio.to_thread(self._reader.join, 1.0)  # a child of the server may keep the pipe open
        lines = list(self._errors)
        named = [line for line in lines if _NAMES_ERROR.match(line)]
        return excerpt(["", *lines, *named][-1].strip())


class Url:
    """A server behind a URL (streamable HTTP). Redirects to another origin are not followed: the headers may be secret.

    Raises ValueError for headers that HTTP does not allow; the message does not contain their values.
    """

    is_process = False
    last_lines: Sequence[str] = ()

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url, self._headers = url, _checked(headers)
        self.refused = ""
        self.lost_session = False

    @property
    def label(self) -> str:
        return without_secrets(self._url)

    @asynccontextmanager
    async def open(self, ended: asyncio.Event) -> AsyncIterator[Streams]:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        # No read timeout: a stream of notifications is silent for hours. Calls have limits of their own.
        timeout = httpx2.Timeout(30.0, read=None)
        hooks = {"response": [self._heard]}
        async with (
            httpx2.AsyncClient(headers=self._headers, timeout=timeout, event_hooks=hooks) as client,
            streamable_http_client(self._url, http_client=client, max_sse_event_size=MAX_EVENT_BYTES) as (read, write),
        ):
            yield _Watched(read, ended), write

    async def _heard(self, response: httpx2.Response) -> None:
        """Keeps what the last message was refused with: the SDK reports statuses without their number."""
        if response.request.method != "POST":  # streams of notifications are optional
            return
        kind = response.headers.get("content-type", "").partition(";")[0].strip()
        status = response.status_code
        self.lost_session = "mcp-session-id" in response.request.headers and (
            status == 404 or (status == 400 and b"session" in (await response.aread()).lower())  # 400: SDKs of 2025
        )
        if status >= 400:
            self.refused = f"it answers {status} {response.reason_phrase}".rstrip() + HINTS.get(status, "")
        elif status == 200 and kind not in ("application/json", "text/event-stream"):
            self.refused = f"it answers with {excerpt(kind) or 'text'}, not MCP{HINTS[404]}"
        else:
            self.refused = ""

    async def reason(self) -> str:
        return self.refused


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"'{excerpt(utf8.replace_surrogates(name))}' is not the name of an HTTP header")
        if not re.fullmatch(r"[\x20-\x7e\t]*", value):
            raise ValueError(f"the value of the HTTP header '{name}' has a line break or is not ASCII")
    return dict(headers)


class _Watched:
    """A stream that sets an event when the other side closes it."""

    def __init__(self, stream: Incoming, ended: asyncio.Event) -> None:
        self._stream, self._ended = stream, ended

    async def receive(self) -> SessionMessage | Exception:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self._stream.__anext__()
        except BaseException:  # closed, broken or cancelled: no more messages come in any case
            self._ended.set()
            raise

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> bool | None:
        return await self._stream.__aexit__(*error)  # type: ignore[arg-type]
