"""The code blocks of README.md and docs/, and the command lines in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("README*.md")), ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"(?:.*\\\n)*.*\n")
SHELL = ("", "bash", "sh")
ENDS = {"&&", "||", "|", ";", "&", ">", ">>", "2>"}


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str


class Command(NamedTuple):
    """A command of a block, without the variables before it and without what its output goes to."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, found.start()) + 2, found[1], found[2])


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block of shell lines. A line that no shell could read is output, and has none."""
    if block.language not in SHELL:
        return
    for logical in LINE.finditer(block.text):
        where = f"{block.page.relative_to(ROOT)}:{block.line + block.text.count(chr(10), 0, logical.start())}"
        reader = shlex.shlex(logical[0].replace("\\\n", " "), posix=True, punctuation_chars="|&;>")
        reader.whitespace_split, reader.commenters = True, "#"
        try:
            words = list(reader)
        except ValueError:
            continue
        part: list[str] = []
        for word in [*words, ";"]:
            if word not in ENDS:
                part.append(word)
                continue
            while part and re.fullmatch(r"[A-Z_]+=.*", part[0]):
                part.pop(0)
            if part:
                yield Command(where, tuple(part))
            part = []


def swift_commands() -> list[Command]:
    """Every `swift ...` of a block, without the word swift."""
    found = [each for page in PAGES for block in blocks(page) for each in commands(block)]
    return [each._replace(words=each.words[1:]) for each in found if each.words[0].rpartition("/")[2] == "swift"]
