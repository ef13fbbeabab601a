"""The flags of a command as a form, and the form as words of a command line. Knows no command, and draws nothing."""

from __future__ import annotations

import json
import re
import shlex
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Literal

from swift import flags
from swift.flags import Flag
from swift.flags.conversion import convert, without_none

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Kind = Literal["text", "number", "choice", "list", "json"]
KINDS: Mapping[object, Kind] = {int: "number", float: "number", dict: "json"}
NONE = "none"


@dataclass(frozen=True)
class Field:
    """A flag as a field. Texts are as a command line has them; a list is words as a shell quotes them.

    `default`: empty where there is none. `choices`: all values, with `none` first for an optional one.
    """

    flag: Flag
    section: str
    meaning: str
    kind: Kind
    default: str
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.flag.name

    @property
    def required(self) -> bool:
        return self.flag.default is MISSING

    def words(self, text: str) -> list[str]:
        """The words of a command line that give it this value; none for an empty text, or for the default."""
        text = text.strip() if self.kind != "text" else text
        if not text.strip() or text == self.default:
            return []
        values = self._parts(text) if self.flag.is_list else [text]
        if self.flag.spec.positional:
            return values
        if len(values) == 1 and values[0].startswith("-"):
            return [f"--{self.name}={values[0]}"]
        return [f"--{self.name}", *values]

    def fault(self, text: str) -> str:
        """Why a text is no value of this field, in the words of the flags; empty for a right one."""
        if not text.strip():
            return f"--{self.name} must be given" if self.required else ""
        try:
            convert(self._parts(text) if self.flag.is_list else text, self.flag.kind, self.flag.spec)
        except ValueError as error:
            return str(error)
        return ""

    def matches(self, query: str, *translations: str) -> bool:
        """Whether each word of a search is in its name, its other names or its meaning."""
        names = " ".join([self.name, self.name.replace("_", " "), *self.flag.spec.alias])
        text = " ".join([names, self.section, self.meaning, *self.choices, *translations]).casefold()
        return all(word in text for word in query.casefold().replace("--", " ").split())

    def _parts(self, text: str) -> list[str]:
        try:
            return shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from None


class Form:
    """The fields of a command. `sections`: title -> fields, in the order of the command's help."""

    def __init__(self, verb: str, config: type[DataclassInstance]) -> None:
        self.verb, self.config = verb, config
        self.sections: dict[str, list[Field]] = {}
        for title, listed in flags.sections(config):
            self.sections.setdefault(title, []).extend(_field(item, title) for item in listed)
        self.fields = {field.name: field for fields in self.sections.values() for field in fields}

    def words(self, values: Mapping[str, str]) -> list[str]:
        """The words after `swift` for these texts by field name. Raises ValueError for a list with an open quote."""
        ordered = sorted(self.fields.values(), key=lambda field: not field.flag.spec.positional)
        return [self.verb, *(word for field in ordered for word in field.words(values.get(field.name, "")))]

    def values(self, words: Sequence[str]) -> dict[str, str]:
        """The texts of the fields that a command line sets; its first word is the verb. Raises ValueError, a line."""
        given = flags.parse(self.config, [word for word in words[1:] if word not in ("-h", "--help")])
        found = flags.values(given.config)
        return {name: text_of(found[name]) for name in found if name in given.given}

    def faults(self, values: Mapping[str, str]) -> dict[str, str]:
        """Field name -> what is wrong; "" -> what belongs to no field. Empty for values that the command would take."""
        wrong = {name: fault for name, field in self.fields.items() if (fault := field.fault(values.get(name, "")))}
        if wrong:
            return wrong
        try:
            flags.parse(self.config, self.words(values)[1:])
        except ValueError as error:
            return {self.field_of(str(error)): str(error)}
        return {}

    def field_of(self, message: str) -> str:
        """The field that an error message names first; empty for none."""
        names = {name: field.name for field in self.fields.values() for name in (field.name, *field.flag.spec.alias)}
        for word in message.replace(":", " ").replace(",", " ").split():
            if word.startswith("--") and (found := names.get(word[2:].replace("-", "_"))):
                return found
        return ""

    def search(self, query: str, translate: Mapping[str, str]) -> Iterator[Field]:
        """The fields that a search finds, in their order. `translate`: English text -> another language's."""
        for field in self.fields.values():
            if field.matches(query, translate.get(field.meaning, ""), translate.get(field.section, "")):
                yield field


def joined(words: Sequence[str]) -> str:
    """Words as a shell takes them; letters of every script need no quotes."""
    return " ".join(word if re.fullmatch(r"[\w@%+=:,./-]+", word) else shlex.quote(word) for word in words)


def text_of(value: object) -> str:
    """A value as a command line has it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return joined([text_of(each) for each in value])
    return str(value)


def _field(item: Flag, section: str) -> Field:
    inner = without_none(item.kind)
    origin = typing.get_origin(inner) or inner
    default = "" if item.default is MISSING or item.default in ((), [], {}) else text_of(item.default)
    choices = {bool: ("true", "false"), Literal: typing.get_args(inner)}.get(origin, ())
    kind: Kind = "list" if item.is_list else "choice" if choices else KINDS.get(origin, "text")
    if choices and inner is not item.kind:
        choices = (NONE, *choices)
    return Field(item, section, flags.meanings(item.owner).get(item.name, ""), kind, default, choices)
