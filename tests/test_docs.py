"""README and docs/: links lead somewhere, and commands have the verbs and flags that the program has."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from swift import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FLAG = re.compile(r"(?<![\w-])--([a-z][\w-]*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SWIFT = re.compile(r"\bswift ((?:data |agent |runs (?=show|log|stop|resume))?[a-z][a-z-]*)([^`#|&;>\n]*)")
OTHERS = {"help", "help-all", "version", "install-completion", "no-deps", "nproc_per_node", "torch-backend"}
"""Flags of every program, and of other programs in running text."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text(page: Path) -> str:
    """The page with the lines of a command joined."""
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def commands(page: Path) -> list[tuple[str, str]]:
    """(verb, arguments) of each `swift VERB ...` in code."""
    code = re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", text(page), re.DOTALL)
    return [(verb, arguments) for block in code for verb, arguments in SWIFT.findall("".join(block))]


@cache
def flags_of(verb: str) -> frozenset[str]:
    """The flags and aliases that `swift VERB --help` lists."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("builtins.print", lambda *words, **options: said.extend(map(str, words)))
        with suppress(SystemExit):
            cli.main([*verb.split(), "--help-all"])
    return frozenset(each.replace("-", "_") for each in FLAG.findall("\n".join(said)))


@cache
def flags_of_benchmarks() -> frozenset[str]:
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "benchmarks").glob("*.py"))
    return frozenset(each.replace("-", "_") for each in re.findall(r'add_argument\(\s*"--([\w-]+)"', sources))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_relative_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_command_has_a_verb_and_flags_of_the_program(page: Path) -> None:
    for verb, arguments in commands(page):
        known = flags_of(verb)
        for flag in FLAG.findall(arguments):
            assert flag.replace("-", "_") in known or flag in OTHERS, f"swift {verb} --{flag}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_flag_in_running_text_is_one_of_some_command(page: Path) -> None:
    verbs = (*cli.verbs(), "agent run", "data lint", "data review", "data show", "data synth")
    verbs = (*verbs, "runs show", "runs log", "runs stop", "runs resume")
    known = frozenset().union(*map(flags_of, verbs))
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for flag in FLAG.findall(prose):
        normal = flag.replace("-", "_")
        assert normal in known | flags_of_benchmarks() or flag in OTHERS, f"--{flag}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_path_of_the_repository_exists_unless_its_name_is_a_placeholder(page: Path) -> None:
    folders = "swift|tests|benchmarks|examples|docs|requirements"
    files = re.findall(rf"(?<![\w/.])((?:{folders})/[\w/.-]*(?:/|\.[a-z]+))", page.read_text(encoding="utf-8"))
    for path in files:
        assert Path(path).stem.isupper() or "NAME" in path or (ROOT / path).exists(), path
