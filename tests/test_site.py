"""The docs as a site: mkdocs.yml names every page, and links lead to pages and headings of it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def in_nav(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for target in entry.values() if isinstance(entry, dict) else [entry]:
            yield from in_nav(target) if isinstance(target, list) else [target]


def anchor_on_the_site(heading: str) -> str:
    """As the toc extension of Python-Markdown makes it."""
    plain = unicodedata.normalize("NFKD", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)).encode("ascii", "ignore")
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain.decode()).strip().lower())


def test_the_site_needs_no_plugin_and_asks_no_other_host() -> None:
    assert "plugins" not in SETTINGS and "hooks" not in SETTINGS
    assert SETTINGS["theme"]["font"] is False
    assert not [each for each in (*SETTINGS["extra_css"], *SETTINGS.get("extra_javascript", ())) if "//" in each]
    assert all((DOCS / each).exists() for each in SETTINGS["extra_css"])


def test_the_navigation_names_every_page_once() -> None:
    named = sorted(in_nav(SETTINGS["nav"]))
    assert named == [page.relative_to(DOCS).as_posix() for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_link_stays_within_the_site_and_its_anchor_is_there(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(DOCS), f"{link}: write a path outside docs/ as code"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(anchor_on_the_site, headings), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_list_begins_after_an_empty_line(page: Path) -> None:
    """Python-Markdown reads it as a part of the paragraph before otherwise, GitHub does not."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^(?![-*] |\d+\. |[ |#>]).+\n(?:[-*] |\d+\. ).*$", text, re.MULTILINE)


class Document(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        if link := found.get("src" if tag in ("img", "script") else "href"):
            self.links.append(link)


@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="pip install -e '.[docs]'")
def test_every_link_of_the_built_site_leads_somewhere(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "mkdocs.yml"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    site = tmp_path / SETTINGS["site_dir"]
    built = {file.resolve(): Document(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    assert len(built) > len(PAGES)
    for file, document in built.items():
        for link in document.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or file.name == "404.html":
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{file.name}: {link}"
            if parts.fragment and target in built and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in built[target].ids, f"{file.name}: {link}"
