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
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
"""Of a report, a whole page with its style in it: it runs no script, and is not of this origin."""
OWN_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
"""Of the pages of this file."""
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
        self, app: ASGIApp, secret: str, password: str | None, names: tuple[str, ...], local: bool, port: int
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
        is_page = scope["type"] == "http"
        answer = await self._answer(HTTPConnection(scope), receive)
        if answer is None:
            return await self.app(scope, _limited(receive), _Confined(send).send if is_page else send)
        if not is_page:
            return await send({"type": "websocket.close", "code": 1008})
        for name, value in {**HEADERS, "content-security-policy": OWN_POLICY, "cache-control": "no-store"}.items():
            answer.headers[name] = value
        await answer(scope, receive, send)

    async def _answer(self, asked: HTTPConnection, receive: Receive) -> Response | None:
        """A refusal, the login, or the cookie; None for a request that is let through."""
        host = asked.headers.get("host", "")
        if not self._names_us(host):
            return PlainTextResponse(f"this address is not served here: {host}", 421)
        if not self._same_origin(asked):
            return PlainTextResponse("a page of another origin may not send this", 403)
        if asked.scope["type"] == "http" and (entered := await self._enter(Request(asked.scope, receive))):
            return entered
        if not hmac.compare_digest(asked.cookies.get(self.cookie, "").encode(), self.session.encode()):
            hint = "Open the address that swift studio has printed in its terminal. / 请打开终端中显示的网址。"
            return self._login(401, "" if self.password else hint)
        if int(asked.headers.get("content-length") or 0) > MAX_UPLOAD:
            return PlainTextResponse(f"at most {MAX_UPLOAD >> 20} MiB at a time", 413)
        return None

    def _names_us(self, host: str) -> bool:
        """Whether the Host header is a name of this server; a page of a rebound name would have its own."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            # an address is no name that DNS could point elsewhere
            return name in self.names or (not self.local and bool(ipaddress.ip_address(name)))
        except ValueError:
            return False

    def _same_origin(self, asked: HTTPConnection) -> bool:
        """Whether a request that may change something comes from a page of this server, or from no page."""
        if asked.scope["type"] == "http" and asked.scope["method"] in ("GET", "HEAD"):
            return True
        origin = asked.headers.get("origin")
        return origin is None or urlsplit(origin).netloc.lower() == asked.headers.get("host", "").lower()

    async def _enter(self, request: Request) -> Response | None:
        """The answer to a request that brings the token or the password; None for any other."""
        query, path = request.query_params.multi_items(), request.scope["path"]
        given = request.query_params.get("token")
        if request.method == "GET" and given is not None:
            if not hmac.compare_digest(given.encode(), self.secret.encode()):
                return self._login(401, "This token is of another studio, or old. / 此令牌已失效。")
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            # `//host` would be another host
            return self._welcome(f"/{path.lstrip('/')}" + (f"?{rest}" if rest else ""))
        if request.method == "POST" and path == "/login" and self.password is not None:
            attempt = parse_qs(await _body(request)).get("password", [""])[0]
            now = time.monotonic()
            if now < self._next_attempt:
                return self._login(429, "One attempt a second / 每秒只能尝试一次")
            self._next_attempt = now + LOGIN_PAUSE
            if not hmac.compare_digest(attempt.encode(), self.password.encode()):
                return self._login(401, "Wrong password / 密码错误")
            return self._welcome("/")
        return None

    def _login(self, code: int, message: str) -> Response:
        return HTMLResponse(LOGIN.format(message=message, form=FORM if self.password else ""), code)

    def _welcome(self, location: str) -> Response:
        answer = RedirectResponse(location, 303)
        answer.set_cookie(self.cookie, self.session, max_age=2_592_000, httponly=True, samesite="lax")
        return answer


class _Confined:
    """Adds the headers to a response, and a nonce to the scripts of a page, which the policy lets run alone.

    A response that has a policy of its own keeps it.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._nonce = secrets.token_urlsafe(16)
        self._start: Message | None = None
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            confined = "content-security-policy" in headers
            headers.setdefault("content-security-policy", POLICY.format(nonce=self._nonce))
            if headers.get("content-type", "").startswith("text/html") and not confined:
                self._start = message
                return
        elif self._start is not None and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            # NiceGUI escapes `<` in all content of a page, so that these are scripts of its template
            body = bytes(self._body).replace(b"<script", b'<script nonce="%s"' % self._nonce.encode())
            headers = MutableHeaders(scope=self._start)
            headers["content-length"], headers["cache-control"] = str(len(body)), "no-store"
            await self._send(self._start)
            self._start = None
            message = {"type": "http.response.body", "body": body}
        await self._send(message)


def _limited(receive: Receive) -> Receive:
    """`receive` for a body of at most `MAX_UPLOAD` bytes, also where its length is not announced."""
    total = 0

    async def limited() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b"")) if message["type"] == "http.request" else 0
        return message if total <= MAX_UPLOAD else {"type": "http.disconnect"}

    return limited


async def _body(request: Request) -> str:
    """The body of a login, as far as it is read."""
    body = b""
    with contextlib.suppress(ClientDisconnect):
        async for part in request.stream():
            body += part
            if len(body) > MAX_LOGIN:
                break
    return body[:MAX_LOGIN].decode("utf-8", errors="replace")
