"""What may follow on a command line that is not finished: flags and their values. Runs nothing."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from swift import flags
from swift.flags.conversion import without_none

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from swift.flags import Flag


def candidates(config: type[DataclassInstance], words: Sequence[str], last: str) -> list[str]:
    """The flags, or the values of a flag, that begin with `last` and may follow `words`; none means anything may."""
    known = [item for item in (*flags.walk(config), *flags.walk(flags.Common)) if not item.spec.positional]
    by_word = {_word(name): item for item in known for name in (item.name, *item.spec.alias)}
    if last.startswith("-"):
        used = {by_word[each].name for each in map(_normal, words) if each in by_word and not by_word[each].is_list}
        names = [word for word, item in by_word.items() if item.name not in used and word.startswith(_normal(last))]
        return [word[:2] + word[2:].replace("_", "-") for word in names] if "-" in last[2:] else names
    before = next((i for i in range(len(words) - 1, -1, -1) if _normal(words[i]) in by_word), None)
    if before is None:
        return []
    item = by_word[_normal(words[before])]
    if before < len(words) - 1 and not item.is_list:
        return []  # it has its value
    return [value for value in _values(item) if value.startswith(last)]


def _word(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name}"


def _normal(word: str) -> str:
    return word[:2] + word[2:].replace("-", "_")


def _values(item: Flag) -> list[str]:
    kind = without_none(item.kind)
    kind = typing.get_args(kind)[0] if item.is_list else kind
    if kind is bool:
        return ["true", "false"]
    return [*typing.get_args(kind), *item.spec.values] if typing.get_origin(kind) is Literal else []
