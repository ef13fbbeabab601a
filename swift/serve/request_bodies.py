"""The bodies of OpenAI's requests -> messages, tools, sampling parameters. Knows no HTTP and no model.

The pydantic models list the supported fields. An unknown field is ignored, and its name kept for the log; a known
field that is not supported is refused.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from jsonschema.exceptions import SchemaError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_plain_validator_function

from swift.agent.schemas import argument_schema, checker
from swift.chat import Message, Tool
from swift.engine.sampling import SamplingParams
from swift.guided.grammar import Rules
from swift.serve.bad_request import BadRequest, invalid
from swift.serve.request_messages import MAX_MESSAGES, RequestMessage, RequestObject, dialogue

MAX_CHOICES, MAX_STOPS, MAX_TOOLS, MAX_BIASES = 128, 16, 512, 4096
MAX_STOP_LENGTH = 1000
"""Characters of a stop string."""
MAX_VALUES = 300_000
"""Strings and commas of a body: parsing JSON holds the GIL, for about a microsecond each."""
RESERVED_VARIABLES = frozenset(
    [
        "messages",
        "conversation",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
    ]
)
"""Variables of chat templates that the server sets itself."""
MAX_TOOLS_SIZE = 1 << 18
"""Bytes of a request's tools as JSON: jsonschema takes up to 20 us a byte to validate their schemas."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _prompts(value: Any) -> Any:
    """The prompts as a list; each is a string or a list of token ids."""
    several = value if isinstance(value, list) and value and isinstance(value[0], (str, list)) else [value]
    for prompt in several:
        tokens = isinstance(prompt, list) and all(type(each) is int for each in prompt)
        if not isinstance(prompt, str) and not tokens:
            raise ValueError("must be a string, a list of token ids, or a list of either")
        if not prompt:
            raise ValueError("the prompt is empty")
    return several


class _OneOf:
    """A field with these values alone; others are refused instead of ignored."""

    def __init__(self, *allowed: Any) -> None:
        self._allowed = allowed

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: Any) -> dict[str, Any]:
        return {"enum": list(self._allowed)}

    def _check(self, value: Any) -> Any:
        if any(value == each and type(value) is type(each) for each in self._allowed):
            return value
        known = " or ".join(json.dumps(each) for each in self._allowed if each is not None)
        raise ValueError(f"only {known or 'null'} is supported, not {json.dumps(value)[:80]}")


Optional64 = Annotated[int | None, Field(ge=-(2**63), lt=2**63)]
Penalty = Annotated[float | None, Field(ge=-2, le=2)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w.:/-]+$")]
"""Letters that no tool-call format uses as delimiters."""


class _Function(RequestObject):
    # Unknown fields are kept with their values: the prompt shows the tool as the client sent it.
    __pydantic_extra__: dict[str, Any]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | list[dict[str, Any]] | None = None
    strict: bool | None = None


class _Tool(RequestObject):
    __pydantic_extra__: dict[str, Any]
    type: Literal["function"]
    function: _Function


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


class _StreamOptions(RequestObject):
    include_usage: bool | None = None


