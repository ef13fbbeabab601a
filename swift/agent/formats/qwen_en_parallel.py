"""`qwen_en` for models with parallel calls: only the usage in the system prompt differs."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent.formats.qwen_en import TITLE, TOOL, call, parse, result, syntax, write_system
from swift.chat import Tool

__all__ = ["call", "parse", "result", "syntax", "system"]

_USAGE = """## Insert the following command in your reply when you need to call N tools in parallel:

✿FUNCTION✿: The name of tool 1, should be one of [{names}]
✿ARGS✿: The input of tool 1
✿FUNCTION✿: The name of tool 2
✿ARGS✿: The input of tool 2
...
✿FUNCTION✿: The name of tool N
✿ARGS✿: The input of tool N
✿RESULT✿: The result of tool 1
✿RESULT✿: The result of tool 2
...
✿RESULT✿: he result of tool N
✿RETURN✿: Reply based on tool results. Images need to be rendered as ![](url)"""


def system(tools: Sequence[Tool], text: str) -> str:
    return write_system(tools, text, TITLE, TOOL, _USAGE)
