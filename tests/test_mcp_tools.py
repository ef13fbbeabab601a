"""The tools of MCP servers run over standard input and output and over HTTP; what a server does ends in one line."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp_house import house
from sse_starlette.sse import AppStatus
from test_server import Scripted as ScriptedChat
from test_server import served

from swift import cli
from swift.chat import Delta, Message, ToolCall, Usage
from swift.serve.server import create_app
from swift.tools.bound_tool import BoundTool
from swift.tools.call import Limits, Result, call, call_all
from swift.tools.mcp.source import McpServer
from swift.tools.toolbox import Toolbox

TESTS = Path(__file__).parent
PYTHON = sys.executable
HOUSE = shlex.join([PYTHON, str(TESTS / "mcp_house.py")])
NOTES = TESTS.parent / "examples" / "agent" / "notes_mcp.py"


def old(*manners: str) -> str:
    """The command of the server in plain Python."""
    return shlex.join([sys.executable, "-S", str(TESTS / "mcp_old.py"), *manners])


def asked(server: McpServer, name: str, seconds: float = 30.0, /, **arguments: Any) -> Result:
    return call(server.tools, ToolCall(name, json.dumps(arguments), "c1"), Limits(seconds))


def tool(tools: Sequence[BoundTool], name: str) -> BoundTool:
    return next(each for each in tools if each.name == name)


def eventually(condition: Callable[[], object]) -> bool:
    """Whether the condition holds within a minute."""
    end = time.monotonic() + 60
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(held)


def runs(process: str) -> bool:
    """Whether a thread of a process runs: its pipes stay open until the last one has ended."""
    try:
        states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in _tasks(process)]
    except (FileNotFoundError, ProcessLookupError):  # one has ended between listing and reading
        return runs(process)
    return any(state != "Z" for state in states)


def _tasks(process: str) -> list[Path]:
    folder = Path(f"/proc/{process}/task")
    return list(folder.iterdir()) if folder.exists() else []


@contextmanager
def http_server(app: Any, port: int = 0) -> Iterator[str]:
    """The URL of an ASGI application on loopback.

    Streams of sse_starlette end when any server of this process has ended, so that other tests would end them here.
    """
    AppStatus.should_exit = False
    AppStatus.disable_automatic_graceful_drain()
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert eventually(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        AppStatus.enable_automatic_graceful_drain_mode()


@pytest.fixture(scope="module")
def stdio() -> Iterator[McpServer]:
    server = McpServer(HOUSE)
    yield server
    server.close()


@pytest.fixture(scope="module")
def http() -> Iterator[McpServer]:
    with http_server(house().streamable_http_app()) as url:
        server = McpServer(url)
        yield server
        server.close()


@pytest.fixture(params=["stdio", "http"])
def server(request: pytest.FixtureRequest) -> McpServer:
    """The same server over both transports."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_a_server_gives_tools_with_names_descriptions_schemas_and_annotations(server: McpServer) -> None:
    rooms, lamps = tool(server.tools, "rooms"), tool(server.tools, "set_lamps_")
    assert server.name == rooms.source == "house"
    assert rooms.tool.description == "The rooms of a floor."
    assert rooms.tool.parameters["required"] == ["floor"]
    assert (rooms.read_only, lamps.read_only) == (True, False)
    assert lamps.tool.parameters["$defs"]["Lamp"]["properties"]["colour"]["enum"] == ["white", "red"]


def test_a_tool_whose_name_openai_refuses_is_called_by_its_own_name(server: McpServer) -> None:
    assert asked(server, "set_lamps_", lamps=[{"room": "hall", "colour": "red"}]).text == "hall: red"


def test_arguments_are_validated_before_the_server_sees_them(server: McpServer) -> None:
    result = asked(server, "set_lamps_", lamps=[{"room": "hall", "colour": "blue"}])
    assert result.failure == "bad arguments"
    assert "'blue' is not one of ['white', 'red']" in result.text


def test_structured_content_is_not_repeated_where_the_text_says_it(server: McpServer) -> None:
    assert json.loads(asked(server, "weather").text) == {"degrees": 12.5, "wet": True}
    assert asked(server, "rooms", floor=0).text == "kitchen\nhall"


def test_structured_content_is_json_where_the_text_lacks_it(server: McpServer) -> None:
    assert asked(server, "report").text == '2 doors\n{"front": "open"}'
    assert asked(server, "rooms", floor=1).text == "[]"


