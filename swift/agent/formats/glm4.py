"""The format of GLM-4: the name on a line, the arguments below it; the stop string is <|observation|>."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from swift.agent import STOCK_SYSTEM, Syntax
from swift.chat import Tool, ToolCall

syntax = Syntax(
    stop=("<|observation|>",),
    call=("<|observation|>",),
    results="inline",
    special=("<|observation|>", "<|assistant|>"),
)

_USAGE = "在调用上述函数时，请使用 Json 格式表示调用的参数。"
_CALL = re.compile(r"(?:\A|(?<=\n)|(?<=>))(?P<name>[\w.-]+)\n(?P<arguments>\{.*\})\s*\Z", re.DOTALL)


def system(tools: Sequence[Tool], text: str) -> str:
    own = [text] if text and text != STOCK_SYSTEM else []
    return "\n\n".join([*own, write_tools(tools)])


def write_tools(tools: Sequence[Tool]) -> str:
    described = [
        f"## {each.name}\n\n{json.dumps(each.function, ensure_ascii=False, indent=4)}\n{_USAGE}" for each in tools
    ]
    return "# 可用工具\n\n" + "\n".join(described)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    """Each call is a separate assistant turn; the last ends with the stop string."""
    if not calls:
        return content
    asked = [f"{each.name}\n{each.arguments}" for each in calls]
    return "<|assistant|>".join([content, *asked] if content else asked) + "<|observation|>"


def result(texts: Sequence[str]) -> str:
    return "\n" + "<|observation|>\n".join(texts) + "<|assistant|>\n"


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """Calls are complete once <|observation|> follows."""
    said, mark, _ = text.partition("<|observation|>")
    if not mark:
        return text, ()
    parts = said.split("<|assistant|>")
    calls = [_CALL.fullmatch(part) for part in parts]
    first = next((index for index, match in enumerate(calls) if match), len(parts))
    found = tuple(ToolCall(match["name"], match["arguments"]) for match in calls[first:] if match)
    return ("<|assistant|>".join(parts[:first]), found) if found else (text, ())
