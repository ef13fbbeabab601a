"""The flags of a dataclass as a part of a Markdown page: a table for each group. Knows no command."""

from __future__ import annotations

import re
import typing
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any, Literal

from swift import flags
from swift.flags.conversion import without_none

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from swift.flags import Flag

KINDS = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}
CODE = re.compile(
    r"`[^`]+`"  # code already
    r"|\{(?:[^{}]|\{[^{}]*\})*\}"  # JSON
    r"|pip install [^)]*"
    r"|--[a-z]\w+"
    r"|\[[^\]]*\]"
    r"|[*?](?= )"  # characters of patterns
    r"|[\w./:#-]*[_#*<>][\w./:#-]*\w"
)


def tables(config: type[DataclassInstance], level: int = 2) -> str:
    """The groups of flags of `config`, without those of every command: each a heading of `level` and a table."""
    parts = []
    for title, mine in flags.sections(config):
        rows = ["| flag | value | default | meaning |", "|---|---|---|---|", *map(_row, mine)]
        parts.append("\n".join([f"{'#' * level} {title[:1].upper()}{title[1:]}", "", *rows]))
    return "\n\n".join(parts)


def _row(item: Flag) -> str:
    names = [item.shown, *(f"--{alias}" for alias in item.spec.alias)]
    meaning = flags.meanings(item.owner).get(item.name, "")
    cells = (", ".join(map(_code, names)), _value(item), _default(item), _text(meaning))
    return f"| {' | '.join(cells)} |"


def _value(item: Flag) -> str:
    """The type of a flag's value, or its choices, with their synonyms."""
    kind: Any = without_none(item.kind)
    kind = typing.get_args(kind)[0] if item.is_list else kind
    if typing.get_origin(kind) is Literal:
        what = ", ".join(map(_code, typing.get_args(kind)))
    else:
        what = KINDS.get(kind, "JSON")
    for word, value in item.spec.values.items():
        if word.casefold() != value.casefold():
            what += f"; {_code(word)} means {_code(value)}"
    if item.is_list:
        return f"{what}; several, or one with commas" if item.spec.commas else f"{what}; several"
    return what


def _default(item: Flag) -> str:
    if item.default is MISSING:
        return "required"
    return "none" if item.default in (None, (), [], {}) else _code(flags.shown(item.default))


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")  # in code too, as tables of Markdown are read


def _text(meaning: str) -> str:
    """A meaning as the text of a table cell: flags, JSON and what Markdown would read as markup are code."""
    marked = CODE.sub(lambda found: found[0] if found[0][0] == "`" else f"`{found[0]}`", meaning)
    return marked.replace("|", "\\|")