def test_pictures_sounds_and_resources_become_text(server: McpServer) -> None:
    assert asked(server, "picture").text == "the door:\n[image: image/png, 1234 bytes]\n[audio: audio/wav, 100 bytes]"
    plan = "[resource: house://plan, image/tiff, 7 bytes]"
    assert asked(server, "manual").text == f"Turn it off and on again.\n{plan}\nhouse://garden"
    assert asked(server, "nothing").text == "[no content]"


def test_an_error_of_the_tool_is_a_failed_result(server: McpServer) -> None:
    result = asked(server, "refuse")
    assert result.failure == "raised"
    assert result.text.startswith("Error: ") and result.text.endswith("the door is locked")


def test_a_slow_tool_is_cancelled_at_its_limit_and_the_server_stays(stdio: McpServer) -> None:
    process = asked(stdio, "process").text
    result = asked(stdio, "wait", 0.2, how_long=60)
    assert (result.failure, result.text) == ("timeout", "Error: no result within 0.2 s")
    assert asked(stdio, "process").text == process


def test_a_slow_tool_over_http_is_cancelled_too(http: McpServer) -> None:
    assert asked(http, "wait", 0.2, how_long=60).failure == "timeout"
    assert asked(http, "rooms", floor=0).text == "kitchen\nhall"


def test_the_server_hears_that_a_slow_call_is_cancelled(server: McpServer) -> None:
    result = asked(server, "wait", 0.2, how_long=60)
    assert (result.failure, result.text) == ("timeout", "Error: no result within 0.2 s")
    assert eventually(lambda: 60 in json.loads(asked(server, "waits").text)["cancelled"])


def test_an_interrupted_call_is_cancelled_and_the_server_stays(stdio: McpServer, monkeypatch: Any) -> None:
    waiting = tool(stdio.tools, "wait")

    def interrupted(self: object, timeout: float | None = None) -> object:
        monkeypatch.undo()
        assert eventually(lambda: 61 in json.loads(asked(stdio, "waits").text)["began"])
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        waiting.invoke({"how_long": 61}, 100.0)
    assert eventually(lambda: 61 in json.loads(asked(stdio, "waits").text)["cancelled"])


def test_calls_of_one_reply_share_a_server(server: McpServer) -> None:
    wanted = [ToolCall("wait", json.dumps({"how_long": wait}), str(wait)) for wait in (0.1, 0.0)]
    calls = [ToolCall("rooms", '{"floor": 0}', "a"), *wanted, ToolCall("weather", "{}", "b")]
    results = call_all(server.tools, calls)
    assert [result.failure for result in results] == [""] * 4
    assert [result.text.split()[0] for result in results] == ["kitchen", "waited", "waited", "{"]


def test_a_large_result_is_cut_with_a_note(server: McpServer) -> None:
    result = asked(server, "large", characters=3_000_000)
    assert result.cut == 2_980_000 and result.text.startswith("xxx")


def test_the_list_of_tools_follows_the_server(server: McpServer) -> None:
    assert "cellar" not in {each.name for each in server.tools}
    assert asked(server, "build_room", name="cellar").text == "built"
    assert eventually(lambda: "cellar" in {each.name for each in server.tools})
    assert asked(server, "cellar").text == "in the cellar"


def test_the_list_of_an_older_server_follows_its_notification() -> None:
    with Toolbox([McpServer(old())]) as toolbox:
        assert call(toolbox.tools, ToolCall("grow", "{}")).text == "grow"
        assert eventually(lambda: "tool_7" in {each.name for each in toolbox.tools})


def test_pages_of_tools_are_joined_and_names_made_distinct() -> None:
    with Toolbox([McpServer(old("banner"))]) as toolbox:
        names = [each.name for each in toolbox.tools]
        assert names == ["pid", "grow", "ask", "lamp_on", "lamp_on_2", "x" * 64, "promise"]
        said = [call(toolbox.tools, ToolCall(name, "{}")).text for name in ("lamp_on", "lamp_on_2", "x" * 64)]
    assert said == ["lamp.on", "lamp_on", "x" * 80]


def test_two_servers_of_one_name_get_prefixes() -> None:
    with Toolbox([McpServer(old(), keep=["pid"]), McpServer(old(), keep=["pid"])]) as toolbox:
        names = [each.name for each in toolbox.tools]
        assert names == ["old_pid", "old_pid_2"]
        assert len({call(toolbox.tools, ToolCall(name, "{}")).text for name in names}) == 2


def test_a_server_that_asks_the_client_is_declined(server: McpServer) -> None:
    result = asked(server, "ask_user")
    assert (result.failure, result.text) == ("raised", "Error: Elicitation not supported")


