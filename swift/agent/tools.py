"""Python functions and JSON schemas -> tools; validated calls with timeouts. Knows no model and no format."""

from __future__ import annotations

import ast
import asyncio
import difflib
import importlib.util
import inspect
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from pydantic import TypeAdapter, validate_call
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python
from referencing import Registry
from referencing.exceptions import Unresolvable

from swift.agent.jsontext import dumps, loads
from swift.chat import Tool, ToolCall
from swift.system import utf8

JSON_CONSTANTS = {"true": True, "false": False, "null": None}
MAX_ERROR = 300  # characters; validators quote whole arguments, which may be long


class Arguments(NamedTuple):
    """`text`: a JSON object, or "" and the `reason`."""

    text: str = ""
    reason: str = ""


def json_arguments(text: str) -> Arguments:
    """Arguments written by a model, as JSON or a Python literal, as JSON text. JSON is kept byte for byte.

    An empty text means no arguments.
    """
    if not text.strip():
        return Arguments("{}")
    is_json = True
    try:
        value = loads(text)
    except ValueError:
        is_json = False
        try:
            value = python_literal(text)
            written = dumps(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return Arguments(reason=f"the arguments are not a JSON object: {_excerpt(text)}")
    if not isinstance(value, dict):
        return Arguments(reason=f"the arguments must be one JSON object, not {_excerpt(text)}")
    return Arguments(text if is_json else written)


def python_literal(text: str) -> Any:
    """The value of a Python literal that may contain JSON's constants. Raises the errors of `ast.literal_eval`."""
    tree = ast.parse(_NUL.sub(_escaped_nul, text.strip()), mode="eval")
    return ast.literal_eval(_JsonConstants().visit(tree))


_NUL = re.compile(r"(\\*)\0")


def _escaped_nul(found: re.Match[str]) -> str:
    """Python source must not contain NUL: the escape for it, after an even number of backslashes."""
    backslashes = found[1]
    return backslashes + "\\" * (len(backslashes) % 2) + "\\x00"


class _JsonConstants(ast.NodeTransformer):
    """Replaces JSON constants: models mix the two languages, as in `{'on': true}`."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(JSON_CONSTANTS[node.id]) if node.id in JSON_CONSTANTS else node


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A tool with the function that implements it, which takes arguments by name."""

    tool: Tool
    function: Callable[..., object]
    validator: Validator

    @property
    def name(self) -> str:
        return self.tool.name


def from_function(function: Callable[..., object], name: str = "", description: str = "") -> BoundTool:
    """A tool from a function: schema from its signature, descriptions from its docstring (`Args:` or `:param name:`).

    Raises ValueError for a signature without a schema.
    """
    name = name or function.__name__
    about, fields = _docstring(inspect.getdoc(function) or "")
    try:
        schema = _without_titles(TypeAdapter(cast(Any, function)).json_schema())
        checked = validate_call(function)
    except (PydanticUserError, NameError) as error:
        raise ValueError(f"tool '{name}': {str(error).splitlines()[0]}") from error
    if schema.get("type") != "object":
        raise ValueError(f"tool '{name}': positional-only parameters are not supported: arguments are passed by name")
    for field, text in fields.items():
        if field in schema.get("properties", {}):
            schema["properties"][field].setdefault("description", text)
    function_spec = {"name": name, "description": description or about, "parameters": schema}
    return from_schema({"type": "function", "function": function_spec}, checked)


def read_tools(file: Path) -> list[BoundTool]:
    """Tools from the public functions of a Python file. Executes the file.

    Raises ValueError for a file that is missing, fails to run, or has no public function.
    """
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(
            f"{file}: {'not a Python file' if file.is_file() else 'no such file'}: tools are the public "
            "functions of a .py file, or described in a .json or .jsonl file"
        )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise ValueError(f"{file}: fails to run: {type(error).__name__}: {error}") from error
    found = [
        from_function(each)
        for name, each in vars(module).items()
        if inspect.isfunction(each) and each.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not found:
        raise ValueError(f"{file}: no public function, so there are no tools")
    return found


def from_schema(spec: dict[str, Any], function: Callable[..., object]) -> BoundTool:
    """A tool from a description in OpenAI's (or ms-agent's) format and its function. Raises ValueError."""
    tool = Tool(spec)
    if not tool.name:
        raise ValueError(f"a tool needs a name: {_excerpt(json.dumps(spec, ensure_ascii=False, default=str))}")
    if not utf8.is_encodable(json.dumps(spec, ensure_ascii=False, default=str)):
        raise ValueError(f"tool '{utf8.replace_surrogates(tool.name)}': its description contains a lone surrogate")
    schema = argument_schema(tool)
    try:
        return BoundTool(tool, function, checker(schema))
    except SchemaError as error:
        raise ValueError(f"tool '{tool.name}': parameters is not a JSON schema: {_excerpt(error.message)}") from error


def checker(schema: dict[str, Any]) -> Validator:
    """The validator for a schema, of the draft that it names or the latest that accepts it.

    Raises SchemaError for an invalid schema.
    """
    return _checker(json.dumps(schema, default=str))


@lru_cache(maxsize=256)
def _checker(text: str) -> Validator:
    schema = json.loads(text)
    latest: type[Validator] = validator_for(schema, default=Draft202012Validator)
    drafts: list[type[Validator]] = [latest, *([] if "$schema" in schema else [Draft7Validator, Draft4Validator])]
    for draft in drafts:
        try:
            draft.check_schema(schema)
        except SchemaError:
            continue
        # An empty registry: a schema of unknown origin must not trigger downloads of what it references.
        return draft(schema, registry=Registry())
    latest.check_schema(schema)
    raise AssertionError(schema)


def argument_schema(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments. Converts ms-agent's list of `{name, description, required}`.

    Raises ValueError for other parameters.
    """
    parameters = tool.parameters
    if isinstance(parameters, dict):
        return {"type": "object", **parameters}
    if not parameters:
        return {"type": "object"}
    if not isinstance(parameters, list) or not all(isinstance(field, dict) and "name" in field for field in parameters):
        raise ValueError(f"tool '{tool.name}': parameters must be a JSON schema or a list of objects with a name")
    properties = {
        str(field["name"]): {key: text for key, text in field.items() if key == "description"} for field in parameters
    }
    required = [str(field["name"]) for field in parameters if str(field.get("required")).lower() == "true"]
    return {"type": "object", "properties": properties, "required": required}


Failure = Literal["", "unknown tool", "bad arguments", "raised", "timeout"]


class Result(NamedTuple):
    """The result of a call: the text for the model, the duration in seconds, and the kind of failure, "" for none.

    `replaced`: the function returned invalid UTF-8 or lone surrogates, which were replaced by U+FFFD.
    """

    text: str
    seconds: float
    failure: Failure = ""
    replaced: bool = False


def call(tools: Sequence[BoundTool], wanted: ToolCall, timeout: float = 30.0) -> Result:
    """Runs one call. Failures become the text of the result; nothing is raised.

    A function that exceeds `timeout` seconds continues on its thread: Python cannot stop it.
    """
    by_name = {bound.name: bound for bound in tools}
    bound = by_name.get(wanted.name)
    if bound is None:
        return _failed("unknown tool", _no_such_tool(wanted.name, list(by_name)))
    arguments = json_arguments(wanted.arguments)
    reason = arguments.reason or _violation(bound.validator, loads(arguments.text))
    if reason:
        return _failed("bad arguments", f"{wanted.name}: {reason}")
    return _timed(bound.function, loads(arguments.text), timeout)


def _timed(function: Callable[..., object], arguments: dict[str, Any], timeout: float) -> Result:
    results: list[Result] = []
    started = time.perf_counter()

    def work() -> None:
        try:
            value = function(**arguments)
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
            text = _text(value)
            seconds = time.perf_counter() - started
            results.append(Result(utf8.replace_surrogates(text), seconds, replaced=not utf8.is_encodable(text)))
        except (Exception, SystemExit) as error:  # user code may raise anything
            results.append(_failed("raised", f"{type(error).__name__}: {error}", time.perf_counter() - started))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    return results[0] if results else _failed("timeout", f"no result within {timeout:g} s", timeout)


def _failed(failure: Failure, text: str, seconds: float = 0.0) -> Result:
    return Result(utf8.replace_surrogates(f"Error: {text}"), seconds, failure, not utf8.is_encodable(text))


def _violation(validator: Validator, arguments: dict[str, Any]) -> str:
    """How the arguments violate the schema, "" if they do not."""
    try:
        error = best_match(validator.iter_errors(arguments))
    except Unresolvable as unresolvable:
        return f"the tool's schema refers to what is not in it: {_excerpt(str(unresolvable))}"
    if error is None:
        return ""
    place = error.json_path.removeprefix("$").removeprefix(".")
    return _excerpt(f"{place}: {error.message}" if place else error.message)


def _no_such_tool(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"there is no tool '{_excerpt(name)}'; the tools are: {', '.join(names) or 'none'}.{hint}"


def _text(value: object) -> str:
    """The result of a function as text: a string, or JSON with null for NaN and Infinity.

    Invalid bytes become lone surrogates.
    """
    value = _without_bytes(value)
    if isinstance(value, str):
        return value
    written = json.dumps(to_jsonable_python(value, fallback=str))
    return json.dumps(json.loads(written, parse_constant=lambda _: None), ensure_ascii=False)


def _without_bytes(value: object) -> object:
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        return {_key(_without_bytes(key)): _without_bytes(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return [_without_bytes(part) for part in cast(Sequence[object], value)]
    return value


def _key(name: object) -> object:
    return utf8.replace_surrogates(name) if isinstance(name, str) else name  # pydantic rejects lone surrogates in keys


def _excerpt(text: str) -> str:
    return text if len(text) <= MAX_ERROR else text[:MAX_ERROR] + "..."


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """(description, {argument: description}) of a docstring."""
    about = re.split(r"^\s*(?:Args|Arguments|Parameters|Returns|Raises):\s*$|^\s*:\w+", text, flags=re.M)[0]
    fields = re.findall(r"^\s*:param (?:\w+ )?(\w+):\s*(.+)$", text, flags=re.M)
    section = re.search(r"^\s*(?:Args|Arguments|Parameters):\s*\n((?:[ \t]+.*(?:\n|$)|\n)+)", text, flags=re.M)
    if section:
        fields += re.findall(r"^[ \t]+(\w+)(?: \([^)]*\))?:\s*(.+)$", section[1], flags=re.M)
    return " ".join(about.split()), {name: description.strip() for name, description in fields}


def _without_titles(schema: Any, names: bool = False) -> Any:
    """Drops the titles that pydantic adds to fields. `names`: the keys of `schema` are field names."""
    if isinstance(schema, list):
        return [_without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: part for key, part in schema.items() if names or key != "title"}
    return {
        key: part
        if not names and key in ("default", "enum", "const", "examples")
        else _without_titles(part, names=not names and key in ("properties", "$defs"))
        for key, part in kept.items()
    }
