"""Tool-call formats: how tools, calls and results are written as text. Knows no token and no model.

Each module of `swift.agent.formats` is one format, with the names of ToolFormat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast

from swift.chat import Tool, ToolCall
from swift.system.nearest import closest


class Notation(NamedTuple):
    """How values are written outside JSON: numbers as in JSON, `words` for true, false and null.

    `quote`: the quotes around a string, "" for none. `escapes`: (character, its escape) within strings. `deep`: lists
    and objects use this notation too, with sorted keys; otherwise they are JSON.
    """

    words: tuple[str, str, str] = ("true", "false", "null")
    quote: str = ""
    escapes: tuple[tuple[str, str], ...] = ()
    deep: bool = False


PYTHON_WORDS = ("True", "False", "None")


class ArgumentTags(NamedTuple):
    """The texts around an argument outside JSON: `before` name `between` value `after`, joined by `joint`.

    `ends`: texts that end an argument or its call, which an unquoted value cannot contain.
    """

    before: str
    between: str
    after: str
    ends: tuple[str, ...]
    joint: str = ""
    notation: Notation = Notation()


class CallIds(NamedTuple):
    """How a format writes the id of a call: after `before`, and matching the regular expression `pattern`."""

    before: str
    pattern: str


class ReasoningTags(NamedTuple):
    """The texts around reasoning in a reply: `open` reasoning `close` `answer` content. `answer` is often empty."""

    open: str
    close: str
    answer: str = ""


class Syntax(NamedTuple):
    """The fixed texts of a format.

    `stop`: stop strings, after which a tool result follows. `call`: texts that open a call. `results`: results are
    within the assistant's turn (inline), a turn of the chat template (turn), or a turn that the format writes itself,
    up to the beginning of the next reply (raw). `special`: texts that are special tokens. `thought`: the label of the
    line with reasoning; `answer`: the label of the final answer, with `answer_after_result` only after a tool result.
    `tags`: the texts around arguments that are not a JSON object. `opens_line`: a call must begin a line. `ids`: calls
    have ids in the text; `call` generates missing ones. `opening`: a regular expression of a call up to its arguments,
    with the group `name`, if models vary that text.
    """

    stop: tuple[str, ...]
    call: tuple[str, ...]
    results: Literal["inline", "turn", "raw"]
    special: tuple[str, ...] = ()
    thought: str = ""
    answer: str = ""
    answer_after_result: bool = False
    tags: ArgumentTags | None = None
    opens_line: bool = False
    ids: CallIds | None = None
    opening: str = ""

    @property
    def inline(self) -> bool:
        return self.results == "inline"


class ToolFormat(Protocol):
    """The names of a format's module."""

    @property
    def syntax(self) -> Syntax: ...
    def system(self, tools: Sequence[Tool], text: str) -> str:
        """The system prompt that describes `tools`, after the user's system prompt `text`."""
        ...

    def call(self, content: str, calls: Sequence[ToolCall]) -> str:
        """The text of a reply: its content, then its calls. Raises ValueError for arguments it cannot write."""
        ...

    def result(self, texts: Sequence[str]) -> str:
        """The text of the results of one or more calls."""
        ...

    def parse(self, text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
        """The text of a reply -> (content, calls), the inverse of `call`. An incomplete call remains content.

        `tools`: those offered. In formats with tagged arguments their schemas tell strings from other values.
        """
        ...


class CallTemplate(NamedTuple):
    """The texts around calls: `head` name `between` arguments (`middle` name `between` arguments)* `tail`.

    A format that writes a name twice has it in `between` too.
    """

    head: str
    between: str
    middle: str
    tail: str


_NAME, _KEY = "\ue000", "\ue001"  # private-use characters, which no format writes
SAMPLE_ARGUMENTS = f'{{"{_KEY}": 0}}'


def call_template(call_format: ToolFormat) -> CallTemplate:
    """The texts that `call` writes around names and arguments."""
    calls = call_format.call("", [ToolCall(_NAME, SAMPLE_ARGUMENTS)] * 2)
    first, second, tail = calls.split(sample_arguments(call_format.syntax))
    head, between = first.split(_NAME, 1)
    return CallTemplate(head, between, second.split(_NAME)[0], tail)


def sample_arguments(syntax: Syntax) -> str:
    """How `call` writes SOME_ARGUMENTS."""
    tags = syntax.tags
    return f"{tags.before}{_KEY}{tags.between}0{tags.after}" if tags else SAMPLE_ARGUMENTS


def without_ids(text: str, ids: CallIds | None) -> list[str]:
    """The parts of a text between the ids of calls."""
    return re.split(f"(?<={re.escape(ids.before)}){ids.pattern}", text) if ids else [text]


STOCK_SYSTEM = "You are a helpful assistant."
"""The default system prompt of many templates. ReAct's header replaces it."""

TOOL_FORMATS: tuple[str, ...] = tuple(
    sorted(path.stem for path in (Path(__file__).parent / "formats").glob("*.py") if path.stem != "__init__")
)
"""The names of the tool-call formats: the modules of `swift/agent/formats`."""


def tool_format(name: str) -> ToolFormat:
    """The format called `name`. Raises ValueError with the most similar name."""
    if name not in TOOL_FORMATS:
        near = closest(name, TOOL_FORMATS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown agent template {name!r}: did you mean {near!r}? (known: {', '.join(TOOL_FORMATS)})")
    return cast(ToolFormat, import_module(f"swift.agent.formats.{name}"))