def test_an_older_server_that_asks_the_client_is_declined() -> None:
    with Toolbox([McpServer(old())]) as toolbox:
        said = call(toolbox.tools, ToolCall("ask", "{}")).text
    assert said == "it agreed; Elicitation not supported; Sampling not supported; List roots not supported"


def test_a_result_that_breaks_its_schema_is_an_error() -> None:
    with Toolbox([McpServer(old())]) as toolbox:
        result = call(toolbox.tools, ToolCall("promise", "{}"))
    assert result.failure == "raised"
    assert "'one' is not of type 'integer'" in result.text and "\n" not in result.text


def test_the_name_of_a_server_is_safe_to_print() -> None:
    with closing(McpServer(old("evil"))) as server:
        assert server.name == "31mevil"


def test_a_tool_with_a_broken_schema_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with Toolbox([McpServer(old("broken_schema"))]) as toolbox:
        assert "broken" not in {each.name for each in toolbox.tools}
    assert "left out: tool 'broken': parameters is not a JSON schema" in caplog.text


def test_only_tools_that_match_a_pattern_are_kept() -> None:
    with Toolbox([McpServer(old(), keep=["p*", "lamp.on"])]) as toolbox:
        assert [each.name for each in toolbox.tools] == ["pid", "lamp_on", "promise"]


def test_a_server_that_dies_mid_call_gives_one_error_and_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    with Toolbox([McpServer(HOUSE)]) as toolbox:
        first = call(toolbox.tools, ToolCall("process", "{}")).text
        died = call(toolbox.tools, ToolCall("die", "{}"))
        assert died.failure == "raised"
        assert died.text == "Error: the MCP server 'house' failed during the call: it ended: KeyError: 'cellar'"
        assert "[house] Traceback (most recent call last):\n[house]   ...\n[house] KeyError: 'cellar'" in caplog.text
        second = call(toolbox.tools, ToolCall("process", "{}"))
        assert second.failure == "" and second.text != first
        os.kill(int(second.text), signal.SIGKILL)
        assert eventually(lambda: not runs(second.text))
        third = call(toolbox.tools, ToolCall("process", "{}"))
        assert third.failure == "" and third.text not in (first, second.text)


def test_a_call_to_a_server_that_has_just_died_starts_it_again() -> None:
    with Toolbox([server := McpServer(old())]) as toolbox:
        tools = toolbox.tools
        for _ in range(5):
            process = call(tools, ToolCall("pid", "{}")).text
            server._loop._loop.call_soon_threadsafe(time.sleep, 0.2)  # the end and the next call arrive at once
            os.kill(int(process), signal.SIGKILL)
            assert eventually(lambda process=process: not runs(process))
            again = call(tools, ToolCall("pid", "{}"))
            assert again.failure == "" and again.text != process, again.text


def test_a_server_that_hangs_beyond_a_calls_limit_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift.tools.mcp.source.CHECK_SECONDS", 0.3)
    with Toolbox([McpServer(HOUSE)]) as toolbox:
        first = call(toolbox.tools, ToolCall("process", "{}")).text
        blocked = call(toolbox.tools, ToolCall("block", '{"how_long": 1000}'), Limits(seconds=0.2))
        assert blocked.failure == "timeout"
        second = call(toolbox.tools, ToolCall("process", "{}"))
        assert second.failure == "" and second.text != first
        assert not runs(first)


def test_a_server_that_cannot_start_again_is_an_error_of_the_call(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_bytes((TESTS / "mcp_old.py").read_bytes())
    with Toolbox([McpServer(shlex.join([sys.executable, "-S", str(script)]))]) as toolbox:
        process = call(toolbox.tools, ToolCall("pid", "{}")).text
        script.write_text("raise SystemExit('no licence')", encoding="utf-8")
        os.kill(int(process), signal.SIGKILL)
        assert eventually(lambda: not runs(process))
        result = call(toolbox.tools, ToolCall("pid", "{}"))
        assert result.failure == "raised" and result.text.endswith("it ended: no licence")


def test_a_restarted_http_server_is_used_again() -> None:
    with http_server(house().streamable_http_app()) as url:
        server = McpServer(url)
        assert asked(server, "rooms", floor=0).failure == ""
    with closing(server):
        down = asked(server, "rooms", floor=0)
        assert down.failure == "raised" and "cannot connect" in down.text
        with http_server(house().streamable_http_app(), port=int(url.split(":")[2].split("/")[0])):
            assert asked(server, "rooms", floor=0).text == "kitchen\nhall"


class Handshake:
    """The server as one of before 2026-07-28: it knows sessions and no `server/discover`.

    `requests`: their headers. `forgotten`: sessions that it answers with 400, as SDKs of 2025 do, instead of 404.
    """

    def __init__(self) -> None:
        self.app = house().streamable_http_app()
        self.requests = list[dict[str, str]]()
        self.forgotten = set[str]()

    @property
    def sessions(self) -> set[str]:
        return {each["mcp-session-id"] for each in self.requests if "mcp-session-id" in each}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope.get("headers", [])}
        if scope["type"] == "http":
            self.requests.append(headers)
        if headers.get("mcp-method") != "server/discover" and headers.get("mcp-session-id") not in self.forgotten:
            return await self.app(scope, receive, send)
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"Bad Request: No valid session ID provided"})


