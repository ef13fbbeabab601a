"""SWIFT: teach open language models to be agents, and put them to work.

The Python API is what this module exports; `swift.api` documents each function. Names load on first use, so
`import swift` takes no time and imports neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swift.api import ChatConfig, ToolCallScores, evaluate, fine_tune, generate, load_chat, run_agent
    from swift.chat import Image, Message, Tool, ToolCall

__all__ = [
    "ChatConfig",
    "Image",
    "Message",
    "Tool",
    "ToolCall",
    "ToolCallScores",
    "evaluate",
    "fine_tune",
    "generate",
    "load_chat",
    "run_agent",
]
_VALUES = ("Image", "Message", "Tool", "ToolCall")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'swift' has no attribute {name!r}")
    return getattr(import_module("swift.chat" if name in _VALUES else "swift.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
