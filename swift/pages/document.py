"""A whole HTML page in one file, with its style and nothing from elsewhere."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Section(NamedTuple):
    """A heading and the HTML below it, made by `swift.pages.elements` and its siblings."""

    title: str
    body: str


def render(title: str, sections: Iterable[Section], lead: str = "", kind: str = "", head: str = "") -> str:
    """The page.

    `lead`: the sentence below the title that says what came out. `kind`: what the page is about, above the title, such
    as "training run". `head`: HTML between the lead and the first section.
    """
    listed = list(sections)
    names = _names([section.title for section in listed])
    links = "".join(
        f'<a href="#{name}">{html.escape(section.title)}</a>' for name, section in zip(names, listed, strict=True)
    )
    parts = [
        f'<p class="kind">{html.escape(f"SWIFT · {kind}" if kind else "SWIFT")}</p>',
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="lead">{html.escape(lead)}</p>' if lead else "",
        head,
        f"<nav>{links}</nav>" if len(listed) > 2 else "",
        *(
            f'<section id="{name}"><h2>{html.escape(section.title)}</h2>\n{section.body}</section>'
            for name, section in zip(names, listed, strict=True)
        ),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>\n{_style()}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _names(titles: Iterable[str]) -> list[str]:
    """An anchor for each title; no two are the same."""
    found: list[str] = []
    for title in titles:
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        same = sum(each == name or each.startswith(f"{name}--") for each in found)
        found.append(f"{name}--{same + 1}" if same else name)
    return found


@cache
def _style() -> str:
    return Path(__file__).with_name("style.css").read_text(encoding="utf-8")
