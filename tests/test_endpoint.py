"""`swift infer --endpoint` through its front door, with a server of ours on the loopback and a scripted model in it."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_server import Scripted, served

from swift import cli
from swift.chat import Delta, Message, ToolCall, Usage
from swift.infer.repl import RULE
from swift.infer.reply_view import ReplyView
from swift.serve.server import create_app

Run = Callable[..., tuple[int, str, str]]
CLOSED = "http://127.0.0.1:9/v1"
WEATHER = '''
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: rain"
'''


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `swift infer` with `typed` piped in; returns its exit code and what it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWIFT_API_KEY", raising=False)

    def run(*words: object, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = cli.main(["infer", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refused(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err.removeprefix("swift: error: ").rstrip()


def test_a_dialogue_with_a_server_is_shown_saved_and_remembers(swift: Run, tmp_path: Path) -> None:
    chat = Scripted()
    with served(create_app(chat, "tiny")) as url:
        code, out, err = swift("--endpoint", f"{url}/v1", "--system", "Be kind.", typed="hi\nand now?\n")
    assert code == 0
    assert out == f"<<< hi\nHello there\n{RULE}\n<<< and now?\nHello there\n{RULE}\n"
    assert f"model: tiny at {url}/v1" in err
    assert [[message.content for message in asked[0]] for asked in chat.asked] == [
        ["Be kind.", "hi"],
        ["Be kind.", "hi", "Hello there", "and now?"],
    ]
    (file,) = (tmp_path / "output" / "infer_result").glob("*.jsonl")
    first, second = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert (first["system"], first["query"], first["response"]) == ("Be kind.", "hi", "Hello there")
    assert second["history"] == [["hi", "Hello there"]]


def test_functions_of_tools_run_here_and_reasoning_and_calls_are_shown(swift: Run, tmp_path: Path) -> None:
    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        if messages[-1].role == "tool":
            return iter([Delta(f"It says {messages[-1].content}.", finish="stop", usage=Usage(3, 2))])
        call = ToolCall("weather", '{"city": "Oslo"}', "c1")
        return iter([Delta(reasoning="hm"), Delta(tool_call=call), Delta(finish="tool_calls", usage=Usage(3, 2))])

    chat = Scripted(script)
    (tmp_path / "tools.py").write_text(WEATHER)
    with served(create_app(chat, "tiny")) as url:
        code, out, _ = swift(
            "--endpoint", f"{url}/v1", "--tools", "tools.py", "--save_result", "false", typed="Rain?\n"
        )
    assert code == 0
    assert "<think>\nhm\n</think>" in out
    assert '{"name": "weather", "arguments": {"city": "Oslo"}}' in out
    assert f"It says Oslo: rain.\n{RULE}\n" in out
    assert [tool.name for tool in chat.asked[0][1]] == ["weather"]
    assert not (tmp_path / "output").exists()


def test_sampling_flags_are_sent_where_they_are_given_and_left_to_the_server_elsewhere(swift: Run) -> None:
    chat = Scripted()
    with served(create_app(chat, "tiny")) as url:
        swift("--endpoint", f"{url}/v1", typed="hi\n")
        swift(
            *("--endpoint", f"{url}/v1", "--temperature", 0.5, "--top_k", 3, "--max_new_tokens", 9, "--seed", 7),
            *("--stop_words", "END", "--enable_thinking", "false"),
            typed="hi\n",
        )
    silent, given = (asked[2] for asked in chat.asked)
    assert (silent.temperature, silent.top_k, silent.max_tokens, silent.stop) == (1.0, 0, None, ())
    assert (given.temperature, given.top_k, given.max_tokens, given.seed) == (0.5, 3, 9, 7)
    assert (given.top_p, given.stop) == (1.0, ("END",))
    assert chat.template_kwargs == {"enable_thinking": False}


def test_the_server_is_asked_for_confidence_only_where_the_dialogue_asks_below_one(swift: Run, tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(WEATHER)
    chat = Scripted()
    with served(create_app(chat, "tiny")) as url:
        swift("--endpoint", f"{url}/v1", "--tools", "tools.py", typed="hi\n")
        swift("--endpoint", f"{url}/v1", "--tools", "tools.py", "--ask_below", 0.5, typed="hi\n")
    assert [asked[2].confidence for asked in chat.asked] == [False, True]


def test_a_doubtful_call_that_the_server_did_not_make_is_shown(swift: Run, tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(WEATHER)
    doubtful = ToolCall("weather", '{"city": "Oslo"}', "c1", 0.03)
    chat = Scripted(lambda _: iter([Delta("In words.", finish="stop", usage=Usage(3, 2), declined=(doubtful,))]))
    with served(create_app(chat, "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--ask_below", 0.5)
        _, out, _ = swift(*words, typed="hi\n")
    assert "In words.\n[not called: weather: 0.03]\n" in out


def test_ctrl_c_stops_a_reply_and_the_dialogue_goes_on(swift: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, stopped = Scripted(), threading.Event()
    show = ReplyView.show

    def interrupted(view: Any, *args: Any, **kwargs: Any) -> None:
        show(view, *args, **kwargs)
        if not stopped.is_set():
            stopped.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(ReplyView, "show", interrupted)
    with served(create_app(chat, "tiny")) as url:
        code, out, _ = swift("--endpoint", f"{url}/v1", typed="one\ntwo\n")
    assert code == 0
    assert f"[stopped]\n{RULE}\n<<< two\nHello there\n{RULE}\n" in out


def test_ctrl_c_before_the_first_token_stops_the_server_too(swift: Run) -> None:
    begun, stopped, over = threading.Event(), threading.Event(), threading.Event()

    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        if messages[-1].content != "one":
            yield Delta("ok", finish="stop", usage=Usage(3, 1))
            return
        begun.set()
        try:
            while not over.wait(0.01):
                yield Delta()
        except GeneratorExit:
            stopped.set()
            raise

    def interrupt() -> None:
        begun.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # also wakes a read that waits

    with served(create_app(Scripted(script), "tiny")) as url:
        threading.Thread(target=interrupt).start()
        code, out, _ = swift("--endpoint", f"{url}/v1", typed="one\ntwo\n")
        assert stopped.wait(5)
        over.set()
    assert code == 0
    assert out == f"<<< one\n[stopped]\n{RULE}\n<<< two\nok\n{RULE}\n"


def test_a_key_opens_a_server_with_keys_from_the_flag_or_the_environment(
    swift: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(create_app(Scripted(), "tiny", api_keys=["k"])) as url:
        endpoint = f"{url}/v1"
        assert refused(swift("--endpoint", endpoint)) == (
            f"{endpoint}: the server requires an API key: set --api_key or SWIFT_API_KEY"
        )
        assert refused(swift("--endpoint", endpoint, "--api_key", "no")) == (
            f"{endpoint}: the server rejects the API key: set --api_key or SWIFT_API_KEY"
        )
        assert "Hello there" in swift("--endpoint", endpoint, "--api_key", "k", typed="hi\n")[1]
        monkeypatch.setenv("SWIFT_API_KEY", "k")
        assert "Hello there" in swift("--endpoint", endpoint, typed="hi\n")[1]


def test_a_server_that_cannot_be_used_is_one_clear_line(swift: Run) -> None:
    assert refused(swift("--endpoint", CLOSED)).startswith(f"{CLOSED}: no server can be reached there (")
    with served(create_app(Scripted(), "tiny", adapter_names=["poem"])) as url:
        assert refused(swift("--endpoint", url)) == (
            f"{url}: no OpenAI-compatible API answers there; did you mean {url}/v1?"
        )
        assert refused(swift("--endpoint", f"{url}/v1", "--model", "poems")) == (
            f"{url}/v1: no model is named 'poems' there; did you mean poem? (served: tiny, poem)"
        )
        assert "model: poem at" in swift("--endpoint", f"{url}/v1", "--model", "poem")[2]


def test_the_password_of_a_url_is_never_shown(swift: Run) -> None:
    said = refused(swift("--endpoint", "http://me:secret@127.0.0.1:9/v1"))
    assert said.startswith("http://127.0.0.1:9/v1: no server can be reached there")
    with served(create_app(Scripted(), "tiny")) as url:
        code, out, err = swift("--endpoint", f"{url.replace('://', '://me:secret@')}/v1", typed="hi\n")
    assert (code, f"model: tiny at {url}/v1" in err, "secret" in out + err) == (0, True, False)


def test_a_page_that_is_no_api_is_one_clear_line(swift: Run) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<p>welcome</p>")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        assert refused(swift("--endpoint", url)) == f"{url}: no OpenAI-compatible API answers there"
        server.shutdown()


def test_a_server_that_breaks_off_a_reply_is_one_clear_line_and_the_dialogue_goes_on(swift: Run) -> None:
    class BreaksOff(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b'{"object": "list", "data": [{"id": "tiny", "object": "model"}]}', "application/json")

        def do_POST(self) -> None:
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
            chunk["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "finish_reason": None}]
            self.answer(f"data: {json.dumps(chunk)}\n\n".encode(), "text/event-stream", missing=100)

        def answer(self, body: bytes, kind: str, missing: int = 0) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) + missing))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code, out, _ = swift("--endpoint", f"http://127.0.0.1:{server.server_port}/v1", typed="hi\nagain\n")
        server.shutdown()
    assert code == 0
    assert out.count("Hel") == 2
    assert out.count(f"error: http://127.0.0.1:{server.server_port}/v1: ") == 2


def test_what_the_server_refuses_is_shown_and_the_dialogue_goes_on(swift: Run) -> None:
    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        if messages[-1].content == "one":
            raise ValueError("not this one")
        return iter([Delta("ok", finish="stop", usage=Usage(3, 1))])

    with served(create_app(Scripted(script), "tiny")) as url:
        code, out, _ = swift("--endpoint", f"{url}/v1", typed="one\ntwo\n")
    assert code == 0
    assert f"error: {url}/v1: not this one\n<<< two\nok\n" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--endpoint", "127.0.0.1:8000"], "--endpoint 127.0.0.1:8000: must be a URL such as http://127.0.0.1:8000/v1"),
        (["--api_key", "k", "--model", "m"], "--api_key is for --endpoint"),
        (
            ["--endpoint", CLOSED, "--ckpt_dir", "x"],
            "--ckpt_dir has no effect with --endpoint: the server has the model",
        ),
        (["--endpoint", CLOSED, "--template_type", "qwen"], "--template_type has no effect with --endpoint"),
        (["--endpoint", CLOSED, "--val_dataset", "x.jsonl"], "--endpoint is for a dialogue"),
        (["--endpoint", CLOSED, "--tools", "t.py", "--guided_tools", "true"], "--guided_tools has no effect"),
    ],
)
def test_flags_without_effect_on_a_server_are_refused(swift: Run, words: list[str], said: str) -> None:
    assert refused(swift(*words)).startswith(said)


def test_a_client_of_a_server_does_not_import_torch() -> None:
    code = "import sys, swift.infer.remote_chat, swift.studio.replies; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
