"""The tools of several sources under distinct names. Knows no kind of source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

from swift.agent.arguments import excerpt
from swift.chat import Tool
from swift.system.nearest import closest
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


@dataclass(frozen=True)
class Listed:
    """A source of tools that are there already, such as functions of this process."""

    name: str
    tools: Sequence[BoundTool]

    def close(self) -> None:
        """Nothing is open."""


class Toolbox:
    """The tools of `sources`. A name that several tools have gets the prefix of its source: `house_open`, `shop_open`.

    `keep`: patterns (`read_*`) of the tools to offer, which match names with or without that prefix; all without it.
    Closing the toolbox closes the sources.
    """

    def __init__(self, sources: Sequence[Source], keep: Sequence[str] = ()) -> None:
        self._sources, self._keep = tuple(sources), tuple(keep)

    @property
    def tools(self) -> list[BoundTool]:
        """The tools that the sources offer now, in the order of the sources."""
        return [
            bound
            for name, bound in self._named()
            if not self._keep
            or any(fnmatchcase(each, pattern) for each in {name, bound.name} for pattern in self._keep)
        ]

    def unmatched(self) -> str:
        """The first pattern that matches no tool, with the nearest name or all names; "" if there is none."""
        names = sorted({each for name, bound in self._named() for each in (name, bound.name)})
        for pattern in self._keep:
            if not any(fnmatchcase(name, pattern) for name in names):
                close = closest(pattern, names, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"the tools are {excerpt(', '.join(names))}"
                return f"{pattern}: no tool has such a name: {hint}"
        return ""

    def _named(self) -> list[tuple[str, BoundTool]]:
        """Each tool with its own name and, in the tool, its distinct one."""
        found = [(source, bound) for source in self._sources for bound in source.tools]
        count = Counter(bound.name for _, bound in found)
        taken = {name for name, number in count.items() if number == 1}
        tools = []
        for source, bound in found:
            own = bound.name
            if count[own] > 1:
                bound = _renamed(bound, _unused(f"{_identifier(source.name)}_{own}", taken))
                taken.add(bound.name)
            tools.append((own, bound))
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
