"""YAML text -> the values of JSON, within limits. Knows nothing of OpenAPI.

It reads the events of PyYAML's parser. PyYAML's loaders overflow the C stack on deep nesting, turn `on`, `no` and dates
into other values, and keep one of two equal keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

_PARSER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_CONSTANTS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_TAG = "tag:yaml.org,2002:"


@dataclass(slots=True)
class _Open:
    """A list or an object that has begun. `key`: the one whose value comes next. `own`: keys that are not merged."""

    value: Any
    anchor: str | None
    key: str | None = None
    own: set[str] = field(default_factory=set)


def load(text: str, max_depth: int) -> Any:
    """The value of a YAML document, after the core schema of YAML 1.2 and with `<<` merges; keys are texts.

    Raises ValueError with line and column.
    """
    stack: list[_Open] = [_Open([], None)]
    anchors: dict[str, Any] = {}
    try:
        for event in yaml.parse(text, _PARSER):
            place = _place(event.start_mark)
            if isinstance(event, yaml.DocumentStartEvent) and stack[0].value:
                raise ValueError(f"{place}: a second document in the file")
            if isinstance(event, yaml.CollectionStartEvent):
                if len(stack) > max_depth:
                    raise ValueError(f"{place}: nested deeper than {max_depth} levels")
                _check_tag(event.tag, ("map", "seq"), place)
                opened: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                stack.append(_Open(opened, event.anchor))
            elif isinstance(event, yaml.CollectionEndEvent):
                closed = stack.pop()
                if closed.anchor:
                    anchors[closed.anchor] = closed.value
                _put(stack[-1], closed.value, place)
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in anchors:
                    raise ValueError(f"{place}: the alias *{event.anchor} is unknown, or within what it stands for")
                _put(stack[-1], anchors[event.anchor], place)
            elif isinstance(event, yaml.ScalarEvent):
                is_key = isinstance(stack[-1].value, dict) and stack[-1].key is None
                value = event.value if is_key else _scalar(event, place)
                if event.anchor:
                    anchors[event.anchor] = value
                _put(stack[-1], value, place)
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{_place(error.problem_mark)}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None
    return stack[0].value[0] if stack[0].value else None


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "somewhere"


def _put(holder: _Open, value: Any, place: str) -> None:
    if isinstance(holder.value, list):
        holder.value.append(value)
    elif holder.key is None:
        if not isinstance(value, str):
            raise ValueError(f"{place}: a key must be a text")
        if value in holder.own:
            raise ValueError(f"{place}: the key '{value}' occurs twice")
        holder.own.add(value)
        holder.key = value
    elif holder.key == "<<":
        merged = value if isinstance(value, list) else [value]
        if not all(isinstance(each, dict) for each in merged):
            raise ValueError(f"{place}: << merges objects alone")
        for each in merged:
            for name, part in each.items():
                holder.value.setdefault(name, part)
        holder.key = None
    else:
        holder.value[holder.key] = value
        holder.key = None


def _scalar(event: yaml.ScalarEvent, place: str) -> Any:
    text, tag = event.value, event.tag
    _check_tag(tag, ("str", "int", "float", "bool", "null"), place)
    if event.style or tag in ("!", f"{_TAG}str"):
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text) and len(text) < 400:
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _check_tag(tag: str | None, known: tuple[str, ...], place: str) -> None:
    if tag not in (None, "!", *(f"{_TAG}{name}" for name in known)):
        raise ValueError(f"{place}: the tag {tag} is not supported")
