"""An MCP server as a source of tools: starting and restarting it, the names of its tools, calls within a time limit.

Knows no stream and no message of the protocol: `mcp_link` and `mcp_connection` do.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import re
import shlex
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import anyio

from swift.agent.arguments import excerpt
from swift.system.nearest import closest
from swift.tools.bound_tool import BoundTool, from_schema
from swift.tools.errors import TimeLimitError, ToolError
from swift.tools.mcp.connection import Connection
from swift.tools.mcp.link import Link, Process, Url
from swift.tools.mcp.result_text import result_text

if TYPE_CHECKING:
    from mcp_types import CallToolResult, Tool

Value = TypeVar("Value")
log = logging.getLogger("swift.tools.mcp")

START_SECONDS = 60.0
CHECK_SECONDS = 3.0
"""A program that exceeded a call's limit and does not list its tools within this time is restarted."""
LIST_SECONDS = 10.0
CLOSE_SECONDS = 10.0
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def is_url(target: str) -> bool:
    """Whether an MCP server is a URL, not a command."""
    return re.match(r"https?://", target, re.IGNORECASE) is not None


class McpServer:
    """The tools of an MCP server: a command line (stdio transport) or an http(s) URL (streamable HTTP).

    `headers` go to a URL. `keep`: patterns (`read_*`) of the tools to offer, all without it. `start_seconds`: limit of
    a start, also when a call starts the server again after its end.

    Raises ValueError for a server that cannot be used, a pattern that matches no tool, headers for a command, and
    without the package `mcp`. The server runs until `close`, or until this process ends.
    """

    def __init__(
        self,
        target: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        keep: Sequence[str] = (),
        start_seconds: float = START_SECONDS,
    ) -> None:
        _require_package()
        self._link = _links(target, headers)
        self._keep, self._start_seconds = tuple(keep), start_seconds
        self._loop = _Loop()
        self._opening = asyncio.Lock()
        self._checking: asyncio.Task[None] | None = None
        self._left_out: set[str] = set()
        self._connection: Connection | None = None
        self._reported: Connection | None = None
        atexit.register(self.close)
        try:
            connection = self._loop.run(self._ready())
            self.name = _printable(connection.name) or _stem(target)
            self._tools = self._bound(connection.tools)
            self._check_patterns()
        except BaseException:
            self.close()
            raise

    @property
    def tools(self) -> Sequence[BoundTool]:
        """The tools that the server offers now; those of the last connection while it has ended."""
        return self._tools if self._loop.is_closed else self._loop.run(self._current_tools())

    def close(self) -> None:
        """Ends the server's process or the session. Calls that run fail."""
        atexit.unregister(self.close)
        self._loop.close(self._end)

    async def _end(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def _ready(self) -> Connection:
        """The connection; a new one if the last has ended. Raises ValueError."""
        async with self._opening:
            if self._checking is not None:
                await self._checking
                self._checking = None
            if self._connection is not None:
                await self._connection.settle()
            if self._connection is not None and not self._connection.is_open:
                await self._end_of(self._connection)
                self._connection = None
            if self._connection is None:
                connection = Connection(self._link())
                await connection.start(self._start_seconds)
                self._connection = connection
            return self._connection

    async def _current_tools(self) -> Sequence[BoundTool]:
        from mcp import MCPError

        connection = self._connection
        if connection is None:
            return self._tools
        if connection.stale and connection.is_open:
            try:
                with anyio.fail_after(LIST_SECONDS):
                    await connection.read_tools()
            except (MCPError, TimeoutError, ValueError) as error:
                log.warning("MCP server '%s': its changed list of tools cannot be read: %s", self.name, error)
        if connection.tools is not self._listed:
            self._tools = self._bound(connection.tools)
        return self._tools

    def _invoke(self, name: str, arguments: dict[str, Any], seconds: float) -> str:
        return self._loop.run(self._call(name, arguments, seconds))

    async def _call(self, name: str, arguments: dict[str, Any], seconds: float, is_first: bool = True) -> str:
        """The text of a result. Raises TimeLimitError, and ToolError for what else goes wrong."""
        from mcp import MCPError

        try:
            connection = await self._ready()
        except ValueError as error:
            raise ToolError(str(error)) from None
        try:
            with anyio.move_on_after(seconds):
                return _text(await connection.call(name, arguments))
        except MCPError as error:
            if connection.never_ran(error) and is_first:
                await connection.close()
                return await self._call(name, arguments, seconds, is_first=False)
            if connection.ended_by(error):
                raise ToolError(await self._end_of(connection)) from None
            refused = f" ({connection.link.refused})" if connection.link.refused else ""
            raise ToolError(error.message + refused) from None
        except (RuntimeError, ValueError) as error:  # the SDK's, for a result that breaks the protocol or its schema
            raise ToolError(excerpt(" ".join(str(error).split()))) from None
        if connection.link.is_process:
            self._checking = asyncio.create_task(self._check(connection))
        raise TimeLimitError

    async def _end_of(self, connection: Connection) -> str:
        """How a connection ended, in one line for the model. The user gets the last lines of the process, once."""
        await connection.close()
        reason = await connection.why()
        if connection is not self._reported and connection.link.last_lines:
            lines = "".join(f"\n[{self.name}] {line}" for line in connection.link.last_lines)
            log.warning("MCP server '%s' ended. Its last lines on standard error:%s", self.name, lines)
        self._reported = connection
        return f"the MCP server '{self.name}' failed during the call: {reason}"

    async def _check(self, connection: Connection) -> None:
        """Ends a process that does not respond after a call exceeded its limit; the next call starts it again."""
        if not await connection.answers(CHECK_SECONDS):
            log.warning("MCP server '%s' does not respond after a call exceeded its limit: it is restarted", self.name)
            self._reported = connection
            await connection.close()

    def _bound(self, tools: list[Tool]) -> list[BoundTool]:
        self._listed = tools
        taken: set[str] = set()
        bound = []
        for tool in tools:
            name = _distinct(_clean(tool.name), taken)
            taken.add(name)
            if self._keep and not any(_matches(pattern, tool.name, name) for pattern in self._keep):
                continue
            function = {"name": name, "description": tool.description or tool.title or ""}
            spec = {"type": "function", "function": {**function, "parameters": tool.input_schema}}
            is_read_only = tool.annotations is not None and tool.annotations.read_only_hint is True
            try:
                bound.append(from_schema(spec, partial(self._invoke, tool.name), is_read_only, self.name))
            except ValueError as error:
                if name not in self._left_out:
                    self._left_out.add(name)
                    log.warning("MCP server '%s': left out: %s", self.name, error)
        return bound

    def _check_patterns(self) -> None:
        names = [tool.name for tool in self._listed]
        if not names:
            raise ValueError(f"MCP server '{self.name}' offers no tools")
        for pattern in self._keep:
            if not any(_matches(pattern, name, _clean(name)) for name in names):
                close = closest(pattern, names, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"its tools are: {', '.join(names)}"
                raise ValueError(f"MCP server '{self.name}' has no tool '{pattern}'; {hint}")


class _Loop:
    """An event loop on a daemon thread, so that a server that hangs keeps no program from ending."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.is_closed = False

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """Its value, or what it raises. An interrupt of the caller cancels it."""
        if self.is_closed:
            coroutine.close()
            raise ToolError("the MCP server is closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise ToolError("the MCP server is closed") from None
        finally:
            future.cancel()

    def close(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs `end`, cancels what still runs, and ends the thread; at most CLOSE_SECONDS."""
        if self.is_closed:
            return
        self.is_closed = True
        with suppress(TimeoutError, FutureTimeoutError):
            asyncio.run_coroutine_threadsafe(self._finish(end), self._loop).result(CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._loop.close()

    async def _finish(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await end()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()


def _require_package() -> None:
    try:
        import mcp  # noqa: F401
        from mcp.client.streamable_http import DEFAULT_MAX_SSE_EVENT_SIZE  # noqa: F401  (new in 2.3)
    except ModuleNotFoundError:
        raise ValueError("--mcp needs the package mcp: pip install 'swift-agents[mcp]'") from None
    except ImportError:
        found = version("mcp")
        raise ValueError(f"--mcp needs mcp 2.3 or later, not {found}: pip install -U 'swift-agents[mcp]'") from None


def _links(target: str, headers: Mapping[str, str]) -> Callable[[], Link]:
    if is_url(target):
        if not _host(target):
            raise ValueError(f"MCP server '{target}': a URL without a valid host")
        if "@" in urlsplit(target).netloc and any(name.lower() == "authorization" for name in headers):
            raise ValueError(
                "credentials of an MCP server belong in its URL or in the header Authorization, not in both"
            )
        Url(target, headers)  # raises for bad headers now
        return lambda: Url(target, headers)
    if re.match(r"\w+://", target):
        raise ValueError(f"MCP server '{target}': a URL begins with http:// or https://")
    try:
        command = shlex.split(target, posix=os.name == "posix")
    except ValueError as error:
        raise ValueError(f"MCP server '{target}': {str(error).lower()}") from None
    if not command:
        raise ValueError("MCP server '': a command or an http(s) URL is needed")
    if headers:
        raise ValueError(f"MCP server '{target}': HTTP headers are for a URL; a command reads environment variables")
    words = [str(Path(word).expanduser()) if word.startswith("~") else word for word in command]
    return lambda: Process(words)


def _text(result: CallToolResult) -> str:
    text = result_text(result)
    if result.is_error:
        raise ToolError(text)
    return text


def _printable(name: str) -> str:
    """A name that a server gives itself, safe to print."""
    return re.sub(r"[^\w .-]+", "_", name)[:64].strip(" _")


def _matches(pattern: str, *names: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _clean(name: str) -> str:
    """A name that OpenAI's API accepts: at most 64 letters, digits, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64] or "tool"


def _distinct(name: str, taken: set[str]) -> str:
    number, free = 2, name
    while free in taken:
        end = f"_{number}"
        free, number = name[: 64 - len(end)] + end, number + 1
    return free


def _stem(target: str) -> str:
    """A name for a server that gives none: its host, or the stem of its script or program."""
    if is_url(target):
        return _host(target)
    words = shlex.split(target, posix=os.name == "posix")
    script = next((word for word in words[1:] if Path(word).suffix in (".py", ".js", ".mjs", ".ts")), words[0])
    return Path(script).stem


def _host(url: str) -> str:
    """The host of a URL, "" without a valid one."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
