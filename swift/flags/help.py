"""The help of a command: its flags with their meanings, the most used first. Knows no command."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Sequence
from dataclasses import MISSING
from typing import TYPE_CHECKING, Literal

from swift.flags.conversion import nearest, without_none
from swift.flags.definition import Common, Flag, example_of, meanings, most_used_of, sections, shown, walk

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SHORT = 25
"""Flags up to which `--help` shows all of them."""


def asked(config: type[DataclassInstance], prog: str, argv: Sequence[str]) -> str:
    """The help that a command line asks for; empty if it asks for none.

    `--help`: the most used flags, or all of a few. `--help-all`: all. `--help WORD ...`: those about the words. Raises
    ValueError for words that are in no flag.
    """
    if "--help-all" in argv or "--help_all" in argv:
        return help_text(config, prog)
    at = next((i for i, word in enumerate(argv) if word in ("-h", "--help")), None)
    if at is None:
        return ""
    rest = argv[at + 1 :]
    words = rest[: next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))]
    if words:
        return found_text(config, prog, words)
    is_short = sum(1 for _ in walk(config)) > SHORT and most_used_of(config)
    return short_text(config, prog) if is_short else help_text(config, prog)


def help_text(config: type[DataclassInstance], prog: str) -> str:
    """Every flag with type, meaning, aliases and default, a line each, wrapped in a terminal."""
    lines = _head(config, prog)
    for title, mine in (*sections(config), *sections(Common)):
        lines += _section(title, mine)
    return "\n".join(lines)


def short_text(config: type[DataclassInstance], prog: str) -> str:
    """The most used flags in full, of the others the names."""
    first, width = most_used_of(config), _width()
    required = [item for item in walk(config) if item.spec.positional]
    lines = [*_head(config, prog), *_section("most used", [*required, *first])]
    lines += ["", "all flags, by section:"]
    for title, mine in (*sections(config), *sections(Common)):
        names = f"{title}: {', '.join(item.name for item in mine)}"
        lines.append("  " + textwrap.shorten(names, width - 2, placeholder=" ...", break_on_hyphens=False))
    return "\n".join(
        [*lines, "", f"{prog} --help WORD shows the flags about a word or of a section; --help-all shows every flag"]
    )


def found_text(config: type[DataclassInstance], prog: str, words: Sequence[str]) -> str:
    """The flags that have all `words` in their name, aliases, choices, meaning or the title of their section.

    Raises ValueError where there is none.
    """
    groups = [*sections(config), *sections(Common)]
    lines: list[str] = []
    for title, mine in groups:
        some = [item for item in mine if all(_has(item, title, word) for word in words)]
        lines += _section(title, some) if some else []
    if not lines:
        known = {part for title, mine in groups for part in _parts(title, mine)}
        near = nearest(words[0].casefold().lstrip("-"), sorted(known))
        raise ValueError(
            f"no flag of {prog} is about {' '.join(words)}{near or f' ({prog} --help-all shows every flag)'}"
        )
    return "\n".join(lines[1:])


def _head(config: type[DataclassInstance], prog: str) -> list[str]:
    positional = [item.shown + "..." * item.is_list for item in walk(config) if item.spec.positional]
    about = (sys.modules[config.__module__].__doc__ or "").strip().partition("\n")[0]
    return [
        " ".join(["usage:", prog, *positional, "[--flag value ...]"]),
        *([f"example: {example}"] if (example := example_of(config)) else []),
        *([textwrap.fill(about, _width())] if about else []),
    ]


def _section(title: str, items: Sequence[Flag]) -> list[str]:
    return ["", f"{title}:", *(_help_line(item, _width()) for item in items)]


def _has(item: Flag, title: str, word: str) -> bool:
    """A part of the title or of a name, a whole word of the meaning, or a choice."""
    word = word.casefold()
    names = (item.name, *item.spec.alias)
    if word in title.casefold() or any(word.replace("-", "_") in name.casefold() for name in names):
        return True
    text = f"{meanings(item.owner).get(item.name, '')} {_metavar(item)}".casefold()
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _parts(title: str, items: Sequence[Flag]) -> set[str]:
    """What a user may have meant to ask for."""
    names = [name for item in items for name in (item.name, *item.spec.alias)]
    return {*re.findall(r"\w+", title.casefold()), *names, *(part for name in names for part in name.split("_"))}


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 100_000


def _help_line(item: Flag, width: int) -> str:
    left = item.shown + "..." * item.is_list if item.spec.positional else f"{item.shown} {_metavar(item)}"
    line = f"  {left}".ljust(34) + "  " + _meaning(item)
    return textwrap.fill(line, width, subsequent_indent=" " * 36, break_on_hyphens=False)


def _metavar(item: Flag) -> str:
    kind = without_none(item.kind)
    more = " ..." if item.is_list else ""
    kind = typing.get_args(kind)[0] if item.is_list else kind
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind)) + more
    names = {str: "TEXT", int: "INT", float: "FLOAT", bool: "true|false"}
    return names.get(kind, "JSON") + more


def _meaning(item: Flag) -> str:
    aliases = f" [also {', '.join('--' + name for name in item.spec.alias)}]" if item.spec.alias else ""
    default = "required" if item.default is MISSING else f"default {shown(item.default)}"
    return f"{meanings(item.owner).get(item.name, '')}{aliases} ({default})".strip()