class _Request(RequestObject):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]] | None, Field(max_length=MAX_BIASES)] = (
        None
    )
    seed: Optional64 = None
    stop: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]], Field(max_length=MAX_STOPS)]
        | None,
        BeforeValidator(_as_list),
        WithJsonSchema({"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}]}),
    ] = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES)] = None
    user: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> _Request:
        if self.stream_options and not self.stream:
            raise invalid("stream_options", "requires stream: true")
        for token in self.logit_bias or ():
            if not token.isdecimal():
                raise invalid("logit_bias", f"'{token[:40]}' is not a token id")
        return self

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many of the most probable tokens are listed for each token; None: no log probabilities at all."""
        return None

    @property
    def confidence(self) -> bool:
        """Whether tool calls come with their confidence."""
        return False

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """The sampling parameters; `defaults` for fields that the request does not set.

        A token limit beyond the context is an error if the client sets it; the default limit is clipped instead.
        """
        given: dict[str, Any] = {
            "max_tokens": self.token_limit,
            "clip": None if self.token_limit is None else False,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),  # vLLM's clients send -1 for "off"
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias and {int(token): value for token, value in self.logit_bias.items()},
            "seed": self.seed,
            "stop": None if self.stop is None else tuple(self.stop),
            "include_stop": self.include_stop_str_in_output,
            "ignore_eos": self.ignore_eos,
            "logprobs": self.alternatives is not None or None,
            "top_logprobs": self.alternatives,
            "confidence": self.confidence or None,
        }
        if self.top_p == 0:  # only the most probable token
            given |= {"top_p": 1.0, "temperature": 0.0}
        return replace(defaults, **{name: value for name, value in given.items() if value is not None})


class TextRequest(_Request):
    """The body of POST /v1/completions."""

    prompt: Annotated[
        Any,
        AfterValidator(_prompts),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                    {"type": "array", "minItems": 1, "items": {"type": "integer"}},
                    {"type": "array", "items": {"type": "array", "minItems": 1, "items": {"type": "integer"}}},
                ]
            }
        ),
    ]
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    max_tokens: Annotated[int | None, Field(ge=0)] = None
    best_of: Annotated[Any, _OneOf(None, 1)] = None
    echo: Annotated[Any, _OneOf(None, False)] = None
    suffix: Annotated[Any, _OneOf(None, "")] = None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens or (None if self.max_tokens is None else 1)

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    @property
    def prompt_texts(self) -> list[list[str]]:
        """For each prompt, texts that it contains for certain."""
        return [[prompt] for prompt in self.prompt if isinstance(prompt, str)]


def _variables(value: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(value.keys() & RESERVED_VARIABLES):
        raise ValueError(f"{taken[0]} is set by the server and cannot be sent")
    return value


class ChatRequest(_Request):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: Annotated[list[_Tool] | None, Field(max_length=MAX_TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | _Reference | _Allowed | None = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[_Plain | _Schema, Field(discriminator="type")] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_variables)] | None = None
    enable_thinking: bool | None = None
    x_confidence: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    functions: Annotated[Any, _OneOf(None, [])] = None
    function_call: Annotated[Any, _OneOf(None, "none", "auto")] = None
    modalities: Annotated[Any, _OneOf(None, ["text"])] = None
    audio: Annotated[Any, _OneOf(None)] = None
    web_search_options: Annotated[Any, _OneOf(None)] = None

    @model_validator(mode="after")
    def _tools_fit(self) -> ChatRequest:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise invalid("tools", f"two tools are named '{twice}'")
        if self.tools and len(self.model_dump_json(include={"tools"})) > MAX_TOOLS_SIZE:
            raise invalid("tools", f"longer than {MAX_TOOLS_SIZE} bytes of JSON")
        for index, tool in enumerate(self.tools or ()):
            _check_schema(argument_schema(_tool(tool)), f"tools[{index}].function.parameters")
        for name in self._chosen or ():
            if name not in names:
                raise invalid(
                    "tool_choice", f"'{name[:80]}' is not one of the tools ({', '.join(names) or 'there are none'})"
                )
        if self.tool_choice == "required" and not names:
            raise invalid("tool_choice", "the request has no tools")
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", "requires logprobs: true")
        if isinstance(self.response_format, _Schema):
            _check_schema(self.response_format.json_schema.schema_ or {}, "response_format.json_schema.schema")
        return self

    @model_validator(mode="after")
    def _variables_agree(self) -> ChatRequest:
        given = dict(self.chat_template_kwargs or {})
        for name, value in self._named_variables:
            if (other := given.setdefault(name, value)) != value:
                raise invalid(name, f"the request sets two values, {json.dumps(other)[:80]} and {json.dumps(value)}")
        return self

    @property
    def _named_variables(self) -> list[tuple[str, Any]]:
        """Variables of the chat template that are set by their own fields."""
        named: list[tuple[str, Any]] = []
        if self.enable_thinking is not None:
            named.append(("enable_thinking", self.enable_thinking))
        if self.reasoning_effort == "none":
            named.append(("enable_thinking", False))
        elif self.reasoning_effort is not None:
            named.append(("reasoning_effort", self.reasoning_effort))
        return named

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the model's own chat template, such as `enable_thinking`."""
        return {**(self.chat_template_kwargs or {}), **dict(self._named_variables)}

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
    def offered_tools(self) -> tuple[Tool, ...]:
        return () if self.tool_choice == "none" else tuple(_tool(tool) for tool in self.tools or ())

    @property
    def _chosen(self) -> list[str] | None:
        """The tools that may be called, if the request restricts them."""
        if isinstance(self.tool_choice, _Reference):
            return [self.tool_choice.function.name]
        if isinstance(self.tool_choice, _Allowed):
            return [each.function.name for each in self.tool_choice.allowed_tools.tools]
        return None

    def rules(self, guide_tools: bool) -> Rules | None:
        """The constraints on the reply, if any. `guide_tools`: constrain calls whenever tools are offered."""
        tools, chosen = self.offered_tools, self._chosen
        required = (
            self.tool_choice == "required"
            or isinstance(self.tool_choice, _Reference)
            or (isinstance(self.tool_choice, _Allowed) and self.tool_choice.allowed_tools.mode == "required")
        )
        strict = {tool.function.name for tool in self.tools or () if tool.function.strict}
        if isinstance(self.tool_choice, _Reference):
            strict.add(self.tool_choice.function.name)
        single = self.parallel_tool_calls is False
        if not tools or not (guide_tools or required or chosen is not None or strict or single or self._json):
            tools = ()
        if not tools and self._json is None:
            return None
        callable_tools = tuple(tool for tool in tools if chosen is None or tool.name in chosen)
        # A named function is called exactly once.
        parallel = not single and not isinstance(self.tool_choice, _Reference)
        in_full = frozenset(tool.name for tool in callable_tools if tool.name in strict)
        return Rules(callable_tools, required, parallel, self._json, in_full, self._strict_schema)

    @property
    def _json(self) -> dict[str, Any] | None:
        if isinstance(self.response_format, _Schema):
            return self.response_format.json_schema.schema_ or {"type": "object"}
        plain = self.response_format
        return {"type": "object"} if plain is not None and plain.type == "json_object" else None

    @property
    def _strict_schema(self) -> bool:
        return isinstance(self.response_format, _Schema) and bool(self.response_format.json_schema.strict)

    def schema_field(self, tool: str) -> str:
        """The field with the schema of a tool's arguments, or (tool "") of the content."""
        if not tool:
            return "response_format.json_schema.schema"
        names = [each.function.name for each in self.tools or ()]
        return f"tools[{names.index(tool)}].function.parameters"

    @cached_property
    def dialogue(self) -> tuple[Message, ...]:
        """The messages, system messages joined and tool results in the order of their calls."""
        return dialogue(self.messages)

    @property
    def prompt_texts(self) -> list[list[str]]:
        """Texts that the prompt contains for certain. Chat templates may drop an assistant's message or reasoning."""
        return [[message.content for message in self.dialogue if message.role != "assistant"]]


