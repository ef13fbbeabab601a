"""Tools that are only described, in OpenAI's format in a file. Runs nothing; knows no tool-call format and no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swift.agent.jsontext import loads
from swift.chat import Tool
from swift.system import utf8
from swift.system.nearest import nearest_path
from swift.tools.bound_tool import BoundTool, from_schema
from swift.tools.errors import ToolError

SUFFIXES = (".json", ".jsonl")


class DescriptionFile:
    """The tools that a JSON file describes, as a source of a toolbox. Raises ValueError as `read_descriptions` does."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tools = [replace(from_description(tool.spec), source=file.name) for tool in read_descriptions(file)]

    @property
    def name(self) -> str:
        return self._file.stem

    @property
    def tools(self) -> Sequence[BoundTool]:
        return self._tools

    def close(self) -> None:
        """Nothing is open."""


def from_description(spec: dict[str, Any]) -> BoundTool:
    """A described tool. Raises ValueError for a description without a name or with an invalid schema."""
    return replace(from_schema(spec, _not_run), described=True)


def read_descriptions(file: Path) -> list[Tool]:
    """The tools of a JSON list, of `{"tools": [...]}`, or one per line. Raises ValueError with file and place."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file{nearest_path(file)}")
    try:
        specs = _specs(utf8.read(file))
        tools = [_tool(spec, number) for number, spec in enumerate(specs, 1)]
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    names = [tool.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{file}: two tools have the name '{twice}'")
    if not tools:
        raise ValueError(f"{file}: no tools")
    return tools


def _specs(text: str) -> list[Any]:
    try:
        value = loads(text, once=True)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        return _lines(text)
    if isinstance(value, dict) and "tools" in value:
        value = value["tools"]
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return [value]
    raise ValueError('tools must be a JSON list, {"tools": [...]}, or one JSON object per line')


def _lines(text: str) -> list[Any]:
    specs = []
    at = 0
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                specs.append(loads(line, once=True))
            except json.JSONDecodeError as error:
                raise json.JSONDecodeError(error.msg, text, at + error.pos) from None
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
        at += len(line) + 1
    return specs


def _tool(spec: Any, number: int) -> Tool:
    if not isinstance(spec, dict):
        raise ValueError(f"tool {number} is not a JSON object: {json.dumps(spec, ensure_ascii=False)[:60]}")
    try:
        return from_description(spec).tool
    except ValueError as error:
        raise ValueError(f"tool {number}: {error}") from None


def _not_run(arguments: dict[str, Any], seconds: float) -> object:
    raise ToolError("nothing runs this tool: it is only described")
