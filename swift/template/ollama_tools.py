"""A tool-call format -> Ollama's template language. Knows no chat template.

The format writes a text with placeholder characters for names, arguments and results, which is then translated.
Ollama writes JSON as Go does, without spaces and in its own key order; all other text is the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from swift.agent import STOCK_SYSTEM, ToolFormat, call_template
from swift.chat import Tool, ToolCall

_TOOLS = 3  # two tools show the text between them, a third that it repeats
_FIRST = 0xE010  # private-use characters, which no format writes
_FIELDS = ("{{ .Function.Name }}", "{{ .Function.Description }}", "{{ json .Function.Parameters }}")
_WHOLE, _BARE = "{{ json . }}", "{{ json .Function }}"
_KEY, _CONTENT, _TEXT = "\ue00a", "\ue00b", "\ue00c"


class Tools(NamedTuple):
    """A format in Ollama's template language. `system`: the system prompt with tools; `said`: the text between content
    and calls; `calls`: the calls; `opening`, `between`, `closing`: the texts around results."""

    system: str
    said: str
    calls: str
    opening: str
    between: str
    closing: str
    results: Literal["inline", "turn", "raw"]


def literal(text: str) -> str:
    """Escapes text for Ollama's template language, in which {{ begins an action."""
    text = text.replace("{{", '{{ "{{" }}')
    return f'{text[:-1]}{{{{ "{{" }}}}' if text.endswith("{") else text


def tools(tool_format: ToolFormat) -> Tools:
    """The format in Ollama's template language. Raises ValueError with the reason if it cannot be expressed."""
    if tool_format.syntax.tags:
        raise ValueError("it writes each argument in a tag")
    opening, between, closing = tool_format.result([_TEXT] * 2).split(_TEXT)
    around = call_template(tool_format)
    tail = around.tail
    # Ollama cuts a reply before its stop string, which is therefore written with the result
    for stop in tool_format.syntax.stop if tool_format.syntax.inline else ():
        if tail.endswith(stop):
            tail, opening = tail.removesuffix(stop), stop + opening
    arguments = "{{ json .Function.Arguments }}"
    calls = (
        f"{{{{ range $n, $_ := .ToolCalls }}}}{{{{ if not $n }}}}{literal(around.head)}{{{{ else }}}}"
        f"{literal(around.middle)}{{{{ end }}}}"
        f"{{{{ .Function.Name }}}}{literal(around.between)}{arguments}{{{{ end }}}}"
        f"{literal(tail)}"
    )
    return Tools(
        _system(tool_format),
        _said(tool_format),
        calls,
        literal(opening),
        literal(between),
        literal(closing),
        tool_format.syntax.results,
    )


def _said(tool_format: ToolFormat) -> str:
    call = ToolCall(_KEY, "{}")
    alone, after = tool_format.call("", [call]), tool_format.call(_CONTENT, [call])
    if not (after.startswith(_CONTENT) and after.endswith(alone)):
        raise ValueError("content does not come before calls")
    return literal(after.removeprefix(_CONTENT).removesuffix(alone))


def _system(tool_format: ToolFormat) -> str:
    marked = [_tool(index) for index in range(_TOOLS)]
    offer = tool_format.system(marked, "")
    with_text = tool_format.system(marked, _CONTENT)
    if not (with_text.startswith(_CONTENT) and with_text.endswith(offer)):
        raise ValueError("the system prompt does not come before the tools")
    own = literal(with_text.removeprefix(_CONTENT).removesuffix(offer))
    is_own = ".System"
    if tool_format.system(marked, STOCK_SYSTEM) == offer:
        is_own = f'and .System (ne .System "{STOCK_SYSTEM}")'
    return f"{{{{ if {is_own} }}}}{{{{ .System }}}}{own}{{{{ end }}}}{''.join(_loops(_marked(offer, marked)))}"


def _tool(index: int) -> Tool:
    name, about, key = (chr(_FIRST + 8 * index + place) for place in range(3))
    return Tool({"type": "function", "function": {"name": name, "description": about, "parameters": {key: 0}}})


def _marked(text: str, marked: list[Tool]) -> str:
    """The system prompt with JSON texts replaced by placeholder characters."""
    for index, tool in enumerate(marked):
        first = _FIRST + 8 * index
        for place, value in ((4, tool.wrapped), (5, tool.function), (2, tool.parameters)):
            for indent in (None, 2, 4):
                text = text.replace(json.dumps(value, ensure_ascii=False, indent=indent), chr(first + place))
    return text


def _loops(text: str) -> Iterator[str]:
    """The system prompt, with text that repeats per tool as a loop."""
    written = dict(enumerate([*_FIELDS, "", _WHOLE, _BARE]))
    pieces = re.split(f"([{chr(_FIRST)}-{chr(_FIRST + 8 * _TOOLS - 1)}])", text)
    texts, marks = pieces[::2], [divmod(ord(each) - _FIRST, 8) for each in pieces[1::2]]
    at = 0
    while at < len(marks):
        size = next((n for n in range(1, len(marks) - at) if marks[at + n][0] == 1), 0)
        run = marks[at : at + size * _TOOLS]
        repeated = [(index, place) for index in range(_TOOLS) for _, place in marks[at : at + size]]
        inner = [texts[at + 1 + size * index : at + size * (index + 1)] for index in range(_TOOLS)]
        between = {texts[at + size * index] for index in range(1, _TOOLS)}
        if not size or run != repeated or any(each != inner[0] for each in inner) or len(between) != 1:
            raise ValueError("it lists tools in a way that is not a simple loop")
        yield literal(texts[at])
        body = "".join(
            written[place] + literal(after) for (_, place), after in zip(run[:size], [*inner[0], ""], strict=True)
        )
        apart = f"{{{{ if $n }}}}{literal(between.pop())}{{{{ end }}}}"
        yield f"{{{{ range $n, $_ := $.Tools }}}}{apart}{body}{{{{ end }}}}"
        at += size * _TOOLS
    yield literal(texts[at])
