"""The server under load and attack: a real server on the loopback, a real chat, and a simulated engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from swift.engine.interface import TokenOutput
from swift.engine.sampling import SamplingParams, max_new_tokens
from swift.infer.context_limit import ContextLimit
from swift.infer.local_chat import LocalChat
from swift.serve import header_timeout
from swift.serve.body_reader import Limits
from swift.serve.server import create_app
from swift.template import Renderer, template

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_token_id


class Beat:
    """An engine of one thread: at each beat every reply of the batch says the next letter of its prompt's last line.

    As with a real engine, replies beyond `batch` wait, and one that is closed leaves at the next beat.
    """

    def __init__(self, batch: int = 1000, pause: float = 0.001) -> None:
        self._batch, self._pause = batch, pause
        self._lock = threading.Lock()
        self._waiting: list[Said] = []
        self._speaking: list[Said] = []
        self.over = threading.Event()
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> Said:
        words = TOKENIZER.decode(tokens).split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]
        said = Said(TOKENIZER.encode(words, add_special_tokens=False), params.ignore_eos)
        with self._lock:
            self._waiting.append(said)
        return said

    @property
    def open(self) -> int:
        with self._lock:
            return len(self._waiting) + len(self._speaking)

    def close(self) -> None:
        self.over.set()
        self._worker.join()

    def _work(self) -> None:
        while not self.over.wait(self._pause):
            with self._lock:
                self._waiting = [each for each in self._waiting if not each.leaves()]
                room = self._batch - len(self._speaking)
                self._speaking, self._waiting = self._speaking + self._waiting[:room], self._waiting[room:]
                self._speaking = [each for each in self._speaking if each.speak()]


class Short(Beat):
    """An engine with a context, which no prompt of these tests fits."""

    context = 2048

    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> Said:
        max_new_tokens(tokens, params, self.context, len(TOKENIZER))
        return super().submit(tokens, params, inputs)


class Said:
    def __init__(self, tokens: list[int], endless: bool) -> None:
        self._tokens, self._endless, self._at = tokens, endless, 0
        self._queue: SimpleQueue[TokenOutput | None] = SimpleQueue()
        self._closed = False

    def speak(self) -> bool:
        """Says one more token; False when that was the last."""
        if self.leaves():
            return False
        if self._at == len(self._tokens) and not self._endless:
            self._queue.put(TokenOutput(EOS, 0.0, "stop"))
            return False
        self._queue.put(TokenOutput(self._tokens[self._at % len(self._tokens)], 0.0))
        self._at += 1
        return True

    def leaves(self) -> bool:
        if self._closed:
            self._queue.put(None)
        return self._closed

    def __iter__(self) -> Said:
        return self

    def __next__(self) -> TokenOutput:
        step = self._queue.get()
        if step is None:
            raise StopIteration
        return step

    def close(self) -> None:
        self._closed = True


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        config = uvicorn.Config(
            app, http=header_timeout.HeaderTimeoutProtocol, log_level="critical", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def served(engine: Beat, **options: Any) -> Iterator[str]:
    chat = LocalChat(engine, Renderer(TOKENIZER, template("chatml")))
    with contextlib.closing(engine), running(create_app(chat, "tiny", complete=chat.complete, **options)) as url:
        yield url


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


def text_of(events: str) -> str:
    lines = [line[6:] for line in events.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return "".join(each["delta"].get("content", "") for line in lines for each in json.loads(line)["choices"])


def eventually(true: Any) -> bool:
    for _ in range(300):
        if true():
            return True
        time.sleep(0.02)
    return False


def test_two_hundred_concurrent_streams_are_complete_and_not_mixed_up() -> None:
    async def all_of_them(url: str) -> list[str]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=60, limits=limits) as http:

            async def one(number: int) -> str:
                said = body(f"{number} says {'a雨' * 20} {number}", stream=True)
                return (await http.post(f"{url}/v1/chat/completions", json=said)).text

            return await asyncio.gather(*map(one, range(200)))

    # A batch smaller than the number of clients: most of them wait while others are generated.
    with served(Beat(batch=64)) as url:
        answers = asyncio.run(all_of_them(url))
    assert [text_of(each) for each in answers] == [f"{n} says {'a雨' * 20} {n}" for n in range(200)]


def test_the_server_answers_others_while_hundreds_wait() -> None:
    async def health(url: str) -> int:
        async with httpx.AsyncClient(timeout=10) as http:
            waiting = [asyncio.create_task(http.post(f"{url}/v1/chat/completions", json=body("x"))) for _ in range(90)]
            await asyncio.sleep(0.3)
            status = (await http.get(f"{url}/health")).status_code
            for task in waiting:
                task.cancel()
            return status

    with served(Beat(batch=0)) as url:
        assert asyncio.run(health(url)) == 200


@pytest.mark.parametrize("batch", [10, 0])
@pytest.mark.parametrize("stream", [True, False])
def test_the_reply_of_a_client_that_disconnects_is_cancelled_running_or_waiting(stream: bool, batch: int) -> None:
    engine = Beat(batch)
    with served(engine) as url, socket.create_connection(address(url)) as leaving:
        leaving.sendall(request(body("la ", ignore_eos=True, stream=stream)))
        assert eventually(lambda: engine.open == 1)
        leaving.close()
        assert eventually(lambda: engine.open == 0)
        running = figure(url, 'vllm:num_requests_running{model_name="tiny"}')
        assert figure(url, "swift_replies_waiting") == running == 0


@pytest.mark.parametrize("stream", [True, False])
def test_the_tokens_of_a_cancelled_reply_are_logged(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="swift.serve")
    engine = Beat()
    with served(engine) as url, socket.create_connection(address(url)) as leaving:
        leaving.sendall(request(body("la ", ignore_eos=True, stream=stream)))
        assert eventually(lambda: engine.open == 1)
        time.sleep(0.1)
        leaving.close()
        assert eventually(lambda: caplog.records)
    fields = caplog.records[0].fields  # type: ignore[attr-defined]
    assert (fields["status"], fields["finish"]) == (499, "cancelled")
    assert fields["prompt_tokens"] > 3 and fields["completion_tokens"] > 0


def test_all_choices_of_a_client_that_disconnects_end() -> None:
    engine = Beat()
    with served(engine) as url, socket.create_connection(address(url)) as leaving:
        leaving.sendall(request(body("la ", ignore_eos=True, stream=True, n=5)))
        assert eventually(lambda: engine.open == 5)
        leaving.close()
        assert eventually(lambda: engine.open == 0)


def test_a_client_that_does_not_read_delays_nobody_and_gets_everything_in_the_end() -> None:
    said = "slow " * 3000
    with served(Beat(pause=0.0)) as url, socket.create_connection(address(url)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        slow.sendall(request(body(said, stream=True), "Connection: close\r\n"))
        time.sleep(0.3)
        quick = httpx.post(f"{url}/v1/chat/completions", json=body("quick")).json()
        assert quick["choices"][0]["message"]["content"] == "quick"
        received = b"".join(iter(lambda: slow.recv(65536), b"")).decode()
    events = [line[6:] for line in received.splitlines() if line.startswith("data: {")]
    deltas = [each["delta"].get("content") or "" for event in events for each in json.loads(event)["choices"]]
    assert "".join(deltas) == said


def test_requests_beyond_the_queue_are_told_to_retry_and_are_then_answered() -> None:
    async def flood(url: str, clients: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=None)) as http:
            asked = [http.post(f"{url}/v1/chat/completions", json=body(f"number {n}")) for n in range(clients)]
            return await asyncio.gather(*asked)

    with served(Beat(batch=4, pause=0.005), limits=Limits(queue=16)) as url:
        answers = asyncio.run(flood(url, 100))
        assert asyncio.run(flood(url, 1))[0].status_code == 200
        too_many = httpx.post(f"{url}/v1/chat/completions", json=body("x", n=17))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    assert sum(answer.status_code == 200 for answer in answers) >= 16
    for number, answer in enumerate(answers):
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        else:
            assert answer.json()["choices"][0]["message"]["content"] == f"number {number}"
    assert too_many.status_code == 400 and too_many.json()["error"]["param"] == "n"


def test_headers_that_trickle_in_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_timeout.HeaderTimeoutProtocol, "timeout", 0.2)
    with served(Beat()) as url:
        for beginning in (b"", b"POST /v1/chat/comp", b"GET /health HTTP/1.1\r\nHost: x\r\n"):
            with socket.create_connection(address(url), timeout=5) as slow:
                slow.sendall(beginning)
                assert slow.recv(100) == b""
        with socket.create_connection(address(url), timeout=5) as kept:  # a second request on a kept connection too
            kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answered = b""
            while not answered.endswith(b'{"status":"ok"}'):
                answered += kept.recv(1000)
            kept.sendall(b"GET /hea")
            assert kept.recv(100) == b""
        with socket.create_connection(address(url), timeout=5) as busy:  # nor is a reply under way cut
            busy.sendall(request(body("a" * 400, stream=True), "Connection: close\r\n"))
            assert b"[DONE]" in b"".join(iter(lambda: busy.recv(65536), b""))


def test_a_body_that_trickles_in_times_out() -> None:
    with served(Beat(), limits=Limits(timeout=0.2)) as url, socket.create_connection(address(url), timeout=5) as slow:
        slow.sendall(request(body("x"))[:-5])
        received = b"".join(iter(lambda: slow.recv(1000), b""))
    assert b" 408 " in received and b"within 0.2 seconds" in received


def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    with served(Beat(), limits=Limits(body=1000)) as url, socket.create_connection(address(url), timeout=5) as long:
        long.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n" + b" " * 2000
        )
        received = b"".join(iter(lambda: long.recv(1000), b""))
    assert b" 413 " in received


def test_a_prompt_beyond_any_bound_is_refused_before_it_is_run() -> None:
    engine = Beat()
    with served(engine, limits=Limits(body=10_000)) as url:
        assert httpx.post(f"{url}/v1/chat/completions", json=body("x" * 20_000)).status_code == 413
    assert engine.open == 0


HEAVY = {
    "a letter": ("chat/completions", body("x" * 4_000_000)),
    "no spaces": ("chat/completions", body("北京欢迎你" * 100_000)),
    "words": ("chat/completions", body("The quick brown fox. " * 150_000)),
    "a text": ("completions", {"model": "tiny", "prompt": "x" * 4_000_000}),
    "messages": ("chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "x"}] * 16_000}),
}


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("name", HEAVY)
def test_others_are_answered_while_a_long_body_is_read(name: str, bounded: bool) -> None:
    """The longest wait meanwhile is short: a few of the waits without the body, or half of the body's own time."""
    path, sent = HEAVY[name]
    content = json.dumps(sent, ensure_ascii=False).encode()

    def waits(url: str, over: threading.Event, least: int) -> list[float]:
        found: list[float] = []
        with httpx.Client(base_url=url, timeout=60) as http:
            while len(found) < least or not over.is_set():
                began = time.perf_counter()
                assert http.get("/health").status_code == 200
                found.append(time.perf_counter() - began)
        return found

    with served(Short(), **({"check_length": ContextLimit(TOKENIZER, Short.context).check} if bounded else {})) as url:
        over = threading.Event()
        over.set()
        idle = max(waits(url, over, 100))
        over.clear()
        meanwhile: list[float] = []
        watching = threading.Thread(target=lambda: meanwhile.extend(waits(url, over, 1)))
        watching.start()
        began = time.perf_counter()
        answer = httpx.post(f"{url}/v1/{path}", content=content, timeout=120)
        took = time.perf_counter() - began
        over.set()
        watching.join()
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert max(meanwhile) < max(0.2, 20 * idle, took / 2)


