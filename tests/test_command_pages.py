"""docs/commands/: a page for each command, made from the dataclasses of its flags."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import command_pages
import pytest

from swift import cli, flags
from swift.flags import flag, page

COMMANDS = {words: config for verb in cli.verbs() for words, config in cli.configs(verb).items()}


@dataclass(frozen=True)
class Bake:
    example: ClassVar[str] = "oven bake cake.toml --heat 200"

    recipe: str = flag(positional=True)
    """File with the recipe, a [cake] or a {"pie": 1}"""
    heat: float = flag(180.0, alias=("degrees",))
    """Heat in degrees; 0 means --cold"""
    shelf: Literal["low", "high"] = flag("low", values={"bottom": "low", "LOW": "low"})
    """Where it stands: a|b"""
    with_: tuple[int, ...] = flag((), commas=True)


def test_a_table_has_names_choices_and_defaults_of_every_flag() -> None:
    assert page.tables(Bake, level=3).splitlines() == [
        "### Flags",
        "",
        "| flag | value | default | meaning |",
        "|---|---|---|---|",
        '| `RECIPE` | text | required | File with the recipe, a `[cake]` or a `{"pie": 1}` |',
        "| `--heat`, `--degrees` | number | `180.0` | Heat in degrees; 0 means `--cold` |",
        r"| `--shelf` | `low`, `high`; `bottom` means `low` | `low` | Where it stands: a\|b |",
        "| `--with_` | whole number; several, or one with commas | none |  |",
    ]


def test_the_pages_are_those_made_from_the_flags() -> None:
    made = command_pages.pages()
    kept = {file.name: file.read_text(encoding="utf-8") for file in command_pages.FOLDER.glob("*.md")}
    stale = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
    assert not stale, f"{', '.join(stale)}: run: python docs/command_pages.py"


def test_every_command_has_a_guide_that_exists() -> None:
    assert command_pages.GUIDES.keys() == cli.verbs().keys()
    assert all(map(command_pages.title, {name for names in command_pages.GUIDES.values() for name in names}))


@pytest.mark.parametrize("words", COMMANDS)
def test_the_example_of_a_command_is_one_and_its_help_shows_it(words: str) -> None:
    example = flags.example_of(COMMANDS[words])
    given = shlex.split(example)
    assert given[: 1 + words.count(" ") + 1] == ["swift", *words.split()]
    flags.parse(COMMANDS[words], given[1 + words.count(" ") + 1 :])
    assert f"\nexample: {example}\n" in flags.help_text(COMMANDS[words], f"swift {words}")


@pytest.mark.parametrize("words", COMMANDS)
def test_every_flag_has_a_meaning(words: str) -> None:
    groups = flags.sections(COMMANDS[words])
    assert not [item.name for _, mine in groups for item in mine if not flags.meanings(item.owner).get(item.name)]


@pytest.mark.parametrize("file", sorted(command_pages.FOLDER.glob("*.md")), ids=lambda file: Path(file).stem)
def test_no_value_breaks_a_row_of_a_table(file: Path) -> None:
    columns = 0
    for line in file.read_text(encoding="utf-8").splitlines():
        cells = len(re.split(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert cells == columns or not (cells and columns), line
        columns = cells
