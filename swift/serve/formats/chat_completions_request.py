"""The body of POST /v1/chat/completions -> an InnerRequest. Knows no HTTP and no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from swift.chat import Message, Tool
from swift.serve.bad_request import invalid
from swift.serve.formats.chat_completions_messages import RequestMessage, dialogue
from swift.serve.formats.request_fields import MAX_MESSAGES, Name, OneOf, RequestObject, check_schema
from swift.serve.formats.sampling_request import SamplingRequest
from swift.serve.formats.template_fields import TemplateVariables, template_variables
from swift.serve.formats.tool_fields import MAX_TOOLS, SentTool, check_tools, content_schema, one_tool, schema_fields
from swift.serve.inner_request import Fields, InnerRequest, ToolChoice

_CHOICES = (
    'must be none, auto, required, {"type": "function", "function": {"name": ...}} or '
    '{"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}}'
)


class _Function(SentTool):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | list[dict[str, Any]] | None = None
    strict: bool | None = None


class ChatTool(SentTool):
    type: Literal["function"]
    function: _Function

    @property
    def described(self) -> Tool:
        return Tool(self.model_dump(exclude_unset=True))


class _Named(RequestObject):
    name: str


class _Reference(RequestObject):
    type: Literal["function"]
    function: _Named


class _AllowedTools(RequestObject):
    mode: Literal["auto", "required"]
    tools: Annotated[list[_Reference], Field(min_length=1)]


class _Allowed(RequestObject):
    type: Literal["allowed_tools"]
    allowed_tools: _AllowedTools


class _JsonSchema(RequestObject):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class _Plain(RequestObject):
    type: Literal["text", "json_object"]


class _Schema(RequestObject):
    type: Literal["json_schema"]
    json_schema: _JsonSchema


class ChatRequest(SamplingRequest):
    """The body of POST /v1/chat/completions."""

    hints: ClassVar[Mapping[str, str]] = {"tool_choice": _CHOICES}
    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: Annotated[list[ChatTool] | None, Field(max_length=MAX_TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | _Reference | _Allowed | None = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[_Plain | _Schema, Field(discriminator="type")] | None = None
    chat_template_kwargs: TemplateVariables | None = None
    enable_thinking: bool | None = None
    x_confidence: bool | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    functions: Annotated[Any, OneOf(None, [])] = None
    function_call: Annotated[Any, OneOf(None, "none", "auto")] = None
    modalities: Annotated[Any, OneOf(None, ["text"])] = None
    audio: Annotated[Any, OneOf(None)] = None
    web_search_options: Annotated[Any, OneOf(None)] = None

    @model_validator(mode="after")
    def _tools_fit(self) -> ChatRequest:
        check_tools(self, self._described, self._choice, self._schema_field)
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", "requires logprobs: true")
        if isinstance(self.response_format, _Schema):
            check_schema(self.response_format.json_schema.schema_ or {}, self._schema_field(""))
        return self

    @model_validator(mode="after")
    def _continuing_agrees(self) -> ChatRequest:
        """vLLM's fields. They say what the server does in any case: it continues a trailing assistant message."""
        continues = self.messages[-1].role == "assistant"
        what = "the last message is from the assistant: it is continued"
        if not continues:
            what = "the last message is not from the assistant: there is nothing to continue, and a reply begins"
        for field, given, right in (
            ("continue_final_message", self.continue_final_message, continues),
            ("add_generation_prompt", self.add_generation_prompt, not continues),
        ):
            if given is not None and given != right:
                raise invalid(field, f"must be {str(right).lower()} or absent: {what}")
        return self

    @model_validator(mode="after")
    def _variables_agree(self) -> ChatRequest:
        _ = self.template_kwargs
        return self

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the model's own chat template, such as `enable_thinking`."""
        given, effort = self.chat_template_kwargs, self.reasoning_effort
        return template_variables(given, self.enable_thinking, effort, "reasoning_effort")

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def confidence(self) -> bool:
        return bool(self.x_confidence)

    @property
    def _described(self) -> tuple[Tool, ...]:
        return tuple(tool.described for tool in self.tools or ())

    @property
    def _choice(self) -> ToolChoice:
        strict = frozenset(tool.function.name for tool in self.tools or () if tool.function.strict)
        parallel, given = self.parallel_tool_calls is not False, self.tool_choice
        if isinstance(given, _Reference):
            return one_tool(given.function.name, parallel, strict)
        if isinstance(given, _Allowed):
            names = tuple(each.function.name for each in given.allowed_tools.tools)
            return ToolChoice(given.allowed_tools.mode, names, parallel, strict=strict)
        return ToolChoice(given or "auto", None, parallel, strict=strict)

    @property
    def _json(self) -> dict[str, Any] | None:
        given = self.response_format
        if given is None:
            return None
        return content_schema(given.type, given.json_schema.schema_ if isinstance(given, _Schema) else None)

    @property
    def _strict_schema(self) -> bool:
        return isinstance(self.response_format, _Schema) and bool(self.response_format.json_schema.strict)

    @property
    def _schema_field(self) -> Callable[[str], str]:
        return schema_fields(self._described, "function.parameters", "response_format.json_schema.schema")

    @cached_property
    def dialogue(self) -> tuple[Message, ...]:
        """The messages, system messages joined and tool results in the order of their calls."""
        return dialogue(self.messages)

    @cached_property
    def inner(self) -> InnerRequest:
        """Raises BadRequest for messages that do not fit together."""
        return InnerRequest(
            self.model,
            self.dialogue,
            Fields("messages", "tool_choice", "response_format", self._schema_field),
            self._described,
            self._choice,
            self._json,
            self._strict_schema,
            self.sampling,
            self.template_kwargs,
            replies=self.choices,
            stream=bool(self.stream),
        )
