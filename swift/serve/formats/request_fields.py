"""What the request bodies of all wire formats share: parsing within limits, and kinds of fields. Knows no format.

The pydantic models list the supported fields. An unknown field is ignored, and its name kept for the log; a known
field that is not supported is refused.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_plain_validator_function, none_schema, with_default_schema

from swift.agent.schemas import argument_schema, checker
from swift.chat import Tool
from swift.serve.bad_request import BadRequest, invalid
from swift.serve.inner_request import ToolChoice

MAX_TOOLS = 512
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


class _NameOnly:
    """The value of an unknown field: discarded, so that only the name is kept."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return with_default_schema(none_schema(), default=None, on_error="default")

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: Any) -> dict[str, Any]:
        return {}


class RequestObject(BaseModel):
    """An object of a request with its supported fields; `model_extra` has the names of the others."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())
    __pydantic_extra__: dict[str, Annotated[Any, _NameOnly]]
    hints: ClassVar[Mapping[str, str]] = {}
    """Fields whose errors are one sentence, whatever pydantic says about the variants of their union."""


class OneOf:
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
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w.:/-]+$")]
"""Letters that no tool-call format uses as delimiters."""


Body = TypeVar("Body", bound=RequestObject)


def parse(shape: type[Body], body: bytes) -> Body:
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
        if hint := shape.hints.get(str(first["loc"][0]) if first["loc"] else ""):
            raise invalid(str(first["loc"][0]), hint) from None
        raise invalid(_path(first["loc"]), first["msg"].removeprefix("Value error, ")) from None


def _path(place: tuple[int | str, ...]) -> str:
    """A field's path as OpenAI writes it, without pydantic's names for the variants of a union."""
    fields = [
        part
        for before, part in zip((None, *place), place, strict=False)
        if isinstance(part, int) or (part != before and not re.search(r"^_[A-Z]|[\[(]|^(str|bool|list|dict)$", part))
    ]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fields).removeprefix(".")


def check_tools(tools: Sequence[Tool], size: int, schema_field: Callable[[str], str]) -> None:
    """Raises BadRequest for tools that share a name, of more than MAX_TOOLS_SIZE bytes, or with a wrong schema."""
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid("tools", f"two tools are named '{twice}'")
    if size > MAX_TOOLS_SIZE:
        raise invalid("tools", f"longer than {MAX_TOOLS_SIZE} bytes of JSON")
    for tool in tools:
        check_schema(argument_schema(tool), schema_field(tool.name))


def check_choice(choice: ToolChoice, names: Sequence[str]) -> None:
    """Raises BadRequest for a choice of tools that the request does not describe. `names`: those it describes."""
    for name in choice.names or ():
        if name not in names:
            raise invalid(
                "tool_choice", f"'{name[:80]}' is not one of the tools ({', '.join(names) or 'there are none'})"
            )
    if choice.mode == "required" and not names:
        raise invalid("tool_choice", "the request has no tools")


def free_variables(value: dict[str, Any]) -> dict[str, Any]:
    """The variables of a chat template that a request sets. Raises ValueError for one that is not its to set."""
    if taken := sorted(value.keys() & RESERVED_VARIABLES):
        raise ValueError(f"{taken[0]} is set by the server and cannot be sent")
    return value


def template_variables(
    given: Mapping[str, Any] | None, thinking: bool | None, effort: str | None, effort_field: str
) -> dict[str, Any]:
    """All variables of the chat template: `given`, and those of fields of their own. `effort` none is no thinking.

    Raises BadRequest for two values of one variable.
    """
    named: list[tuple[str, str, Any]] = []
    if thinking is not None:
        named.append(("enable_thinking", "enable_thinking", thinking))
    if effort == "none":
        named.append(("enable_thinking", "enable_thinking", False))
    elif effort is not None:
        named.append((effort_field, "reasoning_effort", effort))
    variables = dict(given or {})
    for field, name, value in named:
        if (other := variables.setdefault(name, value)) != value:
            raise invalid(field, f"the request sets two values, {json.dumps(other)[:80]} and {json.dumps(value)}")
    return variables


def check_schema(schema: dict[str, Any], place: str) -> None:
    """Raises BadRequest for what is no JSON schema."""
    try:
        checker(schema)
    except SchemaError as error:
        within = error.json_path.removeprefix("$").removeprefix(".")
        raise invalid(place, f"not a JSON schema: {f'{within}: ' if within else ''}{error.message[:200]}") from None
