"""What clients ask: OpenAI's requests -> our values. Knows no HTTP and no model.

The pydantic models name what is honoured. A field that nobody knows is ignored, and its name kept; a known one that
cannot be honoured is refused.
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

from swift.agent.tools import argument_schema, checker
from swift.chat import Message, Tool
from swift.engine.sampling import SamplingParams
from swift.guided.grammar import Rules
from swift.serve.bad_request import BadRequest, invalid
from swift.serve.request_messages import MOST_MESSAGES, Known, RequestMessage, dialogue

MOST_CHOICES, MOST_STOPS, MOST_TOOLS, MOST_BIASES = 128, 16, 512, 4096
LONGEST_STOP = 1000
"""Characters."""
MOST_VALUES = 300_000
"""Strings and commas of a body: Python's lock is held while JSON is read, a microsecond for each."""
NO_VARIABLES = frozenset(
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
"""What of a chat template's surroundings the server sets."""
LONGEST_TOOLS = 1 << 18
"""Bytes of a request's tools as JSON: jsonschema takes up to 20 us a byte to check their schemas."""


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _prompts(value: Any) -> Any:
    """One prompt or several; each is a text or a list of token ids."""
    several = value if isinstance(value, list) and value and isinstance(value[0], (str, list)) else [value]
    for prompt in several:
        tokens = isinstance(prompt, list) and all(type(each) is int for each in prompt)
        if not isinstance(prompt, str) and not tokens:
            raise ValueError("a text, a list of token ids, or a list of one of these is expected")
        if not prompt:
            raise ValueError("the prompt is empty")
    return several


class _Only:
    """Refuses what is not honoured, instead of ignoring it."""

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
"""What a text form can write without marks of its own."""


class _Function(Known):
    # A tool reaches the prompt as it was given.
    __pydantic_extra__: dict[str, Any]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | list[dict[str, Any]] | None = None
    strict: bool | None = None


class _Tool(Known):
    __pydantic_extra__: dict[str, Any]
    type: Literal["function"]
    function: _Function


class _Named(Known):
    name: str


class _Reference(Known):
    type: Literal["function"]
    function: _Named


class _AllowedTools(Known):
    mode: Literal["auto", "required"]
    tools: Annotated[list[_Reference], Field(min_length=1)]


class _Allowed(Known):
    type: Literal["allowed_tools"]
    allowed_tools: _AllowedTools


class _JsonSchema(Known):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class _Plain(Known):
    type: Literal["text", "json_object"]


class _Schema(Known):
    type: Literal["json_schema"]
    json_schema: _JsonSchema


class _StreamOptions(Known):
    include_usage: bool | None = None


class _Request(Known):
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
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]] | None, Field(max_length=MOST_BIASES)] = (
        None
    )
    seed: Optional64 = None
    stop: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]], Field(max_length=MOST_STOPS)]
        | None,
        BeforeValidator(_one_or_more),
        WithJsonSchema({"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}]}),
    ] = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    n: Annotated[int | None, Field(ge=1, le=MOST_CHOICES)] = None
    user: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> _Request:
        if self.stream_options and not self.stream:
            raise invalid("stream_options", "only for requests with stream: true")
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
    def longest(self) -> int | None:
        return self.max_tokens

    @property
    def told(self) -> int | None:
        """How many of the likeliest tokens are told beside each; None tells no log probability at all."""
        return None

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """How this reply is drawn; `defaults` where the request is silent. Only what a client asks for is refused."""
        given: dict[str, Any] = {
            "max_tokens": self.longest,
            "clip": None if self.longest is None else False,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),  # -1 is "off" too, elsewhere
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias and {int(token): value for token, value in self.logit_bias.items()},
            "seed": self.seed,
            "stop": None if self.stop is None else tuple(self.stop),
            "include_stop": self.include_stop_str_in_output,
            "ignore_eos": self.ignore_eos,
            "logprobs": self.told is not None or None,
            "top_logprobs": self.told,
        }
        if self.top_p == 0:  # no share of the probability but the first token's
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
    best_of: Annotated[Any, _Only(None, 1)] = None
    echo: Annotated[Any, _Only(None, False)] = None
    suffix: Annotated[Any, _Only(None, "")] = None

    @property
    def longest(self) -> int | None:
        return self.max_tokens or (None if self.max_tokens is None else 1)

    @property
    def told(self) -> int | None:
        return self.logprobs

    @property
    def texts(self) -> list[list[str]]:
        """What each prompt has to hold at least."""
        return [[prompt] for prompt in self.prompt if isinstance(prompt, str)]