NESTED = b'{"a":' * 5000 + b"1" + b"}" * 5000


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xfe",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\xc3\x28"}]}',
        NESTED,
        b"[" * 100_000,
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", '
        b'"function": {"name": "f", "parameters": ' + b'{"properties": {"a": ' * 90 + b"{}" + b"}}" * 90 + b"}}]}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "seed": 1e400}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": ' + b"9" * 5000 + b"}",
    ],
    ids=range(8),
)
def test_hostile_bodies_are_answered_and_the_server_lives(sent: bytes) -> None:
    with served(Beat()) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", content=sent)
        assert answer.status_code in (200, 400), answer.text
        assert httpx.get(f"{url}/health").status_code == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["messages", "prompt", "tools", "tool_choice", "response_format", "logprobs", "top_logprobs", "n", "seed"]
FIELDS += ["stop", "stream", "stream_options", "logit_bias", "temperature", "top_p", "max_tokens", "echo", "suffix"]
FIELDS += ["max_completion_tokens", "parallel_tool_calls", "user", "functions", "modalities"]


def test_no_body_makes_the_server_fail(caplog: pytest.LogCaptureFixture) -> None:
    """As schemathesis would, but from our own field names; tests/test_openapi.py does the same from the document."""
    caplog.set_level(logging.CRITICAL)
    with served(Beat()) as url, httpx.Client(base_url=url, timeout=20) as http:

        @settings(max_examples=150, deadline=None)
        @given(
            st.sampled_from(["chat/completions", "completions"]), st.dictionaries(st.sampled_from(FIELDS), json_values)
        )
        def ask(path: str, fields: dict[str, Any]) -> None:
            sent = {**body("x", prompt="x", max_tokens=2), **fields}
            answer = http.post(f"/v1/{path}", content=json.dumps(sent).encode())
            assert answer.status_code < 500, answer.text
            if answer.status_code != 200:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

        ask()


def address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def request(sent: dict[str, Any], headers: str = "") -> bytes:
    content = json.dumps(sent).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def figure(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))
