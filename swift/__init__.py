"""SWIFT: teach open language models to be agents, and put them to work.

The Python API is what this module exports; `swift.api` documents each function. Names load on first use, so
`import swift` takes no time and imports neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swift.api import ChatConfig, ToolCallScores, evaluate, fine_tune, generate, load_chat, open_tools, run_agent
    from swift.chat import Image, Message, Tool, ToolCall
    from swift.tools.marks import read_only

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
    "open_tools",
    "read_only",
    "run_agent",
]
_MODULES = {
    "Image": "swift.chat",
    "Message": "swift.chat",
    "Tool": "swift.chat",
    "ToolCall": "swift.chat",
    "read_only": "swift.tools.marks",
}
"""Where names are that are not in `swift.api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'swift' has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "swift.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
