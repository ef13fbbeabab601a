"""One connection to an MCP server, from the handshake to its end. Runs on one event loop and restarts nothing.

The official SDK (`mcp`) speaks the protocol, of 2026-07-28 (`server/discover`) or older (`initialize`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anyio
from pydantic import ValidationError

from swift.agent.arguments import excerpt
from swift.tools.mcp.link import Link, printable

if TYPE_CHECKING:
    from mcp import Client, MCPError
    from mcp.client.session import IncomingMessage
    from mcp_types import CallToolResult, Tool

MAX_GARBAGE = 100
"""Lines on standard output that are not MCP, before the handshake. A program that prints more is no MCP server."""
MAX_PAGES = 1000
CLOSED = "Connection closed"
"""The SDK's message; servers use its code for errors of their own."""
REFUSED = "Server returned an error response"
"""The SDK's message for an HTTP status."""
LISTEN_AGAIN_SECONDS = 5.0
TURNS = 20
"""Of the event loop: more than the SDK needs from the end of a stream to its news."""

for _name in ("mcp", "client"):  # the SDK's loggers: without any handler, Python prints their tracebacks
    logging.getLogger(_name).addHandler(logging.NullHandler())


class Connection:
    """A connection over `link`. `tools` is the list as it was last read; `stale`: the server has changed it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.name = ""
        self.tools: list[Tool] = []
        self.stale = False
        self._client: Client | None = None
        self._ended = asyncio.Event()
        self._ready = asyncio.Event()
        self._scope = anyio.CancelScope()
        self._garbage: list[str] = []
        self._failure: Exception | None = None
        self._task = asyncio.create_task(self._run())

    @property
    def is_open(self) -> bool:
        return self._ready.is_set() and not self._ended.is_set()

    def ended_by(self, error: MCPError) -> bool:
        """Whether a call failed because the connection ended, not because the server refused it."""
        return not self.is_open or error.message == CLOSED

    def never_ran(self, error: MCPError) -> bool:
        """Whether the server refused a call because it has forgotten the session."""
        return self.link.lost_session and (error.message == REFUSED or "session" in error.message.lower())

    async def start(self, seconds: float) -> None:
        """Waits for the handshake and the list of tools, for at most `seconds`.

        Raises ValueError with the reason, after closing the connection.
        """
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({ready, self._task}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not self._ready.is_set():
                limit = "" if self._task.done() else f"no answer to the handshake within {seconds:g} s"
                await self.close()
                raise ValueError(f"MCP server {self.link.label}: {await self.why(limit)}")
        except asyncio.CancelledError:
            await self.close()
            raise
        finally:
            ready.cancel()

    async def settle(self) -> None:
        """Lets the event loop handle what has arrived, such as the end of a process: `is_open` is true to it then."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Raises MCPError, also if the connection ends, and the SDK's errors for a result that breaks the protocol."""
        assert self._client is not None
        return await self._client.call_tool(name, arguments)

    async def read_tools(self) -> None:
        """Reads the list of tools again. Raises MCPError."""
        assert self._client is not None
        self.stale = False
        tools: list[Tool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        else:
            raise ValueError(f"its list of tools has more than {MAX_PAGES} pages")
        self.tools = tools

    async def answers(self, seconds: float) -> bool:
        """Whether the server lists its tools within `seconds`."""
        from mcp import MCPError

        with anyio.move_on_after(seconds), suppress(MCPError):
            await self.read_tools()
            return True
        return False

    async def close(self) -> None:
        """Ends the connection; a process gets SIGTERM 2 seconds after its input closes, and SIGKILL 2 seconds later."""
        self._ended.set()
        self._scope.cancel()
        await asyncio.wait({self._task})

    async def why(self, limit: str = "") -> str:
        """Why the connection failed or ended, in one line. `limit`: the limit that it exceeded."""
        import httpx2
        from mcp import MCPError
        from mcp_types import PARSE_ERROR

        found = [error for error in _leaves(self._failure) if str(error) != CLOSED]
        if refused := next((error for error in found if isinstance(error, httpx2.ConnectError)), None):
            return f"cannot connect: {refused}"
        said = await self.link.reason()
        if self._garbage:
            limit = f"it prints what is not MCP on standard output: '{self._garbage[0]}'"
        if limit:
            return f"{limit}; {said}" if said else limit
        if not found:
            return f"it ended: {said}" if said else "it ended without a message"
        if isinstance(found[0], MCPError) and found[0].code == PARSE_ERROR:
            return "it answers with what is not MCP"
        return said or excerpt(" ".join(str(found[0]).split()))

    async def _run(self) -> None:
        from mcp import Client
        from mcp_types import Implementation

        try:
            with self._scope:
                client = Client(
                    self.link.open(self._ended),
                    client_info=Implementation(name="swift", version=version("swift-agents")),
                    message_handler=self._heard,
                    cache=None,  # changes of the list of tools must be seen at once
                )
                async with client:
                    self._client = client
                    self.name = client.server_info.name if client.server_info else ""
                    if client.server_capabilities.tools is not None:
                        await self.read_tools()
                    self._ready.set()
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._listen, client)
                        await self._ended.wait()
                        tasks.cancel_scope.cancel()
        except Exception as error:  # a server that breaks the protocol may provoke anything in the SDK
            self._failure = error
        finally:
            self._ended.set()

    async def _heard(self, message: IncomingMessage) -> None:
        from mcp_types import ToolListChangedNotification

        if isinstance(message, ToolListChangedNotification):
            self.stale = True
        elif isinstance(message, Exception) and not self._ready.is_set():
            self._garbage.append(_quoted(message))
            if len(self._garbage) >= MAX_GARBAGE:
                self._scope.cancel()

    async def _listen(self, client: Client) -> None:
        """Asks for notifications of a changed list of tools: since 2026-07-28, servers send them on request only."""
        from mcp import MCPError
        from mcp.client.subscriptions import SubscriptionLost
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS

        tools = client.server_capabilities.tools
        if tools is None or not tools.list_changed or client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return
        while True:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    async for _ in changes:
                        pass  # `_heard` gets them too
            except MCPError:
                if not self._ended.is_set():
                    return  # a server may do without notifications
            except SubscriptionLost:
                pass
            await anyio.sleep(LISTEN_AGAIN_SECONDS)
            self.stale = True  # it may have changed meanwhile


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    """The errors of an exception group, a class that Python 3.10 does not have."""
    if error is None:
        return
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    if not inner:
        yield error
    for each in inner:
        yield from _leaves(each)


def _quoted(error: Exception) -> str:
    """The beginning of a line that is not a message, from pydantic's error."""
    if isinstance(error, ValidationError):
        return printable(str(error.errors(include_url=False, include_context=False)[0]["input"])[:60].strip())
    return excerpt(str(error))
