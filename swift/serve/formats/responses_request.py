"""The body of POST /v1/responses -> an InnerRequest. Knows no HTTP, no model and no store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from openai.types.responses import ResponseIncludable
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from swift.chat import Tool
from swift.serve.bad_request import invalid
from swift.serve.formats.request_fields import MAX_MESSAGES, Name, OneOf, RequestObject, check_schema
from swift.serve.formats.responses_items import Item, Resolved, dialogue
from swift.serve.formats.sampling_request import SamplingFields
from swift.serve.formats.template_fields import TemplateVariables, template_variables
from swift.serve.formats.tool_fields import MAX_TOOLS, SentTool, check_tools, content_schema, one_tool, schema_fields
from swift.serve.inner_request import Fields, InnerRequest, ToolChoice

LOGPROBS = "message.output_text.logprobs"
_CHOICES = (
    'must be none, auto, required, {"type": "function", "name": ...} or '
    '{"type": "allowed_tools", "mode": ..., "tools": [{"type": "function", "name": ...}]}'
)


_FORMATS = 'must be {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "name": ..., "schema": {...}}'


def _as_items(value: Any) -> Any:
    return [{"type": "message", "role": "user", "content": value}] if isinstance(value, str) else value


def _function(value: Any) -> Any:
    if value != "function" and isinstance(value, str):
        raise ValueError(f"tools of type {value[:80]} are not offered: only functions, which the client runs")
    return value


class _Function(SentTool):
    type: Annotated[Literal["function"], BeforeValidator(_function)]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The tool as it was sent, without its type."""
        fields = self.model_dump(exclude_unset=True, exclude={"type"})
        return {name: value for name, value in fields.items() if value is not None}


class _Reference(RequestObject):
    type: Literal["function"]
    name: str


class _Allowed(RequestObject):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[_Reference], Field(min_length=1)]


class _PlainFormat(RequestObject):
    type: Literal["text", "json_object"]


class _SchemaFormat(RequestObject):
    type: Literal["json_schema"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


def _format_tag(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return {"text": "_Plain", "json_object": "_Plain", "json_schema": "_Schema"}.get(str(kind))


class _TextOptions(RequestObject):
    format: (
        Annotated[
            Annotated[_PlainFormat, Tag("_Plain")] | Annotated[_SchemaFormat, Tag("_Schema")],
            Discriminator(_format_tag, custom_error_type="unknown_format", custom_error_message=_FORMATS),
        ]
        | None
    ) = None


class _Reasoning(RequestObject):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class _StreamOptions(RequestObject):
    """It has no field that changes the stream."""


class ResponsesRequest(SamplingFields):
    """The body of POST /v1/responses."""

    hints: ClassVar[Mapping[str, str]] = {"tool_choice": _CHOICES}
    input: Annotated[
        Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES)],
        BeforeValidator(_as_items, json_schema_input_type=str | list[Item]),
    ]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: Annotated[
        dict[
            Annotated[str, Field(max_length=64)],
            Annotated[str, Field(max_length=512)],
        ]
        | None,
        Field(max_length=16),
    ] = None
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    include: list[ResponseIncludable] | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: Annotated[list[_Function] | None, Field(max_length=MAX_TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | _Reference | _Allowed | None = None
    parallel_tool_calls: bool | None = None
    text: _TextOptions | None = None
    reasoning: _Reasoning | None = None
    chat_template_kwargs: TemplateVariables | None = None
    enable_thinking: bool | None = None
    stream_options: _StreamOptions | None = None
    background: Annotated[Any, OneOf(None, False)] = None
    truncation: Annotated[Any, OneOf(None, "disabled")] = None
    conversation: Annotated[Any, OneOf(None)] = None
    prompt: Annotated[Any, OneOf(None)] = None
    context_management: Annotated[Any, OneOf(None, [])] = None

    @model_validator(mode="after")
    def _tools_fit(self) -> ResponsesRequest:
        check_tools(self, self._described, self._choice, self._schema_field)
        if self.top_logprobs and LOGPROBS not in (self.include or ()):
            raise invalid("top_logprobs", f'requires include: ["{LOGPROBS}"]')
        if isinstance(self._format, _SchemaFormat):
            check_schema(self._format.schema_, self._schema_field(""))
        if self.stream_options and not self.stream:
            raise invalid("stream_options", "requires stream: true")
        _ = self.template_kwargs
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_output_tokens

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the model's own chat template, such as `enable_thinking`."""
        effort = self.reasoning.effort if self.reasoning else None
        return template_variables(self.chat_template_kwargs, self.enable_thinking, effort, "reasoning.effort")

    @property
    def _format(self) -> _PlainFormat | _SchemaFormat | None:
        return self.text.format if self.text else None

    @property
    def _described(self) -> tuple[Tool, ...]:
        return tuple(Tool({"type": "function", "function": tool.given}) for tool in self.tools or ())

    @property
    def _choice(self) -> ToolChoice:
        strict = frozenset(tool.name for tool in self.tools or () if tool.strict)
        parallel, given = self.parallel_tool_calls is not False, self.tool_choice
        if isinstance(given, _Reference):
            return one_tool(given.name, parallel, strict)
        if isinstance(given, _Allowed):
            names = tuple(each.name for each in given.tools)
            return ToolChoice(given.mode, names, parallel, strict=strict)
        return ToolChoice(given or "auto", None, parallel, strict=strict)

    @property
    def _schema(self) -> dict[str, Any] | None:
        given = self._format
        if given is None:
            return None
        return content_schema(given.type, given.schema_ if isinstance(given, _SchemaFormat) else None)

    @property
    def _schema_field(self) -> Callable[[str], str]:
        return schema_fields(self._described, "parameters", "text.format.schema")

    def inner(self, earlier: Sequence[Resolved], own: Sequence[Resolved]) -> InnerRequest:
        """`earlier`: the items of the dialogue that the request continues; `own`: its input, references resolved.

        Raises BadRequest for items that do not fit together.
        """
        return InnerRequest(
            self.model,
            dialogue([*earlier, *own], self.instructions),
            Fields("input", "tool_choice", "text.format", self._schema_field),
            self._described,
            self._choice,
            self._schema,
            isinstance(self._format, _SchemaFormat) and bool(self._format.strict),
            self.sampling,
            self.template_kwargs,
            stream=bool(self.stream),
        )

    @cached_property
    def echoed(self) -> dict[str, Any]:
        """The fields that the response repeats, with OpenAI's defaults."""
        given = self.tool_choice
        choice = given.model_dump(exclude_none=True) if isinstance(given, RequestObject) else given
        reply_format = self._format.model_dump(by_alias=True, exclude_none=True) if self._format else None
        return {
            "instructions": self.instructions,
            "metadata": self.metadata or {},
            "model": self.model,
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "tool_choice": choice or "auto",
            "tools": [
                {"type": "function", "parameters": None, "strict": False, **tool.given} for tool in self.tools or ()
            ],
            "background": False,
            "max_output_tokens": self.max_output_tokens,
            "previous_response_id": self.previous_response_id,
            "reasoning": {"effort": self.reasoning.effort if self.reasoning else None, "summary": None},
            "text": {"format": reply_format or {"type": "text"}},
            "top_logprobs": self.top_logprobs or 0,
            "truncation": "disabled",
        }
