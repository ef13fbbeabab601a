"""Who may use the pages, and what a page may load: an ASGI layer around the whole app. Knows no page."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import os
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = Callable[[Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PASSWORD = "SWIFT_STUDIO_PASSWORD"
LEAST_PASSWORD, LEAST_TOKEN = 8, 32
LOGIN_PAUSE = 1.0
"""Seconds between two attempts at the password, of all clients together."""
MAX_UPLOAD = 256 * 2**20
"""Bytes of a request."""
MAX_LOGIN = 4096
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'nonce-{nonce}' 'unsafe-eval'",  # Vue compiles templates in the browser
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>SWIFT studio</title>
<style>body{{font:16px system-ui,sans-serif;max-width:22rem;margin:18vh auto;padding:0 1rem;color-scheme:light dark}}
input,button{{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin:.3rem 0}}</style>
<h1>SWIFT studio</h1><p role="alert">{message}</p>{form}</html>"""
FORM = """<form method="post" action="/login"><label>Password / 密码
<input type="password" name="password" autocomplete="current-password" autofocus required></label>
<button>Open / 打开</button></form>"""


def token(file: Path) -> str:
    """The secret of this user's studio, which a restarted server keeps, so that open pages go on.

    Raises OSError where it cannot be kept.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if len(found := _read(file)) >= LEAST_TOKEN:
        return found
    with tempfile.NamedTemporaryFile("w", dir=file.parent, encoding="ascii") as new:  # readable to its owner alone
        new.write(secrets.token_urlsafe(32))
        new.flush()
        if found:
            file.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):  # another server was first
            os.link(new.name, file)
    return _read(file)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def password(host: str, file: str | None) -> str | None:
    """The password of the pages. Raises ValueError where one is needed and missing, or is too short."""
    given = os.environ.get(PASSWORD)
    if file is not None:
        given = Path(file).expanduser().read_text(encoding="utf-8").strip()
    if given is not None and len(given) < LEAST_PASSWORD:
        raise ValueError(f"the password has fewer than {LEAST_PASSWORD} characters")
    if given is None and host not in LOOPBACK:
        raise ValueError(f"--host {host} lets other machines in, which needs a password: --password_file or {PASSWORD}")
    return given


class Guard:
    """Lets through requests that name this host and have the cookie, and adds the headers that confine a page.

    The cookie comes from the token in the printed address, or from the password. `names`: further names of this host.
    """

    def __init__(
        self, app: App, secret: str, password: str | None, names: tuple[str, ...], local: bool, port: int
    ) -> None:
        self.app, self.password, self.local = app, password, local
        self.names = {*LOOPBACK, *(name.lower() for name in names)}
        self.cookie = f"swift_studio_{port}"  # cookies of two ports of a host are not apart
        self.secret = secret
        self.session = hmac.new(secret.encode(), (password or "").encode(), hashlib.sha256).hexdigest()
        self._next_attempt = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._names_us(headers.get("host", "")):
            return await _refuse(scope, send, 421, f"this address is not served here: {headers.get('host', '')}")
        if not self._same_origin(scope, headers):
            return await _refuse(scope, send, 403, "a page of another origin may not send this")
        if scope["type"] == "http" and (answer := await self._enter(scope, receive)):
            return await answer(send)
        if not self._has_cookie(headers):
            if scope["type"] == "websocket":
                return await _refuse(scope, send, 401, "")
            hint = "Open the address that swift studio has printed in its terminal. / 请打开终端中显示的网址。"
            return await self._login(401, "" if self.password else hint)(send)
        if int(headers.get("content-length") or 0) > MAX_UPLOAD:
            return await _refuse(scope, send, 413, f"at most {MAX_UPLOAD >> 20} MiB at a time")
        await self.app(scope, _limited(receive), send if scope["type"] == "websocket" else _Confined(send).send)

    def _names_us(self, host: str) -> bool:
        """Whether the Host header is a name of this server; a page of a rebound name would have its own."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self.names:
            return True
        if self.local:
            return False
        try:
            return bool(ipaddress.ip_address(name))  # no name that DNS could point elsewhere
        except ValueError:
            return False

    def _same_origin(self, scope: Scope, headers: dict[str, str]) -> bool:
        """Whether a request that may change something comes from a page of this server, or from no page."""
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            return True
        origin = headers.get("origin")
        return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()

    def _has_cookie(self, headers: dict[str, str]) -> bool:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self.session.encode())

    async def _enter(self, scope: Scope, receive: Receive) -> Answer | None:
        """The answer to a request that brings the token or the password; None for any other."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), None)
        if scope["method"] == "GET" and given is not None:
            if not hmac.compare_digest(given.encode(), self.secret.encode()):
                return self._login(401, "This token is of another studio, or old. / 此令牌已失效。")
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["path"].lstrip("/")  # `//host` would be another host
            return self._welcome(path + (f"?{rest}" if rest else ""))
        if scope["method"] == "POST" and scope["path"] == "/login" and self.password is not None:
            body = await _body(receive, MAX_LOGIN)
            attempt = parse_qs(body.decode("utf-8", errors="replace")).get("password", [""])[0]
            now = time.monotonic()
            if now < self._next_attempt:
                return self._login(429, "One attempt a second / 每秒只能尝试一次")
            self._next_attempt = now + LOGIN_PAUSE
            if not hmac.compare_digest(attempt.encode(), self.password.encode()):
                return self._login(401, "Wrong password / 密码错误")
            return self._welcome("/")
        return None

    def _login(self, code: int, message: str) -> Answer:
        page = LOGIN.format(message=message, form=FORM if self.password else "")
        return lambda send: _respond(send, code, page, {"content-type": "text/html; charset=utf-8"})

    def _welcome(self, location: str) -> Answer:
        cookie = f"{self.cookie}={self.session}; Path=/; HttpOnly; SameSite=Lax; Max-Age=2592000"
        return lambda send: _respond(send, 303, "", {"location": location, "set-cookie": cookie})


class _Confined:
    """Adds the headers to a response, and a nonce to the scripts of a page, which the policy lets run alone."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._nonce = secrets.token_urlsafe(16)
        self._start: MutableMapping[str, Any] | None = None
        self._body = bytearray()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [(name, value) for name, value in message["headers"] if name.lower().decode() not in HEADERS]
            kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
            headers += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            headers.append((b"content-security-policy", POLICY.format(nonce=self._nonce).encode()))
            message["headers"] = headers
            if kind.startswith(b"text/html"):
                self._start = message
                return
        elif self._start is not None and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            # NiceGUI escapes `<` in all content of a page, so that these are scripts of its template
            body = bytes(self._body).replace(b"<script", b'<script nonce="%s"' % self._nonce.encode())
            kept = [(name, value) for name, value in self._start["headers"] if name.lower() != b"content-length"]
            self._start["headers"] = [
                *kept,
                (b"content-length", str(len(body)).encode()),
                (b"cache-control", b"no-store"),
            ]
            await self._send(self._start)
            self._start = None
            message = {"type": "http.response.body", "body": body}
        await self._send(message)


def _limited(receive: Receive) -> Receive:
    """`receive` for a body of at most `MAX_UPLOAD` bytes, also where its length is not announced."""
    total = 0

    async def limited() -> MutableMapping[str, Any]:
        nonlocal total
        message = await receive()
        if message["type"] == "http.request":
            total += len(message.get("body", b""))
            if total > MAX_UPLOAD:
                return {"type": "http.disconnect"}
        return message

    return limited


async def _body(receive: Receive, limit: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body") or len(body) > limit:
            return body[:limit]


async def _refuse(scope: Scope, send: Send, code: int, text: str) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008, "reason": ""})
    await _respond(send, code, text, {"content-type": "text/plain; charset=utf-8"})


async def _respond(send: Send, code: int, text: str, headers: dict[str, str]) -> None:
    body = text.encode()
    style = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    every = {**HEADERS, "content-security-policy": style, "cache-control": "no-store", **headers}
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in every.items()]
    await send(
        {"type": "http.response.start", "status": code, "headers": [*raw, (b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})
