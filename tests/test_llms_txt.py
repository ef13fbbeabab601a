"""llms.txt: an index of the docs for language models, in the form of llmstxt.org."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "llms.txt").read_text(encoding="utf-8")


def test_a_title_and_a_summary_come_first_then_sections_of_links() -> None:
    title, _, summary, _, *rest = TEXT.splitlines()
    assert re.fullmatch(r"# \w+", title) and summary.startswith("> ")
    sections = "\n".join(rest).split("\n## ")[1:]
    assert sections and sections[-1].startswith("Optional\n")
    for section in sections:
        lines = section.strip().splitlines()[2:]
        assert lines and all(re.fullmatch(r"- \[[^]]+\]\([^)\s]+\): .+", line) for line in lines), section


def test_every_link_leads_to_a_file_and_every_page_of_the_docs_has_one() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) == len(set(links))
    assert all((ROOT / link).is_file() for link in links)
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} - {"docs/index.md"}
    assert pages <= set(links), pages - set(links)
