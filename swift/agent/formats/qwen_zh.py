"""`qwen_en` with a Chinese system prompt."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent.formats.qwen_en import call, parse, result, syntax, write_system
from swift.chat import Tool

__all__ = ["call", "parse", "result", "syntax", "system"]

TITLE = "# 工具\n\n## 你拥有如下工具："
TOOL = "### {label}\n\n{name}: {description} 输入参数：{parameters} 此工具的输入应为JSON对象。"
_USAGE = """## 你可以在回复中插入零次、一次或多次以下命令以调用工具：

✿FUNCTION✿: 工具名称，必须是[{names}]之一。
✿ARGS✿: 工具输入
✿RESULT✿: 工具结果
✿RETURN✿: 根据工具结果进行回复，需将图片用![](url)渲染出来"""


def system(tools: Sequence[Tool], text: str) -> str:
    return write_system(tools, text, TITLE, TOOL, _USAGE)
