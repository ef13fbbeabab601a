"""The tools of several sources under distinct names. Knows no kind of source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol

from swift.chat import Tool
from swift.tools.bound_tool import BoundTool


class Source(Protocol):
    """Where tools come from: a file, a server, a list of descriptions."""

    @property
    def name(self) -> str:
        """A short name, such as the stem of a file. Prefix of tools whose names clash."""

    @property
    def tools(self) -> Sequence[BoundTool]:
        """The tools that the source offers now."""

    def close(self) -> None:
        """Ends processes and connections."""


class Toolbox:
    """The tools of `sources`. A name that several tools have gets the prefix of its source: `house_open`, `shop_open`.

    Closing it closes the sources.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)

    @property
    def tools(self) -> list[BoundTool]:
        """The tools that the sources offer now, in the order of the sources."""
        found = [(source, bound) for source in self._sources for bound in source.tools]
        count = Counter(bound.name for _, bound in found)
        taken = {name for name, number in count.items() if number == 1}
        tools = []
        for source, bound in found:
            if count[bound.name] > 1:
                bound = _renamed(bound, _unused(f"{_identifier(source.name)}_{bound.name}", taken))
                taken.add(bound.name)
            tools.append(bound)
        return tools

    def close(self) -> None:
        with ExitStack() as stack:  # all are closed, also after one that fails
            for source in self._sources:
                stack.callback(source.close)

    def __enter__(self) -> Toolbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _renamed(bound: BoundTool, name: str) -> BoundTool:
    function: dict[str, Any] = {**bound.tool.function, "name": name}
    return replace(bound, tool=Tool({"type": "function", "function": function}))


def _unused(name: str, taken: set[str]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_") or "tools"
