"""What the request bodies of all wire formats share: parsing within limits, and kinds of fields. Knows no format.

The pydantic models list the supported fields. An unknown field is ignored, and its name kept for the log; a known
field that is not supported is refused.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_plain_validator_function, none_schema, with_default_schema

from swift.agent.schemas import checker
from swift.serve.bad_request import BadRequest, invalid

MAX_MESSAGES = 16_384
MAX_VALUES = 300_000
"""Strings and commas of a body: parsing JSON holds the GIL, for about a microsecond each."""


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


Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w.:/-]+$")]
"""Letters that no tool-call format uses as delimiters."""
Optional64 = Annotated[int | None, Field(ge=-(2**63), lt=2**63)]


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


def check_schema(schema: dict[str, Any], place: str) -> None:
    """Raises BadRequest for what is no JSON schema."""
    try:
        checker(schema)
    except SchemaError as error:
        within = error.json_path.removeprefix("$").removeprefix(".")
        raise invalid(place, f"not a JSON schema: {f'{within}: ' if within else ''}{error.message[:200]}") from None
