"""Parses the tools that a system prompt describes in prose: their names and parameters. Knows no row."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from swift.agent.schemas import argument_schema
from swift.chat import Tool

_BEFORE_LISTS = ("should be one of", "应该是[", "必须是[")
_LISTS = re.compile(r"(?:should be one of(?: the above tools)?|应该是|必须是)[ \t]*\[([^\]\n]*)\]")
_TITLES = re.compile(r"^(?:\d+\. ?)?([^\s:：]+)[:：] ?(?:Call this tool|调用此工具)", re.MULTILINE)
_AS_VALUES = "access to the following APIs: ["
_PARAMETERS = re.compile(r"(?:Parameters|输入参数)[:：] ?")
_decode = json.JSONDecoder().raw_decode


@lru_cache(64)
def tool_names(prompt: str) -> frozenset[str]:
    """The tool names that a system prompt lists; empty if it lists none.

    Reads the lists of ReAct's and Qwen's formats in both languages ("should be one of [a, b]"), one paragraph per tool
    ("1. a: Call this tool"), and ToolBench's list of objects.
    """
    found: set[str] = set()
    for words in _BEFORE_LISTS:
        if (at := prompt.find(words)) >= 0:
            found.update(name.strip() for listed in _LISTS.findall(prompt, at) for name in listed.split(","))
    found.update(_TITLES.findall(prompt) if not found else ())
    at = prompt.find(_AS_VALUES)
    if at >= 0:
        found.update(_named(prompt[at + len(_AS_VALUES) - 1 :]))
    return frozenset(found - {""})


def described_tool(prompt: str, name: str) -> Tool | None:
    """The tool that the prompt describes as "NAME: Call this tool ... Parameters: [...]"; None if it does not."""
    for title in (f"{name}: ", f"{name}："):
        at = prompt.find(title)
        if at >= 0 and (at == 0 or prompt[at - 1] in " \n.#"):
            end = prompt.find("\n", at)
            return _paragraph(name, prompt[at : end if end >= 0 else len(prompt)])
    return None


@lru_cache(1024)
def _paragraph(name: str, paragraph: str) -> Tool | None:
    for match in reversed(list(_PARAMETERS.finditer(paragraph))):
        value = _value(paragraph[match.end() :])
        if isinstance(value, dict | list):
            try:
                return Tool({"name": name, "parameters": argument_schema(Tool({"name": name, "parameters": value}))})
            except ValueError:
                return None
    return None


def _named(text: str) -> list[str]:
    value = _value(text)
    specs = value if isinstance(value, list) else []
    return [str(spec["name"]) for spec in specs if isinstance(spec, dict) and spec.get("name")]


def _value(text: str) -> Any:
    """The JSON value at the start of a text; None if there is none."""
    try:
        return _decode(text)[0]
    except (ValueError, RecursionError):
        return None
