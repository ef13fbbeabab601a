"""What pages and messages say about installing is what the files say: extras, targets of make, interpreters."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = set(SETTINGS["project"]["optional-dependencies"])
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def test_an_extra_that_a_page_or_a_message_names_exists() -> None:
    files = [*PAGES, ROOT / "Makefile", ROOT / "Dockerfile", *(ROOT / "requirements").glob("*.*")]
    named = {
        (extra, file.relative_to(ROOT))
        for file in [*files, *(ROOT / "swift").rglob("*.py")]
        for extras in re.findall(r"(?:\.|swift-agents)\[([a-z][\w,-]*)\]", file.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert {extra for extra, _ in named} >= {"llm", "dev", "bfcl"}
    assert not {each for each in named if each[0] not in EXTRAS}


def test_messages_name_an_install_that_works_without_the_clone() -> None:
    files = [*(ROOT / "swift").rglob("*.py"), *(ROOT / "swift").rglob("*.toml")]
    assert not [file for file in files if re.search(r"install (-e|'?\.)", file.read_text(encoding="utf-8"))]


def test_annotations_are_some_that_python_3_10_can_evaluate() -> None:
    """There pydantic refuses a bare ClassVar in a module with postponed annotations."""
    files = (ROOT / "swift").rglob("*.py")
    assert not [file for file in files if re.search(r": ClassVar\b(?!\[)", file.read_text(encoding="utf-8"))]


def test_the_page_lists_every_extra() -> None:
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    table = page.split("| extra | for |")[1].split("\n\n")[0]
    names = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = set(re.findall(r"`([\w-]+)`", " ".join(names)))
    assert listed == EXTRAS - {"llm"}  # it is empty


def test_a_target_of_make_that_a_page_names_exists() -> None:
    (line,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    code = [
        block
        for page in PAGES
        for block in re.findall(r"```\w*\n.*?```|`[^`\n]+`", page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    named = {
        word for block in code for word in re.findall(r"^`*make (?:[A-Z]+=\S+ )*([a-z][\w-]*)", block, re.MULTILINE)
    }
    assert named >= {"setup", "demo", "test"}
    assert named <= set(line.split())


def test_all_files_agree_on_the_interpreters() -> None:
    versions = re.findall(r"Python :: 3\.(\d+)", " ".join(SETTINGS["project"]["classifiers"]))
    first, last = int(versions[0]), int(versions[-1])
    assert versions == [str(minor) for minor in range(first, last + 1)]
    assert SETTINGS["project"]["requires-python"] == f">=3.{first}"
    assert f"(3, {first}) <= v < (3, {last + 1})" in MAKEFILE
    assert SETTINGS["tool"]["ruff"]["target-version"] == f"py3{first}"
    assert SETTINGS["tool"]["mypy"]["python_version"] == f"3.{first}"
    assert f"Python 3.{first} to 3.{last}" in (ROOT / "README.md").read_text(encoding="utf-8")
