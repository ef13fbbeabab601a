"""HTTP with a limit on time and size that stays on one host, from any thread. Knows no operation.

Requests run on an event loop of its own, where a request that exceeds its time is cancelled at whatever it waits for:
the name server, the connection, a header, a byte of the body.
"""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

import httpx

from swift.tools.errors import TimeLimitError

MAX_REDIRECTS = 5
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "User-Agent": "swift-agents",
    "Accept": "application/json, text/*;q=0.9, */*;q=0.5",
    "Accept-Encoding": "identity",  # a few compressed bytes would otherwise become many
}


class OtherHostError(OSError):
    """The server redirects to another host, scheme or port."""


class Credentials(NamedTuple):
    """What authenticates a request: headers, fields of the query and cookies, as (name, value)."""

    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    cookies: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: object) -> Credentials:
        assert isinstance(other, Credentials), other
        return Credentials(self.headers + other.headers, self.query + other.query, self.cookies + other.cookies)

    def __repr__(self) -> str:
        return "Credentials(...)"  # a traceback shows no secret


class Request(NamedTuple):
    """A request. `url`: percent-encoded. `follow`: redirects to other hosts too, so it must not have credentials."""

    method: str
    url: str
    headers: Sequence[tuple[str, str]] = ()
    content: bytes = b""
    credentials: Credentials = Credentials()
    follow: bool = False


class Reply(NamedTuple):
    """An answer of any status. `complete`: the whole body was read. `charset`: that the server names, or "".

    `url`: after redirects.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    complete: bool
    charset: str
    url: str


class HttpClient:
    """Sends requests. Cookies that the server sets are sent back until `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._clients: dict[str, httpx.AsyncClient] = {}  # by origin; used on the loop alone

    def send(self, request: Request, seconds: float, limit: int) -> Reply:
        """The reply to a request, with at most `limit` bytes of its body.

        Raises TimeLimitError past `seconds` in all, OSError with one line for whatever fails.
        """
        assert not (request.follow and request.credentials != Credentials()), "credentials would go to other hosts"
        with self._lock:
            loop = self._running()
            future = asyncio.run_coroutine_threadsafe(self._limited(request, seconds, limit), loop)
        try:
            return future.result()
        finally:
            future.cancel()  # after an interrupt; a finished one ignores it

    def close(self) -> None:
        """Ends running requests and closes all connections."""
        with self._lock:
            loop, thread, self._loop, self._closed = self._loop, self._thread, None, True
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise OSError("the connection to the service is closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
        return self._loop

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for client in self._clients.values():
            await client.aclose()

    async def _limited(self, request: Request, seconds: float, limit: int) -> Reply:
        try:
            return await asyncio.wait_for(self._exchange(request, limit), seconds)
        except asyncio.TimeoutError:
            raise TimeLimitError from None
        except asyncio.CancelledError:
            raise OSError("the connection to the service is closed") from None
        except httpx.TooManyRedirects:
            raise OSError(f"more than {MAX_REDIRECTS} redirects") from None
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise OSError(f"{origin(request.url)} cannot be reached: {' '.join(str(error).split())}") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ValueError) as error:
            reason = " ".join(str(error).split()) or f"the connection broke ({type(error).__name__})"
            raise OSError(f"the request to {origin(request.url)} failed: {reason}") from None

    async def _exchange(self, request: Request, limit: int) -> Reply:
        extensions = {
            "swift.origin": "" if request.follow else origin(request.url),
            "swift.credentials": request.credentials,
        }
        headers = [(name.encode(), value.encode()) for name, value in request.headers]
        async with self._client(request.url).stream(
            request.method, request.url, headers=headers, content=request.content or None, extensions=extensions
        ) as response:
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                raise OSError(f"the body is compressed ({encoding}), which was not asked for")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit:
                    break
            complete = len(body) <= limit
            charset, url = response.charset_encoding or "", str(response.url)
            return Reply(response.status_code, response.headers, bytes(body[:limit]), complete, charset, url)

    def _client(self, url: str) -> httpx.AsyncClient:
        place = origin(url)
        if place not in self._clients:
            # A kept connection may be closed by the server as the next request begins, which a POST must not repeat.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            transport = _OneHost(httpx.AsyncHTTPTransport(proxy=_proxy(httpx.URL(url)), limits=limits))
            self._clients[place] = httpx.AsyncClient(
                transport=transport, headers=HEADERS, timeout=None, follow_redirects=True, max_redirects=MAX_REDIRECTS
            )
        return self._clients[place]


class _OneHost(httpx.AsyncBaseTransport):
    """The last step before the network: refuses other hosts than the request's, and attaches its credentials.

    They are attached to a copy of the request, because httpx logs the URL of the original.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        allowed, target = request.extensions["swift.origin"], origin(str(request.url))
        if allowed and target != allowed:
            raise OtherHostError(f"the server redirects to another host ({target}), which is not followed")
        return await self._inner.handle_async_request(_attached(request, request.extensions["swift.credentials"]))

    async def aclose(self) -> None:
        await self._inner.aclose()


def _attached(request: httpx.Request, credentials: Credentials) -> httpx.Request:
    headers = request.headers.copy()
    for name, value in credentials.headers:
        headers[name] = value
    if credentials.cookies:
        cookies = [f"{name}={value}" for name, value in credentials.cookies]
        headers["Cookie"] = "; ".join([*([headers["Cookie"]] if "Cookie" in headers else []), *cookies])
    url = request.url
    if credentials.query:
        added = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in credentials.query)
        query = url.query.decode()
        url = url.copy_with(query=f"{query}&{added}".lstrip("&").encode())
    return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)


def origin(url: str) -> str:
    """Scheme, host and port of a URL, `https://example.com:8443`; no port where it is the scheme's own."""
    parsed = httpx.URL(url)
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return f"{parsed.scheme}://{host}{'' if parsed.port is None else f':{parsed.port}'}"  # httpx drops default ports


def _proxy(url: httpx.URL) -> str | None:
    """The proxy that the environment names for a URL; none for this machine."""
    if url.host in LOOPBACK or urllib.request.proxy_bypass(url.host):
        return None
    return urllib.request.getproxies().get(url.scheme)
