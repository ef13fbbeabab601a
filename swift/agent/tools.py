"""A Python function or a JSON schema -> a tool; a checked, timed call of it -> text. Knows no model, no text form."""

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
LONGEST_COMPLAINT = 300  # a validator quotes the whole argument back, which may be a book


class Arguments(NamedTuple):
    """`text` is a JSON object; where there is none, `reason` says why not."""

    text: str = ""
    reason: str = ""


def json_arguments(text: str) -> Arguments:
    """Arguments as a model wrote them, JSON or a Python literal, as JSON text. JSON is kept byte for byte.

    Nothing at all stands for no arguments.
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
    """The value of a Python literal, in which JSON's words may stand too. Raises what `ast.literal_eval` does."""
    tree = ast.parse(text.strip(), mode="eval")
    return ast.literal_eval(_JsonConstants().visit(tree))


class _JsonConstants(ast.NodeTransformer):
    """Models mix the two languages: `{'on': true}`."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(JSON_CONSTANTS[node.id]) if node.id in JSON_CONSTANTS else node


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A tool together with the function that does its work; the function takes the arguments by name."""

    tool: Tool
    function: Callable[..., object]
    validator: Validator

    @property
    def name(self) -> str:
        return self.tool.name


def from_function(function: Callable[..., object], name: str = "", description: str = "") -> BoundTool:
    """The signature becomes the schema, the docstring the descriptions (`Args:` lines or `:param name:`)."""
    name = name or function.__name__
    about, fields = _docstring(inspect.getdoc(function) or "")
    try:
        schema = _without_titles(TypeAdapter(cast(Any, function)).json_schema())
        checked = validate_call(function)
    except (PydanticUserError, NameError) as error:
        raise ValueError(f"tool '{name}': {str(error).splitlines()[0]}") from error
    if schema.get("type") != "object":
        raise ValueError(f"tool '{name}': arguments are passed by name, so it cannot have positional-only ones")
    for field, text in fields.items():
        if field in schema.get("properties", {}):
            schema["properties"][field].setdefault("description", text)
    function_spec = {"name": name, "description": description or about, "parameters": schema}
    return from_schema({"type": "function", "function": function_spec}, checked)


def read_tools(file: Path) -> list[BoundTool]:
    """The public functions that a Python file defines, each a tool. Runs the file.

    Raises ValueError for a file that is missing, does not run, or defines none.
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
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        raise ValueError(f"{file}: does not run: {type(error).__name__}: {error}") from error
    found = [
        from_function(each)
        for name, each in vars(module).items()
        if inspect.isfunction(each) and each.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not found:
        raise ValueError(f"{file}: it defines no public function, so there is no tool")
    return found


def from_schema(spec: dict[str, Any], function: Callable[..., object]) -> BoundTool:
    """A tool as OpenAI (or ms-agent) describes it, and the function that is called with its arguments."""
    tool = Tool(spec)
    if not tool.name:
        raise ValueError(f"a tool needs a name: {_excerpt(json.dumps(spec, ensure_ascii=False, default=str))}")
    if not utf8.is_encodable(json.dumps(spec, ensure_ascii=False, default=str)):
        raise ValueError(f"tool '{utf8.replace_surrogates(tool.name)}': its description holds half of a surrogate pair")
    schema = argument_schema(tool)
    try:
        return BoundTool(tool, function, checker(schema))
    except SchemaError as error:
        raise ValueError(f"tool '{tool.name}': parameters is no JSON schema: {_excerpt(error.message)}") from error


def checker(schema: dict[str, Any]) -> Validator:
    """The validator of the draft that a schema is written in: the one that it names, or the latest that it fits.

    Raises SchemaError for what fits none.
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
        # An empty registry: a schema of unknown origin must not make us fetch what it refers to.
        return draft(schema, registry=Registry())
    latest.check_schema(schema)
    raise AssertionError(schema)


def argument_schema(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments; ms-agent's list of `{name, description, required}` becomes one."""
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
    """What a call gave: the text for the model, how long it took, and what went wrong (`""`: nothing).

    `replaced`: the function returned bytes that are not UTF-8, or half of a surrogate pair; U+FFFD stands for them.
    """

    text: str
    seconds: float
    failure: Failure = ""
    replaced: bool = False


def call(tools: Sequence[BoundTool], wanted: ToolCall, timeout: float = 30.0) -> Result:
    """Runs one call. Whatever fails is told in the result's text, for the model to read; nothing is raised.

    A function that outlives `timeout` seconds is left behind on its own thread: Python cannot end it.
    """
    by_name = {bound.name: bound for bound in tools}
    bound = by_name.get(wanted.name)
    if bound is None:
        return _failed("unknown tool", _no_such_tool(wanted.name, list(by_name)))
    arguments = json_arguments(wanted.arguments)
    reason = arguments.reason or _misfit(bound.validator, loads(arguments.text))
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
        except (Exception, SystemExit) as error:  # a user's tool may raise anything; the model reads what
            results.append(_failed("raised", f"{type(error).__name__}: {error}", time.perf_counter() - started))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    return results[0] if results else _failed("timeout", f"no result within {timeout:g} s", timeout)


def _failed(failure: Failure, text: str, seconds: float = 0.0) -> Result:
    return Result(utf8.replace_surrogates(f"Error: {text}"), seconds, failure, not utf8.is_encodable(text))


def _misfit(validator: Validator, arguments: dict[str, Any]) -> str:
    """What is wrong with the arguments, or `""`."""
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
    """What a function returned, as the model reads it: a text, or JSON in which NaN and Infinity are null.

    A byte that is not UTF-8 is a lone surrogate.
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
    return utf8.replace_surrogates(name) if isinstance(name, str) else name  # pydantic takes no other


def _excerpt(text: str) -> str:
    return text if len(text) <= LONGEST_COMPLAINT else text[:LONGEST_COMPLAINT] + "..."


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """A docstring's own description, and what it says of each argument."""
    about = re.split(r"^\s*(?:Args|Arguments|Parameters|Returns|Raises):\s*$|^\s*:\w+", text, flags=re.M)[0]
    fields = re.findall(r"^\s*:param (?:\w+ )?(\w+):\s*(.+)$", text, flags=re.M)
    section = re.search(r"^\s*(?:Args|Arguments|Parameters):\s*\n((?:[ \t]+.*(?:\n|$)|\n)+)", text, flags=re.M)
    if section:
        fields += re.findall(r"^[ \t]+(\w+)(?: \([^)]*\))?:\s*(.+)$", section[1], flags=re.M)
    return " ".join(about.split()), {name: description.strip() for name, description in fields}


def _without_titles(schema: Any, names: bool = False) -> Any:
    """Drops the title that pydantic gives to every field: noise in a prompt. `names`: the keys are fields' names."""
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
