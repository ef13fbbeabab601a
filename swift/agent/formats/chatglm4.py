"""`glm4` with the self-introduction that chatglm4 models were trained with instead of a system prompt."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent import STOCK_SYSTEM
from swift.agent.formats.glm4 import call, parse, result, syntax, write_tools
from swift.chat import Tool

__all__ = ["call", "parse", "result", "syntax", "system"]

_SELF = (
    "你是一个名为 GLM-4 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。"
)


def system(tools: Sequence[Tool], text: str) -> str:
    own = [text] if text and text != STOCK_SYSTEM else []
    return "\n\n".join([*own, _SELF, write_tools(tools)])
