"""ReAct with a Chinese system prompt; calls and results are those of `react_en`."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent.formats.react_en import call, parse, result, syntax, write_system
from swift.chat import Tool

__all__ = ["call", "parse", "result", "syntax", "system"]

_HEADER = "尽可能地回答以下问题。你可以使用以下工具:"
_TOOL = (
    "{name}: 调用此工具与 {label} API 进行交互。{label} 有什么用？{description} "
    "输入参数：{parameters} 此工具的输入应为JSON对象。"
)
_FORMAT = """请按照以下格式进行:

Question: 需要你回答的输入问题
Thought: 你应该总是思考该做什么
Action: 需要使用的工具，应该是[{names}]中的一个
Action Input: 传入工具的内容
Observation: 行动的结果
... (这个Thought/Action/Action Input/Observation可以重复N次)
Thought: 我现在知道最后的答案
Final Answer: 对原始输入问题的最终答案

现在开始！
"""


def system(tools: Sequence[Tool], text: str) -> str:
    return write_system(tools, text, _HEADER, _TOOL, _FORMAT)
