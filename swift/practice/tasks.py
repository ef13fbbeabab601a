"""Tasks to practise: a dialogue to answer, the offered tools, and a check of what the model does. Knows no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from swift import flags
from swift.chat import Message, Tool, ToolCall
from swift.data.readers import read_rows
from swift.data.row_messages import append, read_message
from swift.data.row_tools import read_calls, read_tools
from swift.data.row_values import BadRow, kind, text_of
from swift.data.row_writer import as_message
from swift.eval.call_matching import call_of, described

KEYS = ("id", "task", "messages", "system", "tools", "check", "reply", "domain")
CHECKS = ("calls", "answer", "state")
NO_CALL, ONE_CALL, NEXT_CALL = "no call", "one call", "call after a result"
SAME, SEVERAL, OTHER = "calls of one function", "calls of several functions", "answer or state"


class State(NamedTuple):
    """A call that reads the state after a run, and the result that is right."""

    call: ToolCall
    result: Any


@dataclass(frozen=True, slots=True)
class Check:
    """What is right: all of the given. `calls`: whatever their order, none if no call is right; None: not compared.
    `answer`: texts of which the last reply contains one. `state`: what calls return after the run."""

    calls: tuple[ToolCall, ...] | None = None
    answer: tuple[str, ...] = ()
    state: tuple[State, ...] = ()


class Cluster(NamedTuple):
    """What tasks have in common: the kind of what is right, and the domain."""

    kind: str
    domain: str


@dataclass(frozen=True, slots=True)
class Task:
    """Messages to answer. `tools`: those that are described with the task. `runs`: names of tools that run; None: all
    that there are. A task with `tools` is compared as calls, and runs none of them.

    `reply`: a right reply where no call is right. The check cannot tell a good text from a bad one, so this one is
    trained in place of the model's own.
    """

    id: str
    messages: tuple[Message, ...]
    check: Check
    tools: tuple[Tool, ...] = ()
    runs: tuple[str, ...] | None = None
    domain: str = ""
    reply: str = ""

    @property
    def cluster(self) -> Cluster:
        return Cluster(kind_of(self.messages, self.check.calls), self.domain)

    @property
    def no_call(self) -> bool:
        """Whether no call is right."""
        return self.check.calls == ()

    @property
    def content(self) -> str:
        """16 hex digits that change with the dialogue, the tools and the check, and not with the id."""
        row = {**as_row(self), "id": ""}
        return hashlib.sha256(json.dumps(row, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]


def kind_of(messages: Sequence[Message], calls: Sequence[ToolCall] | None) -> str:
    """The kind of reply that is right."""
    if calls is None:
        return OTHER
    if not calls:
        return NO_CALL
    if messages[-1].role == "tool":
        return NEXT_CALL
    if len(calls) == 1:
        return ONE_CALL
    return SAME if len({call.name for call in calls}) == 1 else SEVERAL


# Files ----------------------------------------------------------------------------------------------------------------


def as_row(task: Task) -> dict[str, Any]:
    """The task as a JSON value, which `read_task` reads."""
    check: dict[str, Any] = {}
    if task.check.calls is not None:
        check["calls"] = [described(call) for call in task.check.calls]
    if task.check.answer:
        check["answer"] = list(task.check.answer)
    if task.check.state:
        check["state"] = [{**described(each.call), "result": each.result} for each in task.check.state]
    row: dict[str, Any] = {"id": task.id, "messages": [as_message(each) for each in task.messages]}
    if task.tools or task.runs is not None:
        row["tools"] = [tool.spec for tool in task.tools] or list(task.runs or ())
    return {**row, "check": check, **({"reply": task.reply} if task.reply else {}), "domain": task.domain}


def read_task(row: Any, number: int = 1) -> Task:
    """A task from `{"task" or "messages", "tools", "check", ...}`. `number`: the id where the row has none.

    `tools`: descriptions, or names of tools that run. Earlier replies are not trained. Raises ValueError.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a task is an object, not {kind(row)}")
    if unknown := [key for key in row if key not in KEYS]:
        raise ValueError(f"the key '{unknown[0]}' has no effect{flags.nearest(unknown[0], KEYS)}")
    messages = tuple(_messages(row))
    check = _check(row.get("check"))
    tools, runs = _tools(row)
    if check.state and tools:
        raise ValueError("'check.state' needs tools that run: name them in 'tools', or leave 'tools' out")
    reply = text_of(row.get("reply", ""), "'reply'")
    if reply and check.calls != ():
        raise ValueError("'reply' has no effect: it is for tasks where no call is right (\"calls\": [])")
    first = check.calls[0].name if check.calls else ""
    return Task(str(row.get("id", number)), messages, check, tools, runs, str(row.get("domain") or first), reply)


