"""docs/faq.md: each line that it explains is one that the program prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\| `(.+?)` \| .+ \|$", PAGE, re.MULTILINE)
GAP = "\0"
"""Stands for what a message fills in."""


def texts(node: ast.AST) -> Iterator[str]:
    """The text of each string in the code, with a gap for each value in it; strings that are added are one."""
    for each in ast.walk(node):
        if isinstance(each, ast.expr) and (text := text_of(each)) is not None:
            yield text


def text_of(node: ast.expr) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(part.value if isinstance(part, ast.Constant) else GAP for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            sides = text_of(left), text_of(right)
            return None if sides == (None, None) else "".join(GAP if side is None else side for side in sides)
    return None


@cache
def printed() -> str:
    """Every text in the sources, a line each."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted((ROOT / "swift").rglob("*.py"))]
    return "\n".join(text.replace("\n", " ") for tree in trees for text in texts(tree))


def test_the_page_explains_lines_of_every_part() -> None:
    assert len(LINES) > 30


@pytest.mark.parametrize("line", LINES)
def test_the_program_prints_the_line(line: str) -> None:
    # the words around dots stand in one text in this order, with at least one value in place of each three dots
    pattern = rf"[^\n{GAP}]*{GAP}[^\n]*?".join(map(re.escape, line.strip(".").split("...")))
    assert re.search(pattern, printed()), line
