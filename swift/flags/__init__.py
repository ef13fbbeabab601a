"""Binds frozen dataclasses to command-line flags, --help, and YAML or JSON files. Knows no command and no model."""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import itertools
import json
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, NoReturn, TypeVar

from swift.flags.conversion import FALSE, TRUE, Spec, convert, without_duplicates, without_none
from swift.flags.conversion import nearest as nearest
from swift.system import utf8

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")
FILES = (".yaml", ".yml", ".json")


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
class Parsed(Generic[C]):
    """A config and the names of the fields that the user set, by flag or by file."""

    config: C
    given: frozenset[str]


@dataclass(frozen=True)
class Common:
    """Every command"""

    config: tuple[str, ...] = ()
    """YAML or JSON files with flags; later files override earlier ones, the command line overrides all"""
    ignore_args_error: bool = False
    """Warn about unknown flags instead of stopping"""


# Entry points


def parse(config: type[C], argv: Sequence[str], prog: str = "swift") -> Parsed[C]:
    """Parses `argv`. Prints the help and raises SystemExit(0) for `--help`; raises ValueError for wrong flags."""
    if "-h" in argv or "--help" in argv:
        print(help_text(config, prog))
        raise SystemExit(0)
    flags, common = list(walk(config)), list(walk(Common))
    positional = [item for item in flags if item.spec.positional]
    words = _words(argv, flags + common, bool(positional))
    given, extras = _collect(flags + common, words)
    given |= _take(positional, extras)
    always = _assemble(Common, {item.name: given.pop(item.name) for item in common if item.name in given})
    _unknown(extras, flags + common, warn=always.ignore_args_error)
    for path in reversed(always.config):
        given = _read(flags, load(path), path) | given
    if missing := [item.shown for item in flags if item.default is MISSING and item.name not in given]:
        raise ValueError(f"{', '.join(missing)} must be given")
    return Parsed(_assemble(config, given), frozenset(given))


def values(config: DataclassInstance) -> dict[str, Any]:
    """The value of every flag, groups flattened."""
    return {item.name: item.default for item in walk(type(config), config)}


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """`values` for JSON, with lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values(config).items()}


def from_dict(config: type[C], values: Mapping[str, object], where: str = "file") -> C:
    """The config with `values` (flag or alias -> value). Raises ValueError, prefixed by `where`, for wrong ones."""
    flags = list(walk(config))
    given = _read(flags, values, where)
    if missing := [item.name for item in flags if item.default is MISSING and item.name not in given]:
        raise ValueError(f"{where}: {', '.join(missing)} must be given")
    return _assemble(config, given)


def update(config: C, values: Mapping[str, object], where: str = "file") -> C:
    """`config` with `values` (flag or alias -> value) changed. Raises ValueError as `from_dict` does."""
    return _assemble(type(config), _read(list(walk(type(config))), values, where), config)


def replaced(config: type[DataclassInstance], words: Sequence[str], changes: Mapping[str, Sequence[str]]) -> list[str]:
    """A command line of flags in which each flag of `changes` has those words as its value, wherever it was set.

    Raises ValueError for a flag that is not known.
    """
    by_name = {name: item for item in walk(config) for name in (item.name, *item.spec.alias)}
    fields = set()
    for change in changes:
        if change not in by_name:
            raise ValueError(f"unknown flag {change}{nearest(change, by_name)}")
        fields.add(by_name[change].name)
    kept, dropping = [], False
    for word in words:
        if _is_flag(word):
            name = word.partition("=")[0].lstrip("-").replace("-", "_")
            dropping = name in by_name and by_name[name].name in fields
        if not dropping:
            kept.append(word)
    return kept + [word for change, value in changes.items() for word in (f"--{change}", *value)]


def names(config: type[DataclassInstance]) -> frozenset[str]:
    """The names of all flags, without aliases."""
    return frozenset(item.name for item in walk(config))


def load(path: str) -> dict[str, object]:
    """The flags in a YAML or JSON file. Raises ValueError with file and line for a wrong one."""
    if not path.lower().endswith(FILES):
        raise ValueError(f"{path}: a file with flags ends in {', '.join(FILES)}")
    try:
        text = utf8.read(Path(path).expanduser())
        is_json = path.lower().endswith(".json")
        values = json.loads(text, object_pairs_hook=without_duplicates) if is_json else _yaml(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {error.lineno}: {error.msg}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{path}: must be one mapping of flags to values")
    return values


# From a dataclass to flags and back


def walk(config: type[DataclassInstance], base: object = MISSING) -> Iterator[Flag]:
    """The flags of `config` and its groups in order, with defaults from `base` if it is given."""
    hints = typing.get_type_hints(config)
    for item in fields(config):
        default = _default(item) if base is MISSING else getattr(base, item.name)
        if is_dataclass(hints[item.name]):
            yield from walk(hints[item.name], default)
        else:
            yield Flag(item.name, hints[item.name], default, item.metadata.get("flag", Spec()), config)


def _default(item: Any) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _assemble(config: type[C], given: Mapping[str, object], base: object = MISSING) -> C:
    hints = typing.get_type_hints(config)
    values = {}
    for item in fields(config):
        default = _default(item) if base is MISSING else getattr(base, item.name)
        if is_dataclass(hints[item.name]):
            values[item.name] = _assemble(hints[item.name], given, default)
        else:
            values[item.name] = given.get(item.name, default)
    return config(**values)


# From words to values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))


class _Collect(argparse.Action):
    """Collects each use of a flag with the name that was used; values are converted later."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        vars(namespace).setdefault(self.dest, []).append((option_string, values))


