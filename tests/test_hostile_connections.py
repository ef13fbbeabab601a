"""Connections that do harm: many of them, silent ones, heads without end. Others are answered all the same."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import httpx
import pytest
import uvicorn

from swift.chat import Delta, Message, Tool, Usage
from swift.engine.sampling import SamplingParams
from swift.serve.connection_limits import BACKLOG, KEEP_ALIVE, MAX_HEAD, LimitedProtocol, OpenConnections
from swift.serve.server import create_app

PLAIN = SamplingParams()
Address = tuple[str, int]


class Slow:
    """A chat that says one word at once, and another when it may."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def __call__(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        params: SamplingParams = PLAIN,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Iterator[Delta]:
        yield Delta("first ")
        self.may_end.wait(30)
        yield Delta("last", finish="stop", usage=Usage(1, 2))


@contextlib.contextmanager
def served(chat: Any, limit: int) -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening:
        config = uvicorn.Config(
            create_app(chat, "tiny"),
            http=partial(LimitedProtocol, OpenConnections(limit)),
            h11_max_incomplete_event_size=MAX_HEAD,
            log_config=None,
            timeout_keep_alive=0,  # the protocol's own counts
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def connect(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=20)


def health(address: Address) -> int:
    return httpx.get(f"http://{address[0]}:{address[1]}/health", timeout=20).status_code


def test_a_client_may_send_its_next_request_on_a_connection_that_was_silent_for_a_while() -> None:
    with served(Slow(), 10) as address, connect(address) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert KEEP_ALIVE > 60, "seconds; other clients keep theirs for up to a minute"


def ask(address: Address, **fields: Any) -> socket.socket:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()
    asking = connect(address)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    asking.sendall(head.encode() + body)
    return asking


def rest(asking: socket.socket) -> bytes:
    return b"".join(iter(lambda: asking.recv(65536), b""))


def is_closed(silent: socket.socket) -> bool:
    silent.setblocking(False)
    try:
        return silent.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_hundreds_of_silent_connections_make_room_for_those_who_speak(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "swift.serve")
    chat = Slow()
    with contextlib.ExitStack() as opened, served(chat, limit=100) as address:
        streamed = opened.enter_context(ask(address, stream=True))
        begun = streamed.recv(65536)
        while b"first" not in begun:
            begun += streamed.recv(65536)
        silent = [opened.enter_context(connect(address)) for _ in range(500)]
        for half in silent[::2]:
            with contextlib.suppress(OSError):  # it may be closed already
                half.sendall(b"POST /v1/chat")
        assert health(address) == 200
        assert sum(map(is_closed, silent[:300])) == 300, "the oldest go first"
        assert not is_closed(silent[-1])
        chat.may_end.set()
        assert b"last" in rest(streamed), "a reply under way is never cut"
    warned = [each.getMessage() for each in caplog.records if "connections are open" in each.getMessage()]
    assert len(warned) == 1, "once a minute"
    assert "ulimit -n" in warned[0]


def test_a_server_whose_connections_all_have_requests_says_so_to_others() -> None:
    chat = Slow()
    with contextlib.ExitStack() as opened, served(chat, limit=5) as address:
        asking = [opened.enter_context(ask(address, stream=True)) for _ in range(5)]
        assert all(b"200 OK" in each.recv(65536) for each in asking)
        with connect(address) as other:
            refused = rest(other)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["type"] == "server_error"
        chat.may_end.set()
        assert all(b"last" in rest(each) for each in asking)
        assert health(address) == 200


def test_a_kept_connection_between_requests_may_be_closed_and_one_that_asks_again_not() -> None:
    with contextlib.ExitStack() as opened, served(Slow(), limit=2) as address:
        kept = [opened.enter_context(connect(address)) for _ in range(2)]
        for each in kept:
            each.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while not received.endswith(b'{"status":"ok"}'):
                received += each.recv(65536)
        assert health(address) == 200
        assert is_closed(kept[0])


@pytest.mark.parametrize(
    ("sent", "status", "what"),
    [
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2**20 + b"\r\n\r\n", 431, "longer than 65536 bytes"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 200_000 + b"\r\n", 431, "longer than 65536 bytes"),
        (b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "longer than 65536 bytes"),
        (b"\x16\x03\x01\x00\xff" * 100 + b"\r\n\r\n", 400, "is not HTTP"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "is not HTTP"),
    ],
    ids=["header", "headers", "path", "not HTTP", "length"],
)
def test_a_head_without_end_or_that_is_not_http_is_one_error(sent: bytes, status: int, what: str) -> None:
    with served(Slow(), limit=10) as address:
        with connect(address) as attacking:
            with contextlib.suppress(OSError):  # the server closes before it has read everything
                attacking.sendall(sent)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while more := attacking.recv(65536):
                    received += more
        assert received.startswith(f"HTTP/1.1 {status} ".encode()), received[:200]
        assert what in json.loads(received.partition(b"\r\n\r\n")[2])["error"]["message"]
        assert health(address) == 200


def test_the_limit_of_open_files_is_raised_as_far_as_allowed() -> None:
    code = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard));"
        "from swift.system.open_files import MOST, raise_limit; raised = raise_limit();"
        "assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[0], raised;"
        "assert raised == (MOST if hard < 0 else min(hard, MOST)), raised;"
        "assert raise_limit() == raised"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
