"""The format of Qwen3.5: the tools as JSON before the system prompt, calls and results as in `qwen3_coder`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from swift.agent.formats.qwen3_coder import USAGE, call, parse, result, syntax
from swift.chat import Tool

__all__ = ["call", "parse", "result", "syntax", "system"]

_REMINDER = """<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within \
<tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after
- If there is no function call available, answer the question like normal with your current knowledge and do not tell \
the user about function calls
</IMPORTANT>"""


def system(tools: Sequence[Tool], text: str) -> str:
    described = "\n".join(json.dumps(each.wrapped, ensure_ascii=False) for each in tools)
    offered = f"# Tools\n\nYou have access to the following functions:\n\n<tools>\n{described}\n</tools>\n\n{USAGE}"
    return "\n\n".join([offered, _REMINDER, *([text] if text else [])])
