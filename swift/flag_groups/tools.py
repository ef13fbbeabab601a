"""Flags of the tools that a model may call: where they come from, and when and how they run. Does nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from swift.flags import flag


@dataclass(frozen=True)
class ToolFlags:
    """Tools"""

    tools: tuple[str, ...] = flag((), commas=True)
    """Tools: Python files, whose public functions run; OpenAPI documents (files or URLs), whose operations are
    requested; JSON files of descriptions in OpenAI's format, which nothing runs"""
    mcp: tuple[str, ...] = flag(())
    """MCP servers: command lines, each in quotes, or URLs"""
    tool_filter: tuple[str, ...] = flag((), commas=True)
    """Names of the tools to keep; * and ? match any text and any character"""
    tool_header: tuple[str, ...] = flag(())
    """HTTP headers for an OpenAPI or MCP server, each as 'Name: value'; never shown or logged"""
    tool_base_url: str | None = None
    """Base URL of the OpenAPI document's operations, in place of its own"""
    tool_timeout: float = 30.0
    """Time limit of a call in seconds"""
    max_result_chars: int = 20_000
    """Maximum characters of a result; the rest is cut, with a note to the model"""
    confirm: Literal["none", "writes", "all"] = "none"
    """Calls to confirm before they run: none, those that may write, or all"""
    ask_below: float | None = None
    """Also confirm calls whose confidence is below this probability"""
    max_tools: int = 16
    """Maximum tools to offer for a reply; of more, those are offered that fit the dialogue best"""

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range and for flags without tools."""
        if not self.given:
            for item in fields(self):
                if getattr(self, item.name) != item.default:  # of our own fields, by their names
                    raise ValueError(f"--{item.name} has no effect without --tools or --mcp")
        for header in self.tool_header:
            name, colon, _ = header.partition(":")
            if not colon or not name.strip() or any(character.isspace() for character in name.strip()):
                raise ValueError("--tool_header: must be 'Name: value', such as 'Authorization: Bearer ...'")
        if not 0 < self.tool_timeout < math.inf:
            raise ValueError(f"--tool_timeout {self.tool_timeout:g}: must be above 0")
        if self.max_result_chars < 1:
            raise ValueError(f"--max_result_chars {self.max_result_chars}: must be 1 or more")
        if self.max_tools < 1:
            raise ValueError(f"--max_tools {self.max_tools}: must be 1 or more")
        if self.ask_below is not None:
            if not 0 < self.ask_below <= 1:
                raise ValueError(f"--ask_below {self.ask_below:g}: must be a probability above 0, at most 1")
            if self.confirm == "all":
                raise ValueError("--ask_below has no effect with --confirm all, which asks before every call")

    @property
    def given(self) -> bool:
        """Whether there are any tools."""
        return bool(self.tools or self.mcp)

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers by name."""
        pairs = (header.partition(":") for header in self.tool_header)
        return {name.strip(): value.strip() for name, _, value in pairs}
