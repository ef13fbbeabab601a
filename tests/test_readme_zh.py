"""README_zh.md: README.md in Chinese, with the same commands, figures and links."""

from __future__ import annotations

import re

from doc_blocks import FENCE, ROOT


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[str]:
    """The blocks without comments, as only these are translated."""
    texts = [found[2] for found in FENCE.finditer(read(name))]
    return ["\n".join(re.sub(r"(^|\s+)# .*$", "", line) for line in text.splitlines()) for text in texts]


def figures(name: str) -> list[list[str]]:
    """The numbers in each row of a table of figures."""
    rows = [line for line in read(name).splitlines() if line.startswith("| ") and "](" not in line]
    return [re.findall(r"[\d.,]+%?", row.partition("|")[2].partition("|")[2]) for row in rows]


def links(name: str) -> list[str]:
    return re.findall(r"\]\(((?!#|README)[^)\s]+)\)", read(name))


def test_the_blocks_are_those_of_the_english_page() -> None:
    assert blocks("README_zh.md") == blocks("README.md")


def test_the_figures_are_those_of_the_english_page() -> None:
    found = figures("README.md")
    assert figures("README_zh.md") == found and sum(map(len, found)) > 20


def test_the_links_are_those_of_the_english_page() -> None:
    assert links("README_zh.md") == links("README.md")


def test_the_pages_link_to_each_other() -> None:
    assert "](README_zh.md)" in read("README.md") and "](README.md)" in read("README_zh.md")


def test_the_sections_are_as_many_and_the_prose_is_chinese() -> None:
    heads = [re.findall(r"^#+ ", read(name), re.MULTILINE) for name in ("README.md", "README_zh.md")]
    assert heads[0] == heads[1]
    prose = re.sub(r"`[^`]*`|\([^)]*\)", "", FENCE.sub("", read("README_zh.md")))
    for paragraph in prose.split("\n\n"):
        if len(paragraph) > 100 and not paragraph.startswith("|") and "](" not in paragraph:
            assert len(re.findall(r"[\u4e00-\u9fff]", paragraph)) > len(paragraph) / 5, paragraph
    assert not re.search(r"[\u4e00-\u9fff][,;:]|[,;:][\u4e00-\u9fff]", prose), "use full-width punctuation"
