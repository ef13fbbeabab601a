"""The bodies of Anthropic's POST /v1/messages and /v1/messages/count_tokens -> an InnerRequest. Knows no HTTP and no
model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from swift.chat import Tool
from swift.serve.bad_request import BadRequest, invalid
from swift.serve.error_bodies import NO_THREADS
from swift.serve.formats.messages_dialogue import RequestMessage, SystemPrompt, dialogue
from swift.serve.formats.request_fields import MAX_MESSAGES, Name, OneOf, RequestObject, check_schema
from swift.serve.formats.sampling_request import MAX_STOP_LENGTH, set_fields
from swift.serve.formats.tool_fields import MAX_TOOLS, check_tools, schema_fields
from swift.serve.inner_request import Fields, InnerRequest, ToolChoice

MAX_STOPS = 64


def _run_by_client(kind: str | None) -> str | None:
    if kind not in (None, "custom"):
        raise ValueError(
            f"tools of type {kind[:80]} are not supported: their schema or their execution is Anthropic's. "
            "Describe the tool with name, description and input_schema, and run it in the client"
        )
    return kind


def _no_thread(value: Any) -> Any:
    if value is not None and value is not False:
        what = "thread: this server keeps no conversations: send all messages with each request"
        raise BadRequest(what, param="thread", code=NO_THREADS)
    return value


class _Tool(RequestObject):
    type: Annotated[
        str | None,
        AfterValidator(_run_by_client),
        WithJsonSchema({"enum": ["custom", None]}),
    ] = None
    name: Name
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    eager_input_streaming: bool | None = None


class _Choice(RequestObject):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _names_a_tool(self) -> _Choice:
        if (self.type == "tool") != (self.name is not None):
            raise invalid("tool_choice.name", "is for type tool, which needs it")
        return self


class _Thinking(RequestObject):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int | None, Field(ge=1)] = None
    display: Literal["summarized", "omitted"] | None = None


class _JsonFormat(RequestObject):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class _Output(RequestObject):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _JsonFormat | None = None


class _Metadata(RequestObject):
    user_id: str | None = None


class CountTokensRequest(RequestObject):
    """The body of POST /v1/messages/count_tokens, and the part of a Messages request that makes up its prompt."""

    model: str
    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: SystemPrompt = None
    tools: Annotated[list[_Tool] | None, Field(max_length=MAX_TOOLS)] = None
    tool_choice: _Choice | None = None
    thinking: _Thinking | None = None
    output_config: _Output | None = None
    thread: Annotated[Any, AfterValidator(_no_thread), WithJsonSchema({"enum": [None, False]})] = None
    container: Annotated[Any, OneOf(None)] = None
    mcp_servers: Annotated[Any, OneOf(None, [])] = None

    @model_validator(mode="after")
    def _tools_fit(self) -> CountTokensRequest:
        check_tools(self, self.described_tools, self._choice, self._schema_field)
        if self._format is not None:
            check_schema(self._format, self._schema_field(""))
        return self

    @cached_property
    def described_tools(self) -> tuple[Tool, ...]:
        """The tools as chat completions would describe them: the prompts of both are equal."""
        return tuple(_tool(each) for each in self.tools or ())

    @property
    def _choice(self) -> ToolChoice:
        strict = frozenset(tool.name for tool in self.tools or () if tool.strict)
        choice = self.tool_choice
        if choice is None:
            return ToolChoice(strict=strict)
        mode: Literal["none", "auto", "required"] = "auto"
        if choice.type in ("any", "tool"):
            mode = "required"
        elif choice.type == "none":
            mode = "none"
        names = None if choice.name is None else (choice.name,)
        return ToolChoice(mode, names, not choice.disable_parallel_tool_use, choice.type == "tool", strict)

    @property
    def _format(self) -> dict[str, Any] | None:
        output = self.output_config
        return output.format.schema_ if output is not None and output.format is not None else None

    @property
    def _template_kwargs(self) -> dict[str, Any]:
        variables: dict[str, Any] = {}
        if self.thinking is not None:
            variables["enable_thinking"] = self.thinking.type != "disabled"
        if self.output_config is not None and self.output_config.effort is not None:
            # chat templates know no level above xhigh
            variables["reasoning_effort"] = self.output_config.effort.replace("max", "xhigh")
        return variables

    @property
    def _schema_field(self) -> Callable[[str], str]:
        return schema_fields(self.described_tools, "input_schema", "output_config.format.schema")

    @property
    def inner(self) -> InnerRequest:
        """Raises BadRequest for messages that do not fit together."""
        return InnerRequest(
            self.model,
            dialogue(self.system, self.messages),
            Fields("messages", "tool_choice", "output_config.format", self._schema_field),
            self.described_tools,
            self._choice,
            self._format,
            template_kwargs=self._template_kwargs,
        )


class MessagesRequest(CountTokensRequest):
    """The body of POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]] | None, Field(max_length=MAX_STOPS)
    ] = None
    stream: bool | None = None
    temperature: Annotated[float | None, Field(ge=0, le=1)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0)] = None
    metadata: _Metadata | None = None

    @property
    def inner(self) -> InnerRequest:
        return replace(super().inner, sampling=self._sampling, stream=bool(self.stream))

    @property
    def tool_names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.tools or ())

    @property
    def omits_thinking(self) -> bool:
        """Whether the reply has its reasoning without the text."""
        return self.thinking is not None and self.thinking.display == "omitted"

    @property
    def eager_tools(self) -> frozenset[str]:
        """The tools whose input is streamed as it is generated, instead of complete and checked."""
        return frozenset(tool.name for tool in self.tools or () if tool.eager_input_streaming)

    @property
    def _sampling(self) -> dict[str, Any]:
        """The fields of SamplingParams. Many clients set a `max_tokens` beyond the context: the reply is cut there."""
        stops = self.stop_sequences
        given: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "clip": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": None if stops is None else tuple(stops),
            "include_stop": None if stops is None else False,  # a reply never contains its stop sequence
        }
        return set_fields(given)


def _tool(tool: _Tool) -> Tool:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    return Tool({"type": "function", "function": {**function, "parameters": tool.input_schema}})
