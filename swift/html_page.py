"""HTML pages of runs: headings, tables, text and pictures in one file. Knows no run; standard library only."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Section(NamedTuple):
    """A heading and the HTML below it, made by the functions below."""

    title: str
    body: str


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse } td, th { padding: .2rem .8rem; border-bottom: 1px solid #eee; text-align: left }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f6f6f6; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere } img { max-width: 100% }
table.texts { table-layout: fixed; width: 100% } table.texts td { vertical-align: top; padding: .2rem }
table.texts pre { margin: 0; font-size: .85em } summary { cursor: pointer; margin: .4rem 0; font-weight: 600 }
"""


def render(title: str, sections: Iterable[Section]) -> str:
    """A self-contained HTML page."""
    parts = "\n".join(f"<h2>{html.escape(section.title)}</h2>\n{section.body}" for section in sections)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html>\n<html><head>{head}</head>\n<body><h1>{html.escape(title)}</h1>\n{parts}\n</body></html>\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table: numbers are aligned right, floats have four digits."""
    lines = ["".join(_cell("th", value) for value in header)]
    lines += ["".join(_cell("td", value) for value in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _cell(tag: str, value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        return f'<{tag} class="number">{shown}</{tag}>'
    return f"<{tag}>{html.escape(str(value))}</{tag}>"


def text(content: str) -> str:
    return f"<p>{html.escape(content)}</p>"


def code(content: str) -> str:
    return f"<pre>{html.escape(content)}</pre>"


def picture(data: bytes, alt: str, kind: str = "png") -> str:
    """An inline image."""
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def details(title: str, body: str) -> str:
    """HTML under a title that opens and closes it."""
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def side_by_side(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts of several lines in columns of equal width."""
    lines = ["".join(f"<th>{html.escape(title)}</th>" for title in header)]
    lines += ["".join(f"<td><pre>{html.escape(cell)}</pre></td>" for cell in row) for row in rows]
    return '<table class="texts">' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
