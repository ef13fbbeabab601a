"""`qwen_zh` for models with parallel calls: only the usage in the system prompt differs."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent.formats.qwen_en import call, parse, result, syntax, write_system
from swift.agent.formats.qwen_zh import TITLE, TOOL
from swift.chat import Tool

__all__ = ["call", "parse", "result", "syntax", "system"]

_USAGE = """## 你可以在回复中插入以下命令以并行调用N个工具：

✿FUNCTION✿: 工具1的名称，必须是[{names}]之一
✿ARGS✿: 工具1的输入
✿FUNCTION✿: 工具2的名称
✿ARGS✿: 工具2的输入
...
✿FUNCTION✿: 工具N的名称
✿ARGS✿: 工具N的输入
✿RESULT✿: 工具1的结果
✿RESULT✿: 工具2的结果
...
✿RESULT✿: 工具N的结果
✿RETURN✿: 根据工具结果进行回复，需将图片用![](url)渲染出来"""


def system(tools: Sequence[Tool], text: str) -> str:
    return write_system(tools, text, TITLE, TOOL, _USAGE)