def _words(argv: Sequence[str], flags: Sequence[Flag], positional: bool) -> list[str]:
    """`argv` with `_` for `-` in flags. A leading file with flags becomes `--config FILE`.

    With positional arguments, `--flag WORD` of a boolean flag means `--flag true WORD` unless WORD is a boolean.
    """
    booleans = {f"--{name}" for flag in flags if flag.bare == "true" for name in (flag.name, *flag.spec.alias)}
    words = []
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if word.startswith("--") and not any(character.isspace() for character in name):
            name = "--" + name[2:].replace("-", "_")
            follower = argv[i + 1].casefold() if i + 1 < len(argv) else ""
            if positional and not equals and name in booleans and follower not in TRUE + FALSE:
                equals, value = "=", "true"
            word = name + equals + value
        words.append(word)
    if words and not positional and not words[0].startswith("-") and words[0].lower().endswith(FILES):
        words.insert(0, "--config")
    return words


def _collect(flags: Sequence[Flag], words: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """Values by field name, and the words of no flag. Repeated lists are concatenated; else the last value wins."""
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for item in flags:
        if item.spec.positional:
            continue
        nargs = "+" if item.is_list else "?" if item.bare is not None else None
        options = [_option(name) for name in (item.name, *item.spec.alias)]
        parser.add_argument(*options, dest=item.name, nargs=nargs, const=item.bare, action=_Collect)
    namespace, extras = parser.parse_known_args(words)
    given = {}
    by_name = {item.name: item for item in flags}
    for name, uses in vars(namespace).items():
        value = [word for _, some in uses for word in some] if by_name[name].is_list else uses[-1][1]
        given[name] = _value(by_name[name], value, uses[-1][0])
    return given, extras


def _option(name: str) -> str:
    """A name as it is typed: two dashes, or one before a single letter."""
    return f"-{name}" if len(name) == 1 else f"--{name}"


def _take(positional: Sequence[Flag], extras: list[str]) -> dict[str, object]:
    """Moves words before any unknown flag from `extras` into positional fields."""
    given: dict[str, object] = {}
    for item in positional:
        count = next((i for i, word in enumerate(extras) if _is_flag(word)), len(extras))
        if count:
            taken = extras[: count if item.is_list else 1]
            del extras[: len(taken)]
            given[item.name] = _value(item, taken if item.is_list else taken[0], item.shown)
    return given


def _is_flag(word: str) -> bool:
    """True for `--x` and `-x`; false for `-`, `-1` and other text that starts with a dash."""
    return re.fullmatch(r"--?[^\W\d][^\s=]*(=.*)?", word, re.DOTALL) is not None


def _unknown(extras: Sequence[str], flags: Sequence[Flag], warn: bool) -> None:
    known = [_option(name) for item in flags if not item.spec.positional for name in (item.name, *item.spec.alias)]
    wrong = [word.partition("=")[0] for word in extras if _is_flag(word)]
    if wrong:
        message = "; ".join(f"unknown flag {word}{nearest(word, known)}" for word in wrong)
    elif extras:
        message = f"unexpected argument {extras[0]!r}: values follow their flag"
    else:
        return
    if not warn:
        raise ValueError(message)
    print(f"swift: warning: ignored: {message}", file=sys.stderr)


def _read(flags: Sequence[Flag], values: Mapping[str, object], where: str) -> dict[str, object]:
    """The values of a file by field name."""
    known = {name: item for item in flags for name in (item.name, *item.spec.alias)}
    given: dict[str, object] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ValueError(f"{where}: unknown flag {key}{nearest(name, known)}")
        if known[name].name in given:
            raise ValueError(f"{where}: {key} is given twice (it is the flag {known[name].name})")
        given[known[name].name] = _value(known[name], value, f"{where}: {key}")
    return given


def _value(item: Flag, value: object, where: str) -> object:
    try:
        return convert(value, item.kind, item.spec)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _yaml(text: str) -> object:
    import yaml  # imported only for a YAML file

    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(tree, yaml.MappingNode):
            without_duplicates([(str(key.value), None) for key, _ in tree.value])
        return yaml.safe_load(text) if tree else {}
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


# Help


def help_text(config: type[DataclassInstance], prog: str) -> str:
    """Every flag with type, meaning, aliases and default, a line each, wrapped in a terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100_000
    flags = [*walk(config), *walk(Common)]
    words = [item.shown + "..." * item.is_list for item in flags if item.spec.positional]
    about = (sys.modules[config.__module__].__doc__ or "").strip().partition("\n")[0]
    lines = [
        " ".join(["usage:", prog, *words, "[--flag value ...]"]),
        *([f"example: {example}"] if (example := example_of(config)) else []),
        *([textwrap.fill(about, width)] if about else []),
    ]
    for title, mine in (*sections(config), *sections(Common)):
        lines += ["", f"{title}:", *(_help_line(item, width) for item in mine)]
    return "\n".join(lines)


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
