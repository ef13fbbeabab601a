"""A dataclass's fields as flags: their names, kinds, defaults, groups and meanings. Reads no command line."""

from __future__ import annotations

import ast
import copy
import functools
import itertools
import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from swift.flags.conversion import Spec, without_none

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def flag(
    default: Any = MISSING,
    *,
    alias: Sequence[str] = (),
    values: Mapping[str, str] = types.MappingProxyType({}),
    commas: bool = False,
    bare: str | None = None,
    positional: bool = False,
) -> Any:
    """A dataclass field with properties for the command line. Without a default the flag is required.

    `alias`: further names. `values`: synonyms of values (`{"all-linear": "ALL"}`). `commas`: a single value with
    commas is a list. `bare`: the value of `--flag` without one. `positional`: a positional argument instead of a
    flag; a list takes all remaining words.
    """
    metadata = {"flag": Spec(tuple(alias), values, commas, bare, positional)}
    if isinstance(default, (dict, list)):
        return field(default_factory=functools.partial(copy.copy, default), metadata=metadata)
    return field(default=default, metadata=metadata)


class Flag(NamedTuple):
    """A field as a flag. `owner` is the dataclass that declares it: a group or the config itself."""

    name: str
    kind: Any
    default: Any
    spec: Spec
    owner: type[DataclassInstance]

    @property
    def is_list(self) -> bool:
        return typing.get_origin(without_none(self.kind)) in (list, tuple)

    @property
    def shown(self) -> str:
        return self.name.upper() if self.spec.positional else f"--{self.name}"

    @property
    def bare(self) -> str | None:
        return "true" if without_none(self.kind) is bool else self.spec.bare


@dataclass(frozen=True)
class Common:
    """Every command"""

    config: tuple[str, ...] = ()
    """YAML or JSON files with flags; later files override earlier ones, the command line overrides all"""
    ignore_args_error: bool = False
    """Warn about unknown flags instead of stopping"""


def walk(config: type[DataclassInstance], base: object = MISSING) -> Iterator[Flag]:
    """The flags of `config` and its groups in order, with defaults from `base` if it is given."""
    hints = typing.get_type_hints(config)
    for item in fields(config):
        default = default_of(item) if base is MISSING else getattr(base, item.name)
        if is_dataclass(hints[item.name]):
            yield from walk(hints[item.name], default)
        else:
            yield Flag(item.name, hints[item.name], default, item.metadata.get("flag", Spec()), config)


def default_of(item: Any) -> Any:
    """The default of a dataclass's field."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def sections(config: type[DataclassInstance]) -> list[tuple[str, list[Flag]]]:
    """The flags of `config` by group: its own under "flags", then each group under the first line of its docstring."""
    flags = list(walk(config))
    found = []
    for owner in dict.fromkeys([config, *(item.owner for item in flags)]):
        is_own = owner is config and config is not Common
        title = "flags" if is_own else (owner.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        if mine := [item for item in flags if item.owner is owner]:
            found.append((title, mine))
    return found


def example_of(config: type[DataclassInstance]) -> str:
    """The command line that `config.example`, a class variable, has; empty without one."""
    return str(vars(config).get("example", ""))


def most_used_of(config: type[DataclassInstance]) -> list[Flag]:
    """The flags that `config.most_used`, a class variable, names, in its order."""
    by_name = {item.name: item for item in walk(config)}
    return [by_name[name] for name in vars(config).get("most_used", ())]


def shown(value: object) -> str:
    """A default as the command line takes it."""
    if value is None or value == () or value == []:
        return "none"
    if isinstance(value, (list, tuple)):
        return " ".join(map(shown, value))
    if isinstance(value, (bool, dict)):
        return json.dumps(value, ensure_ascii=False)
    return str(value) or "''"


@functools.cache
def meanings(config: type) -> dict[str, str]:
    """The docstring below each field of a dataclass and its bases, read from their source, by the field's name."""
    docs: dict[str, str] = {}
    for cls in reversed(config.__mro__[:-1]):
        tree = _tree(sys.modules[cls.__module__].__file__ or "")
        body = next((n.body for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == cls.__name__), [])
        for node, below in itertools.pairwise(body):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        docs[node.target.id] = " ".join(text.split()).rstrip(".")
    return docs


@functools.cache
def _tree(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))