@pytest.mark.parametrize("status", [404, 400])
def test_a_session_that_an_http_server_forgot_is_opened_again(status: int) -> None:
    first, second = Handshake(), Handshake()
    with http_server(first) as url:
        server = McpServer(url, headers={"Authorization": "Bearer word"})
        assert asked(server, "rooms", floor=0).text == "kitchen\nhall"
    if status == 400:
        second.forgotten = first.sessions
    with closing(server), http_server(second, port=int(url.split(":")[2].split("/")[0])):
        assert asked(server, "rooms", floor=0).text == "kitchen\nhall"
        assert asked(server, "large", characters=3_000_000).cut == 2_980_000
    assert len(first.sessions | second.sessions) == 2
    assert {each["authorization"] for each in (*first.requests, *second.requests)} == {"Bearer word"}


class Answer(BaseHTTPRequestHandler):
    """Answers `/401` with this status, `/page` with a web page, `/elsewhere` with a redirect to another host."""

    seen: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(self.headers.get("Authorization", ""))
        word, body = self.path.strip("/").partition("?")[0], b"<html></html>"
        self.send_response({"page": 200, "elsewhere": 307}.get(word) or int(word))
        if word == "elsewhere":
            self.send_header("Location", "http://localhost:1/mcp")
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[str, list[str]]]:
    """A web server that is no MCP server, and the credentials that it saw."""
    handler = type("OneAnswer", (Answer,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.seen  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("401", "it answers 401 Unauthorized; --tool_header gives credentials"),
        ("404", "it answers 404 Not Found; is the path right? Most servers have /mcp"),
        ("500", "it answers 500 Internal Server Error"),
        ("page", "it answers with text/html, not MCP; is the path right? Most servers have /mcp"),
        (
            "elsewhere",
            "Redirect to http://localhost:1/mcp not followed; use that URL as the endpoint if it is the",
        ),
    ],
)
def test_a_url_that_is_no_server_is_refused(web: tuple[str, list[str]], path: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        McpServer(f"{web[0]}/{path}?key=word", headers={"Authorization": "Bearer word"})
    assert str(error.value).startswith(f"MCP server {web[0]}/{path}: {reason}")
    assert "Bearer word" in web[1] and "word" not in str(error.value)


@pytest.mark.parametrize(
    ("target", "options", "reason"),
    [
        ("", {}, "MCP server '': a command or an http(s) URL is needed"),
        ("python 'x", {}, "MCP server 'python 'x': no closing quotation"),
        ("no-such-program x", {}, "MCP server 'no-such-program x': no such command: 'no-such-program'"),
        (
            "~/no-such-program",
            {},
            f"MCP server '{Path.home()}/no-such-program': no such command: '{Path.home()}/no-such",
        ),
        ("ws://host/x", {}, "MCP server 'ws://host/x': a URL begins with http:// or https://"),
        ("http://[::1/mcp", {}, "MCP server 'http://[::1/mcp': a URL without a valid host"),
        (
            "cat",
            {"headers": {"A": "b"}},
            "MCP server 'cat': HTTP headers are for a URL; a command reads environment",
        ),
        ("http://me:word@127.0.0.1:1/mcp?key=word", {}, "MCP server http://127.0.0.1:1/mcp: cannot connect: "),
        (
            "http://me:x@127.0.0.1/",
            {"headers": {"authorization": "y"}},
            "credentials of an MCP server belong in its URL",
        ),
        ("http://127.0.0.1:1/", {"headers": {"A b": "c"}}, "'A b' is not the name of an HTTP header"),
        ("http://127.0.0.1:1/", {"headers": {"A": "b\nc"}}, "the value of the HTTP header 'A' has a line break"),
        ("echo hello", {}, "MCP server 'echo hello': it prints what is not MCP on standard output: 'hello'"),
        (
            f"{PYTHON} -c 'import nonesuch'",
            {},
            f"MCP server '{PYTHON} -c import nonesuch': it ended: ModuleNotFound",
        ),
        (old("mute"), {"start_seconds": 0.2}, f"MCP server '{old('mute')}': no answer to the handshake within 0.2 s"),
        (
            old("garbage"),
            {},
            f"MCP server '{old('garbage')}': it prints what is not MCP on standard output: 'this is",
        ),
        (old("refuses"), {}, f"MCP server '{old('refuses')}': no licence"),
        (old("repeats"), {}, f"MCP server '{old('repeats')}': its list of tools has more than 1000 pages"),
        (old("no_tools"), {}, "MCP server 'old' offers no tools"),
        (old(), {"keep": ["lump.on"]}, "MCP server 'old' has no tool 'lump.on'; did you mean 'lamp.on'?"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line(target: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as error:
        McpServer(target, **options)
    assert str(error.value).startswith(reason) and "\n" not in str(error.value)


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ValueError, match=re.escape("--mcp needs the package mcp: pip install 'swift-agents[mcp]'")):
        McpServer("cat")


def test_an_older_package_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("mcp.client.streamable_http.DEFAULT_MAX_SSE_EVENT_SIZE")
    with pytest.raises(ValueError, match=re.escape("--mcp needs mcp 2.3 or later, not 2.")):
        McpServer("cat")


def test_ctrl_c_does_not_reach_a_server(stdio: McpServer) -> None:
    assert os.getsid(int(asked(stdio, "process").text)) != os.getsid(0)


def test_a_program_that_forgets_its_server_ends_it_quietly() -> None:
    code = f"from swift.tools.mcp.source import McpServer\nprint(McpServer({old()!r}).tools[0].invoke({{}}, 9.0))"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not runs(done.stdout.strip())


def test_a_closed_server_refuses_calls_and_closes_twice() -> None:
    server = McpServer(old())
    found = server.tools[0]
    server.close()
    server.close()
    assert server.tools[0].name == "pid"
    assert call([found], ToolCall("pid", "{}")).text == "Error: the MCP server is closed"


def test_the_notes_of_the_example_are_listed_read_written_and_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "my notes"
    with closing(McpServer(shlex.join([sys.executable, str(NOTES), str(folder)]))) as notes:
        assert {each.name for each in notes.tools if each.read_only} == {"list_notes", "read_note", "search_notes"}
        assert asked(notes, "list_notes").text == "[]"
        assert asked(notes, "write_note", name="shop", text="Milk\nand eggs").text == "wrote 'shop' (3 words)"
        assert json.loads(asked(notes, "list_notes").text)["words"] == 3
        assert asked(notes, "search_notes", text="milk").text == "shop: Milk"
        assert asked(notes, "read_note", name="shop").text == "Milk\nand eggs"
        assert (folder / "shop.md").read_text() == "Milk\nand eggs"
        assert "there is no note 'shop2'; the notes are: shop" in asked(notes, "read_note", name="shop2").text
        outside = asked(notes, "write_note", name="../secret", text="")
        assert outside.failure == "raised" and not (tmp_path / "secret.md").exists()
        assert asked(notes, "delete_note", name="shop").text == "deleted 'shop'"
        assert not list(folder.iterdir())


def test_the_dialogue_runs_the_tools_of_the_documented_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "python examples/agent/notes_mcp.py notes"
    assert f'--mcp "{command}"' in (TESTS.parent / "docs" / "tools.md").read_text(encoding="utf-8")

    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        if messages[-1].role == "tool":
            return iter([Delta(f"Done: {messages[-1].content}.", finish="stop", usage=Usage(3, 2))])
        note = ToolCall("write_note", '{"name": "shop", "text": "milk"}', "c1")
        return iter([Delta(tool_call=note), Delta(finish="tool_calls", usage=Usage(3, 2))])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("Note that I need milk.\n"))
    here = command.replace("python", shlex.quote(PYTHON), 1).replace(
        "examples/agent/notes_mcp.py", shlex.quote(str(NOTES))
    )
    with served(create_app(ScriptedChat(script), "tiny")) as url:
        assert cli.main(["infer", "--endpoint", f"{url}/v1", "--mcp", here]) == 0
    out, err = capsys.readouterr()
    assert "Done: wrote 'shop' (1 words)." in out
    assert "tools of notes: list_notes, read_note, search_notes, write_note*, delete_note*" in err
    assert (tmp_path / "notes" / "shop.md").read_text() == "milk"
