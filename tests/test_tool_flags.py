"""The flags that name tools: which sources they open, what they keep, and what has no effect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from swift import flags
from swift.assembly import tool_sources
from swift.assembly.tool_sources import is_openapi, open_tools, overview
from swift.flag_groups import ToolFlags
from swift.tools.bound_tool import BoundTool

HOUSE = """
from swift import read_only

def lamp(on: bool) -> str:
    "Switches the lamp."
    return "on" if on else "off"

@read_only
def temperature() -> float:
    "The temperature."
    return 20.5
"""
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
OPENAPI = {"openapi": "3.1.0", "info": {"title": "Shop", "version": "1"}, "paths": {}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("house.py").write_text(HOUSE)
    Path("flat.py").write_text(HOUSE.replace("temperature", "heat"))
    Path("seen.json").write_text(json.dumps([LOOK]))
    Path("shop.json").write_text(json.dumps(OPENAPI))
    Path("list.txt").write_text("lamp")


def names(*words: str) -> list[str]:
    with open_tools(read(*words)) as toolbox:
        return [bound.name for bound in toolbox.tools]


def read(*words: str) -> ToolFlags:
    return flags.parse(ToolFlags, words).config


def test_functions_and_descriptions_of_several_files_are_tools_together() -> None:
    with open_tools(read("--tools", "house.py,seen.json")) as toolbox:
        found = {bound.name: (bound.source, bound.read_only, bound.described) for bound in toolbox.tools}
    assert found == {
        "lamp": (str(Path("house.py").resolve()), False, False),
        "temperature": (str(Path("house.py").resolve()), True, False),
        "look": ("seen.json", False, True),
    }


def test_tools_of_one_name_get_the_name_of_their_file() -> None:
    assert names("--tools", "house.py", "flat.py") == ["house_lamp", "temperature", "flat_lamp", "heat"]


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ("temp*", ["temperature"]),
        ("lamp", ["house_lamp", "flat_lamp"]),
        ("flat_*,temperature", ["temperature", "flat_lamp"]),
        ("house_lamp", ["house_lamp"]),
        ("h*", ["house_lamp", "heat"]),
    ],
)
def test_a_filter_keeps_tools_whose_name_matches_also_the_one_with_a_prefix(patterns: str, kept: list[str]) -> None:
    assert names("--tools", "house.py", "flat.py", "--tool_filter", patterns) == kept


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("shop.json", True), ("shop.yaml", True), ("shop.YML", True), ("https://x.org/openapi.json", True),
        ("seen.json", False), ("house.py", False), ("gone.json", False), ("lines.jsonl", False),
    ],
)  # fmt: skip
def test_an_openapi_document_is_told_by_its_content(word: str, expected: bool) -> None:
    assert is_openapi(word) is expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tools", "gone.py"], "gone.py: no such file"),
        (["--tools", "gone.json"], "gone.json: no such file"),
        (["--tools", "list.txt"], "list.txt: tools are a .py file, an OpenAPI document"),
        (["--tools", "house.py", "--tool_filter", "lamb"], "--tool_filter lamb: no tool .*: did you mean 'lamp'"),
        (["--tools", "seen.json", "--tool_filter", "x*"], r"--tool_filter x\*: no tool .*: the tools are look$"),
        (["--tools", "house.py", "--tool_header", "A: b"], "--tool_header has no effect without an OpenAPI"),
        (["--tools", "house.py", "--tool_base_url", "http://x"], "--tool_base_url has no effect without an OpenAPI"),
        (["--mcp", "python server.py", "--tool_header", "A: b"], "--tool_header has no effect without an OpenAPI"),
        (
            ["--tools", "shop.json", "--mcp", "http://secret@a/mcp?key=secret", "--tool_header", "A: secret"],
            "--tool_header would send the headers to shop.json and to http://a/mcp: use one",
        ),
        (["--tools", "shop.json", "a.yaml", "--tool_base_url", "http://x"], "--tool_base_url is for one OpenAPI"),
        (["--tools", "seen.json", "--confirm", "all"], "--confirm has no effect: nothing runs the tools of seen.json"),
        (["--tools", "seen.json", "--tool_timeout", "3"], "--tool_timeout has no effect"),
        (["--max_tools", "3"], "--max_tools has no effect without --tools or --mcp"),
        (["--tool_header", "A: secret"], "--tool_header has no effect without"),
        (["--tools", "house.py", "--tool_header", "secret"], "--tool_header: must be 'Name: value'"),
        (["--tools", "house.py", "--tool_header", "a secret: b"], "--tool_header: must be 'Name: value'"),
        (["--tools", "house.py", "--tool_timeout", "0"], "--tool_timeout 0: must be above 0"),
        (["--tools", "house.py", "--max_result_chars", "0"], "--max_result_chars 0: must be 1 or more"),
        (["--tools", "house.py", "--max_tools", "0"], "--max_tools 0: must be 1 or more"),
        (["--tools", "house.py", "--ask_below", "2"], "--ask_below 2: must be a probability"),
        (["--tools", "house.py", "--ask_below", "0.5", "--confirm", "all"], "--ask_below has no effect with"),
        (["--tools", "house.py", "--confirm", "write"], "--confirm"),
    ],
)
def test_a_wrong_flag_is_one_line_without_the_values_of_headers(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        open_tools(read(*words))
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_sources_that_are_open_are_closed_where_a_later_one_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Open:
        name = "open"
        tools: Sequence[BoundTool] = ()

        def close(self) -> None:
            closed.append(self.name)

    def python(file: Path) -> Any:
        return Open()

    monkeypatch.setattr(tool_sources, "_python", python)
    with pytest.raises(ValueError, match=r"gone\.json"):
        open_tools(read("--tools", "house.py", "gone.json"))
    assert closed == ["open"]
    with pytest.raises(ValueError, match="no tool has such a name"):
        open_tools(read("--tools", "house.py", "--tool_filter", "x"))
    assert closed == ["open", "open"]


def test_the_overview_lists_tools_by_source_and_says_which_may_write() -> None:
    given = read("--tools", "house.py", "seen.json")
    with open_tools(given) as toolbox:
        tools = toolbox.tools
    assert overview(given, tools) == [
        "tools of house.py: lamp*, temperature",
        "tools of seen.json: look (what they give is typed in)",
        "* may write; --confirm writes asks before each such call",
    ]
    asking = read("--tools", "house.py", "seen.json", "--confirm", "writes", "--max_tools", "2")
    assert overview(asking, tools, most=1) == [
        "tools of house.py: lamp* and 1 more",
        "tools of seen.json: look (what they give is typed in)",
        "* may write",
        "of 3 tools, the 2 that fit best are offered for each message",
    ]


def test_headers_are_read_by_name() -> None:
    given = read("--mcp", "http://a/mcp", "--tool_header", "Authorization: Bearer a:b", "X-Key:  1 ")
    assert given.headers == {"Authorization": "Bearer a:b", "X-Key": "1"}
