"""Reads the tasks of `swift agent run`, and says what a trace records of them. Knows no model and runs nothing."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from swift import flags
from swift.agent.jsontext import loads
from swift.chat import Message
from swift.data.readers import read_rows
from swift.data.row_messages import append, read_message
from swift.data.row_tools import read_tools
from swift.data.row_values import BadRow, kind, text_of
from swift.system import utf8

KEYS = ("task", "messages", "id", "system", "tools", "expected")


@dataclass(frozen=True, slots=True)
class Task:
    """Messages to answer. `tools`: the names of the tools to offer; none offers all. `expected`: for the reader.

    `digest`: of all that decides the run, so that equal tasks have equal digests. `repeat`: how many equal tasks
    precede it in the file.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[str, ...] | None = None
    expected: Any = None
    digest: str = ""
    repeat: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.id, self.digest


def task(value: Any) -> Task:
    """A task from a text, `{"task", ...}` or `{"messages", ...}`. Raises ValueError."""
    given = {"task": value} if isinstance(value, str) else value
    if not isinstance(given, dict):
        raise ValueError(f"a task is a text or an object, not {kind(given)}")
    if unknown := [key for key in given if key not in KEYS]:
        raise ValueError(f"the key '{unknown[0]}' has no effect{flags.nearest(unknown[0], KEYS)}")
    if ("task" in given) == ("messages" in given):
        raise ValueError("a task has either 'task', a text, or 'messages'")
    messages = _messages(given)
    tools = _tools(given)
    identity = given.get("id")
    if identity is not None and not isinstance(identity, (str, int)):
        raise ValueError(f"'id' must be a text or a number, not {kind(identity)}")
    digest = _digest(given)
    name = digest if identity is None else str(identity)
    return Task(name, messages, tools, given.get("expected"), digest)


def read_tasks(file: Path) -> list[Task]:
    """The tasks of a data file, one a row. Raises ValueError with the line."""
    found: list[Task] = []
    lines: dict[str, int] = {}
    repeats: Counter[str] = Counter()
    for line, row in _rows(file):
        try:
            if isinstance(row, BadRow):
                raise row
            each = task(row)
        except ValueError as error:
            raise ValueError(f"{file}:{line}: {error}") from None
        repeat = repeats[each.digest]
        repeats[each.digest] += 1
        if each.id == each.digest:
            each = replace(each, id=each.id if not repeat else f"{each.id}-{repeat + 1}")
        elif each.id in lines:
            raise ValueError(f"{file}:{line}: the id '{each.id}' is that of line {lines[each.id]} too")
        lines[each.id] = line
        found.append(replace(each, repeat=repeat))
    return found


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """(line, row). A line of a JSONL file may be a text alone, which is no training row."""
    if file.suffix != ".jsonl" or not file.is_file():
        yield from read_rows(file)
        return
    lines = [(number, line) for number, line in enumerate(_text(file).split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{file}: the file is empty")
    for number, line in lines:
        try:
            yield number, loads(line, once=True)
        except ValueError as error:
            raise ValueError(f"{file}:{number}: not JSON: {error}") from None


def _text(file: Path) -> str:
    try:
        return utf8.read(file)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def about(task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a trace records of its task, with the settings of the run and the date."""
    return {
        "id": task.id,
        "task": task.digest,
        **({} if task.expected is None else {"expected": task.expected}),
        **({"repeat": task.repeat} if task.repeat else {}),
        "date": f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}",
        "settings": settings,
    }


def check_tools(tasks: Sequence[Task], available: Sequence[str]) -> None:
    """Raises ValueError for a task whose tools cannot run."""
    for each in tasks:
        for name in each.tools or ():
            if name not in available:
                raise ValueError(
                    f"task '{each.id}' offers the tool '{name}', which is only described"
                    f"{flags.nearest(name, available)}: nobody types its results; --tools runs Python functions and "
                    "other sources"
                )


def _messages(given: Mapping[str, Any]) -> tuple[Message, ...]:
    system = given.get("system")
    if system is not None and not isinstance(system, str):
        raise ValueError(f"'system' must be text, not {kind(system)}")
    if "task" in given:
        turns = [Message("user", text_of(given["task"], "'task'"))]
    else:
        turns = []
        items = given["messages"]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ValueError("'messages' must be a list of objects")
        for number, item in enumerate(items, 1):
            append(turns, read_message(item, number), number)
    if not turns or not turns[-1].content.strip():
        raise ValueError("the task is empty")
    if turns[-1].role not in ("user", "tool"):
        raise ValueError(f"the messages end with the {turns[-1].role}: there is nothing to answer")
    if any(message.images for message in turns):
        raise ValueError("images in tasks are not supported")
    if system is not None:
        if turns[0].role == "system":
            raise ValueError("the task has 'system' and a system message: remove one of them")
        turns.insert(0, Message("system", system))
    return tuple(turns)


def _tools(given: Mapping[str, Any]) -> tuple[str, ...] | None:
    tools = given.get("tools")
    if tools is None:
        return None
    if isinstance(tools, list) and all(isinstance(each, str) and not each.lstrip().startswith("{") for each in tools):
        return tuple(tools)
    return tuple(tool.name for tool in read_tools(dict(given)))


def _digest(given: Mapping[str, Any]) -> str:
    content = {key: value for key, value in given.items() if key not in ("id", "expected") and value is not None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