def _variables(value: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(value.keys() & NO_VARIABLES):
        raise ValueError(f"{taken[0]} is no variable of a request's: it is what the server itself sets")
    return value


class ChatRequest(_Request):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: Annotated[list[_Tool] | None, Field(max_length=MOST_TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | _Reference | _Allowed | None = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[_Plain | _Schema, Field(discriminator="type")] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_variables)] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    functions: Annotated[Any, _Only(None, [])] = None
    function_call: Annotated[Any, _Only(None, "none", "auto")] = None
    modalities: Annotated[Any, _Only(None, ["text"])] = None
    audio: Annotated[Any, _Only(None)] = None
    web_search_options: Annotated[Any, _Only(None)] = None

    @model_validator(mode="after")
    def _tools_fit(self) -> ChatRequest:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise invalid("tools", f"two tools are called '{twice}'")
        if self.tools and len(self.model_dump_json(include={"tools"})) > LONGEST_TOOLS:
            raise invalid("tools", f"at most {LONGEST_TOOLS} bytes of them are supported")
        for index, tool in enumerate(self.tools or ()):
            _check_schema(argument_schema(_given(tool)), f"tools[{index}].function.parameters")
        for name in self._chosen or ():
            if name not in names:
                raise invalid(
                    "tool_choice", f"'{name[:80]}' is none of the tools ({', '.join(names) or 'there are none'})"
                )
        if self.tool_choice == "required" and not names:
            raise invalid("tool_choice", "there are no tools to choose from")
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", "only for requests with logprobs: true")
        if isinstance(self.response_format, _Schema):
            _check_schema(self.response_format.json_schema.schema_ or {}, "response_format.json_schema.schema")
        return self

    @model_validator(mode="after")
    def _variables_agree(self) -> ChatRequest:
        given = dict(self.chat_template_kwargs or {})
        for name, value in self._named_variables:
            if (other := given.setdefault(name, value)) != value:
                raise invalid(name, f"two values of it are given, {json.dumps(other)[:80]} and {json.dumps(value)}")
        return self

    @property
    def _named_variables(self) -> list[tuple[str, Any]]:
        """The variables of the chat template that have fields of their own."""
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
        """Variables for the model's own chat template."""
        return {**(self.chat_template_kwargs or {}), **dict(self._named_variables)}

    @property
    def longest(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def told(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def offered(self) -> tuple[Tool, ...]:
        return () if self.tool_choice == "none" else tuple(_given(tool) for tool in self.tools or ())

    @property
    def _chosen(self) -> list[str] | None:
        """The names that may be called, where the request narrows them."""
        if isinstance(self.tool_choice, _Reference):
            return [self.tool_choice.function.name]
        if isinstance(self.tool_choice, _Allowed):
            return [each.function.name for each in self.tool_choice.allowed_tools.tools]
        return None

    def rules(self, guide_tools: bool) -> Rules | None:
        """What the reply is held to; `guide_tools`: where tools are offered, their calls too."""
        tools, chosen = self.offered, self._chosen
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
        may = tuple(tool for tool in tools if chosen is None or tool.name in chosen)
        # Whoever names one function gets one call of it.
        several = not single and not isinstance(self.tool_choice, _Reference)
        in_full = frozenset(tool.name for tool in may if tool.name in strict)
        return Rules(may, required, several, self._json, in_full, self._strict_schema)

    @property
    def _json(self) -> dict[str, Any] | None:
        if isinstance(self.response_format, _Schema):
            return self.response_format.json_schema.schema_ or {"type": "object"}
        plain = self.response_format
        return {"type": "object"} if plain is not None and plain.type == "json_object" else None

    @property
    def _strict_schema(self) -> bool:
        return isinstance(self.response_format, _Schema) and bool(self.response_format.json_schema.strict)

    def place_of_schema(self, tool: str) -> str:
        """The field with the schema of a tool's arguments, or ("") of what is said."""
        if not tool:
            return "response_format.json_schema.schema"
        names = [each.function.name for each in self.tools or ()]
        return f"tools[{names.index(tool)}].function.parameters"

    @cached_property
    def dialogue(self) -> tuple[Message, ...]:
        """The messages as ours."""
        return dialogue(self.messages)

    @property
    def texts(self) -> list[list[str]]:
        """What each prompt has to hold at least: chat templates may drop what an assistant thought."""
        return [[message.content for message in self.dialogue if message.role != "assistant"]]


class LoadRequest(Known):
    """The body of POST /v1/load_lora_adapter, as vLLM has it."""

    lora_name: Name
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]


class UnloadRequest(Known):
    """The body of POST /v1/unload_lora_adapter."""

    lora_name: str


Body = TypeVar("Body", bound=BaseModel)


def read(shape: type[Body], body: bytes) -> Body:
    """A request's body as `shape`. Raises BadRequest that names the field."""
    strings = (body.count(b'"') - body.count(b'\\"')) // 2
    if body.count(b",") + strings > MOST_VALUES:
        raise BadRequest(
            f"the body holds too many values: at most {MOST_VALUES}, each string and each comma counted", status=413
        )
    if body.startswith(BOM_UTF8):
        raise BadRequest("the body is not JSON: it begins with a byte order mark")
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
    'none, auto, required, {"type": "function", "function": {"name": ...}} or '
    '{"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}} is expected'
)


def _path(place: tuple[int | str, ...]) -> str:
    """A field's place as OpenAI writes it; pydantic's names of a field's variants, and the tag of one, are left out."""
    fields = [
        part
        for before, part in zip((None, *place), place, strict=False)
        if isinstance(part, int) or (part != before and not re.search(r"^_[A-Z]|[\[(]|^(str|bool|list|dict)$", part))
    ]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fields).removeprefix(".")


def _given(tool: _Tool) -> Tool:
    return Tool(tool.model_dump(exclude_unset=True))


def _check_schema(schema: dict[str, Any], place: str) -> None:
    try:
        checker(schema)
    except SchemaError as error:
        within = error.json_path.removeprefix("$").removeprefix(".")
        raise invalid(place, f"no JSON schema: {f'{within}: ' if within else ''}{error.message[:200]}") from None
