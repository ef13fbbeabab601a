"""Binds frozen dataclasses to command-line flags, --help, and YAML or JSON files. Knows no command and no model."""

from __future__ import annotations

import argparse
import json
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from swift.flags import help as help_pages
from swift.flags.conversion import FALSE, TRUE, convert, without_duplicates
from swift.flags.conversion import nearest as nearest
from swift.flags.definition import Common as Common
from swift.flags.definition import Flag as Flag
from swift.flags.definition import default_of
from swift.flags.definition import example_of as example_of
from swift.flags.definition import flag as flag
from swift.flags.definition import meanings as meanings
from swift.flags.definition import most_used_of as most_used_of
from swift.flags.definition import sections as sections
from swift.flags.definition import shown as shown
from swift.flags.definition import walk as walk
from swift.flags.help import help_text as help_text
from swift.system import utf8

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")
FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Parsed(Generic[C]):
    """A config and the names of the fields that the user set, by flag or by file."""

    config: C
    given: frozenset[str]


# Entry points


def parse(config: type[C], argv: Sequence[str], prog: str = "swift") -> Parsed[C]:
    """Parses `argv`. Prints the help and raises SystemExit(0) for `--help`; raises ValueError for wrong flags."""
    if text := help_pages.asked(config, prog, argv):
        print(text)
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


def _assemble(config: type[C], given: Mapping[str, object], base: object = MISSING) -> C:
    hints = typing.get_type_hints(config)
    values = {}
    for item in fields(config):
        default = default_of(item) if base is MISSING else getattr(base, item.name)
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
