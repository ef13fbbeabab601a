"""What a tool call looks like in text: one form a file, the same five names in each. No tokens, no model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast

from swift.chat import Tool, ToolCall


class Notation(NamedTuple):
    """How a value is written where it is no part of a JSON object: numbers as JSON, `words` for true, false and null.

    `quote`: what is on both sides of a text; "" for a bare one. `escapes`: letters of a text, and what is written for
    them. `deep`: lists and objects are written in it too, keys in alphabetical order; otherwise they are JSON.
    """

    words: tuple[str, str, str] = ("true", "false", "null")
    quote: str = ""
    escapes: tuple[tuple[str, str], ...] = ()
    deep: bool = False


PYTHON_WORDS = ("True", "False", "None")


class ArgumentTags(NamedTuple):
    """The texts around an argument that is no part of a JSON object: `before` name `between` value `after`.

    `ends`: what ends an argument or its call, so no bare value holds it. `joint` stands between two arguments.
    """

    before: str
    between: str
    after: str
    ends: tuple[str, ...]
    joint: str = ""
    notation: Notation = Notation()


class CallIds(NamedTuple):
    """How a form writes the id of a call: it stands behind `before` and is like `pattern`, a regular expression."""

    before: str
    pattern: str


class ReasoningTags(NamedTuple):
    """The texts around a thought in a reply: `open` thought `close` `answer` content. `answer` is often empty."""

    open: str
    close: str
    answer: str = ""


class Syntax(NamedTuple):
    """The texts by which a form is known.

    `stop`: where the model hands over to its environment. `call`: what opens a call. `results`: they go on inside
    the assistant's turn (inline), are told as a turn by the chat template (turn), or are a turn that the form writes
    whole, up to where the assistant speaks (raw). `special`: marks that are tokens of their own. `thought`: what opens
    the line in which the model thinks before it calls or answers. `answer`: what opens its answer where tools are on
    offer; with `answer_after_result` only behind a tool's result. `tags`: what is around each argument, where they are
    no JSON object. `opens_line`: a call mark counts only where it opens a line. `ids`:
    calls have ids in the text; `call` makes one up where a call has none that will do. `opening`: a regular expression
    of a call up to its arguments, its group `name` the name, where models write that in more ways than the form does.
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
    """The five names of a form's module."""

    @property
    def syntax(self) -> Syntax: ...
    def system(self, tools: Sequence[Tool], text: str) -> str:
        """The system text that offers `tools`, after the user's own system `text`."""
        ...

    def call(self, content: str, calls: Sequence[ToolCall]) -> str:
        """The assistant's whole text: what it says, then its calls."""
        ...

    def result(self, texts: Sequence[str]) -> str:
        """What the calls returned, as the model reads it."""
        ...

    def parse(self, text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
        """A reply's text -> (content, calls), the inverse of `call`. A call that was cut short stays content.

        `tools`: those on offer. Where values have tags of their own, their schemas say which are text.
        """
        ...


class CallTemplate(NamedTuple):
    """The texts around a form's calls: `head` name `between` arguments (`middle` name `between` arguments)* `tail`.

    A form that writes a name twice has it in `between` too.
    """

    head: str
    between: str
    middle: str
    tail: str


_NAME, _KEY = "\ue000", "\ue001"  # no form writes these of its own accord
SAMPLE_ARGUMENTS = f'{{"{_KEY}": 0}}'


def call_template(call_format: ToolFormat) -> CallTemplate:
    """What `call` writes around names and arguments."""
    calls = call_format.call("", [ToolCall(_NAME, SAMPLE_ARGUMENTS)] * 2)
    first, second, tail = calls.split(sample_arguments(call_format.syntax))
    head, between = first.split(_NAME, 1)
    return CallTemplate(head, between, second.split(_NAME)[0], tail)


def sample_arguments(syntax: Syntax) -> str:
    """How `call` writes SOME_ARGUMENTS."""
    tags = syntax.tags
    return f"{tags.before}{_KEY}{tags.between}0{tags.after}" if tags else SAMPLE_ARGUMENTS


def without_ids(text: str, ids: CallIds | None) -> list[str]:
    """A text of a form's cut at the ids of calls, which are left out."""
    return re.split(f"(?<={re.escape(ids.before)}){ids.pattern}", text) if ids else [text]


STOCK_SYSTEM = "You are a helpful assistant."
"""The sentence that templates put where nobody wrote a system text. ReAct's header says as much: it replaces it."""

TOOL_FORMATS: tuple[str, ...] = tuple(
    sorted(path.stem for path in (Path(__file__).parent / "formats").glob("*.py") if path.stem != "__init__")
)
"""The names of the tool-call formats: the modules of `swift/agent/formats`."""


def tool_format(name: str) -> ToolFormat:
    """The form called `name`. Raises ValueError with the nearest right name."""
    if name not in TOOL_FORMATS:
        near = difflib.get_close_matches(name, TOOL_FORMATS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown agent template {name!r}: did you mean {near!r}? (known: {', '.join(TOOL_FORMATS)})")
    return cast(ToolFormat, import_module(f"swift.agent.formats.{name}"))
