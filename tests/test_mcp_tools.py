"""The tools of MCP servers run over standard input and output and over HTTP; what a server does ends in one line."""

from __future__ import annotations

import json
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp_house import house

from swift.chat import ToolCall
from swift.tools.bound_tool import BoundTool
from swift.tools.call import Limits, Result, call
from swift.tools.mcp_server import McpServer

TESTS = Path(__file__).parent
HOUSE = shlex.join([sys.executable, str(TESTS / "mcp_house.py")])
NOTES = TESTS.parent / "examples" / "agent" / "notes_mcp.py"


def old(*manners: str) -> str:
    """The command of the server in plain Python."""
    return shlex.join([sys.executable, "-S", str(TESTS / "mcp_old.py"), *manners])


def asked(server: McpServer, name: str, seconds: float = 30.0, **arguments: Any) -> Result:
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
    return Path(f"/proc/{process}").exists() and "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]


@contextmanager
def http_server(app: Any, port: int = 0) -> Iterator[str]:
    """The URL of an ASGI application on loopback."""
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