def read_tasks(file: Path) -> list[Task]:
    """The tasks of a data file, one a row. Raises ValueError with the line."""
    found: dict[str, Task] = {}
    for line, row in read_rows(file):
        try:
            if isinstance(row, BadRow):
                raise row
            task = read_task(row, line)
        except ValueError as error:
            raise ValueError(f"{file}:{line}: {error}") from None
        if task.id in found:
            raise ValueError(f"{file}:{line}: an earlier task has the id '{task.id}' too")
        found[task.id] = task
    return list(found.values())


def write_tasks(tasks: Iterable[Task], file: Path) -> None:
    lines = (json.dumps(as_row(task), ensure_ascii=False) + "\n" for task in tasks)
    file.write_text("".join(lines), encoding="utf-8")


def split(tasks: Sequence[Task], share: float) -> tuple[list[Task], list[Task]]:
    """(to practise, held out): a share of at least one task, by content and not by order, so that copies stay
    together."""
    contents = sorted({task.content for task in tasks})
    chosen = set(contents[: max(1, round(share * len(contents)))])
    parts: tuple[list[Task], list[Task]] = ([], [])
    for task in tasks:
        parts[task.content in chosen].append(task)
    return parts


def _messages(row: Mapping[str, Any]) -> Iterator[Message]:
    if ("task" in row) == ("messages" in row):
        raise ValueError("a task has either 'task', a text, or 'messages'")
    turns: list[Message] = []
    if (system := row.get("system")) is not None:
        turns.append(Message("system", text_of(system, "'system'")))
    items = [{"role": "user", "content": row["task"]}] if "task" in row else row["messages"]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError("'messages' must be a list of objects")
    for number, item in enumerate(items, 1):
        append(turns, read_message(item, number), number)
    if not turns or turns[-1].role not in ("user", "tool") or not turns[-1].content.strip():
        raise ValueError("the messages must end with a message of the user or of a tool, which the model answers")
    for message in turns:
        yield replace(message, weight=0.0) if message.role == "assistant" else message


def _check(given: Any) -> Check:
    if not isinstance(given, dict) or not given:
        raise ValueError('a task needs \'check\': {"calls": [...]}, {"answer": ...} or {"state": [...]}')
    if unknown := [key for key in given if key not in CHECKS]:
        raise ValueError(f"'check' has no key '{unknown[0]}'{flags.nearest(unknown[0], CHECKS)}")
    calls = given.get("calls")
    if calls is not None and not isinstance(calls, list):
        raise ValueError(f"'check.calls' must be a list, not {kind(calls)}")
    answer = given.get("answer", ())
    answers = (answer,) if isinstance(answer, str) else tuple(answer)
    if not all(isinstance(each, str) and each.strip() for each in answers):
        raise ValueError("'check.answer' must be a text or a list of texts")
    state = given.get("state", [])
    if not isinstance(state, list) or not all(isinstance(each, dict) and "result" in each for each in state):
        raise ValueError('\'check.state\' must be a list of {"name", "arguments", "result"}')
    states = (State(call_of({"arguments": {}, **each}), each["result"]) for each in state)
    return Check(None if calls is None else read_calls(calls, 1) if calls else (), answers, tuple(states))


def _tools(row: Mapping[str, Any]) -> tuple[tuple[Tool, ...], tuple[str, ...] | None]:
    """(descriptions, names of tools that run): one of them."""
    given = row.get("tools")
    if given is None:
        return (), None
    if isinstance(given, list) and all(isinstance(each, str) and not each.lstrip().startswith("{") for each in given):
        return (), tuple(given)
    return read_tools(dict(row)), None
