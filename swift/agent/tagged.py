"""Calls in XML-like text, whose parameters are tags of their own. Knows no form's tags."""

from __future__ import annotations

import json
import re

from swift.agent.jsontext import read_value
from swift.chat import ToolCall


def read_calls(text: str, call: re.Pattern[str], parameter: re.Pattern[str]) -> tuple[str, tuple[ToolCall, ...]]:
    """The text before the calls, and the calls. Both patterns have two groups: a name, and what it stands for.

    A value is JSON where it reads as JSON, except a bare text: the text does not say which it was.
    """
    found = list(call.finditer(text))
    if not found:
        return text, ()
    calls = []
    for match in found:
        values = {name: read_value(value) for name, value in parameter.findall(match[2])}
        calls.append(ToolCall(match[1].strip(), json.dumps(values, ensure_ascii=False)))
    return text[: found[0].start()].removesuffix("\n"), tuple(calls)
