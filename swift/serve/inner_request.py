"""A request to a chat, whatever its wire format: messages, tools, what may be called, sampling. Knows no JSON body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from swift.chat import Message, Tool
from swift.engine.sampling import SamplingParams
from swift.guided.grammar import Rules


@dataclass(frozen=True)
class ToolChoice:
    """Which of the offered tools a reply calls.

    `names`: only these may be called; None: all of them. `parallel`: several calls in one reply are allowed. `once`:
    exactly one call. `strict`: the tools whose schemas must be enforced in full.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] | None = None
    parallel: bool = True
    once: bool = False
    strict: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fields:
    """The names that a wire format gives to its fields, for errors.

    `schema(tool)` is the field with the schema of a tool's arguments; `schema("")` that of the content.
    """

    messages: str
    tool_choice: str
    response_format: str
    schema: Callable[[str], str]


@dataclass(frozen=True)
class InnerRequest:
    """One request. `tools`: all that the request describes, also if `choice` excludes them.

    `json_schema`: the schema of a reply without calls; None: any text. `strict_schema`: it must be enforced in full.
    `sampling`: the fields of SamplingParams that the request sets. `template_kwargs`: variables of the chat template.
    `replies`: how many are generated, each with its own seed.
    """

    model: str
    messages: tuple[Message, ...]
    fields: Fields
    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice()
    json_schema: dict[str, Any] | None = None
    strict_schema: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    replies: int = 1
    stream: bool = False

    @property
    def offered_tools(self) -> tuple[Tool, ...]:
        """The tools that the prompt describes."""
        return () if self.choice.mode == "none" else self.tools

    @property
    def prompt_texts(self) -> list[str]:
        """Texts that the prompt contains for certain. Chat templates may drop an assistant's message or reasoning."""
        return [message.content for message in self.messages if message.role != "assistant"]

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """The sampling parameters; `defaults` for those that the request does not set."""
        return replace(defaults, **self.sampling)

    def rules(self, guide_tools: bool) -> Rules | None:
        """The constraints on the reply, if any. `guide_tools`: constrain calls whenever tools are offered."""
        choice, tools = self.choice, self.offered_tools
        required, restricted = choice.mode == "required", choice.names is not None
        single = not choice.parallel
        guided = guide_tools or required or restricted or choice.strict or single or self.json_schema is not None
        if not guided:
            tools = ()
        if not tools and self.json_schema is None:
            return None
        callable_tools = tuple(tool for tool in tools if choice.names is None or tool.name in choice.names)
        in_full = frozenset(tool.name for tool in callable_tools if tool.name in choice.strict)
        parallel = not single and not choice.once
        return Rules(callable_tools, required, parallel, self.json_schema, in_full, self.strict_schema)