class LoadRequest(RequestObject):
    """The body of POST /v1/load_lora_adapter (vLLM's)."""

    lora_name: Name
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]


class UnloadRequest(RequestObject):
    """The body of POST /v1/unload_lora_adapter."""

    lora_name: str


Body = TypeVar("Body", bound=BaseModel)


def read(shape: type[Body], body: bytes) -> Body:
    """A request's body as `shape`. Raises BadRequest, which names the field."""
    strings = (body.count(b'"') - body.count(b'\\"')) // 2
    if body.count(b",") + strings > MAX_VALUES:
        raise BadRequest(f"the body has too many values: more than {MAX_VALUES} strings and commas", status=413)
    if body.startswith(BOM_UTF8):
        raise BadRequest("the body is not JSON: it starts with a byte order mark")
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, BadRequest):
            raise cause from None
        if first["type"] == "json_invalid":
            raise BadRequest(f"the body is not JSON: {cause}") from None
        if first["loc"][:1] == ("tool_choice",):
            raise invalid("tool_choice", _CHOICES) from None
        raise invalid(_path(first["loc"]), first["msg"].removeprefix("Value error, ")) from None


_CHOICES = (
    'must be none, auto, required, {"type": "function", "function": {"name": ...}} or '
    '{"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}}'
)


def _path(place: tuple[int | str, ...]) -> str:
    """A field's path as OpenAI writes it, without pydantic's names for the variants of a union."""
    fields = [
        part
        for before, part in zip((None, *place), place, strict=False)
        if isinstance(part, int) or (part != before and not re.search(r"^_[A-Z]|[\[(]|^(str|bool|list|dict)$", part))
    ]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fields).removeprefix(".")


def _tool(tool: _Tool) -> Tool:
    return Tool(tool.model_dump(exclude_unset=True))


def _check_schema(schema: dict[str, Any], place: str) -> None:
    try:
        checker(schema)
    except SchemaError as error:
        within = error.json_path.removeprefix("$").removeprefix(".")
        raise invalid(place, f"not a JSON schema: {f'{within}: ' if within else ''}{error.message[:200]}") from None
