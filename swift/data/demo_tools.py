"""The tools of the demo's conversations (demo_tools.toml): descriptions, values, questions. Makes no conversation."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from swift.system import toml_file

FILE = Path(__file__).with_name("demo_tools.toml")


@dataclass(frozen=True, slots=True)
class Param:
    what: str
    values: Sequence[Any]
    optional: bool = False
    choices: bool = False

    @property
    def kind(self) -> str:
        """The JSON type of the values; "number" for a mix of integers and floats."""
        kinds = {_json_type(fill(value, random.Random(0))) for value in self.values}
        return "number" if kinds == {"integer", "number"} else kinds.pop()


@dataclass(frozen=True, slots=True)
class CatalogueTool:
    """A tool of the catalogue: its description and example questions. demo_tools.toml documents the fields."""

    domain: str
    name: str
    held_out: bool
    description: str
    params: dict[str, Param]
    ask: tuple[str, ...]
    zh: tuple[str, ...]
    think: str
    result: dict[str, Sequence[Any]]
    in_list: bool
    say: str | dict[str, list[str]]
    then: dict[str, str]

    @property
    def spec(self) -> dict[str, Any]:
        """The tool in OpenAI's format."""
        properties: dict[str, dict[str, Any]] = {}
        for name, param in self.params.items():
            properties[name] = {"type": param.kind, "description": param.what}
            if param.kind == "array":
                properties[name]["items"] = {"type": "number"}
            if param.choices:
                properties[name]["enum"] = list(param.values)
        required = [name for name, param in self.params.items() if not param.optional]
        parameters = {"type": "object", "properties": properties, "required": required}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


@cache
def catalogue() -> tuple[CatalogueTool, ...]:
    """Every tool of demo_tools.toml, in the file's order."""
    domains = toml_file.read(FILE)
    shared = domains.pop("values")
    return tuple(
        _tool(domain, name, tools.get("held_out", False), fields, shared)
        for domain, tools in domains.items()
        for name, fields in tools.items()
        if name != "held_out"
    )


def _tool(
    domain: str, name: str, held_out: bool, fields: dict[str, Any], shared: dict[str, list[Any]]
) -> CatalogueTool:
    def values(of: str | list[Any]) -> list[Any]:
        return shared[of] if isinstance(of, str) else of

    params = {
        param: Param(about["what"], values(about["of"]), about.get("optional", False), about.get("choices", False))
        for param, about in fields.get("params", {}).items()
    }
    in_list = isinstance(fields["result"], list)
    result = fields["result"][0] if in_list else fields["result"]
    return CatalogueTool(
        domain=domain,
        name=name,
        held_out=held_out,
        description=fields["description"],
        params=params,
        ask=tuple(fields["ask"]),
        zh=tuple(fields.get("zh", ())),
        think=fields["think"],
        result={key: values(of) for key, of in result.items()},
        in_list=in_list,
        say=fields["say"],
        then=fields.get("then", {}),
    )


def fill(value: Any, rng: random.Random) -> Any:
    """A concrete value: # becomes a digit, ^ a capital letter, a leading = marks JSON."""
    if not isinstance(value, str):
        return value
    text = re.sub("#", lambda _: rng.choice("123456789"), value)
    text = re.sub(r"\^", lambda _: rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ"), text)
    return json.loads(text[1:]) if text.startswith("=") else text


def slots(template: str) -> list[str]:
    """The names of the {slots} of a template."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", list: "array"}
    return names.get(type(value), "string")
