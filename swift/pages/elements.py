"""Elements of a page: text -> HTML. Every text is escaped here; what these functions return is HTML already."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

NUMBER = re.compile(r"[-+]?[\d,.:]*\d ?%?")
Tone = Literal["plain", "good", "warning", "bad"]


def text(content: str) -> str:
    return f"<p>{html.escape(content)}</p>"


def note(content: str) -> str:
    """A remark in small grey text."""
    return f'<p class="note">{html.escape(content)}</p>'


def code(content: str) -> str:
    return f"<pre>{html.escape(content)}</pre>"


def commands(lines: Iterable[str]) -> str:
    """Command lines; a click selects a whole one."""
    return "".join(f'<pre class="command"><code>{html.escape(line)}</code></pre>' for line in lines)


def notices(sentences: Iterable[str], tone: Tone = "warning") -> str:
    """Sentences that a reader must not miss; empty where there are none."""
    items = "".join(f"<li>{html.escape(each)}</li>" for each in sentences)
    return f'<ul class="notices {tone}">{items}</ul>' if items else ""


class Swatch(NamedTuple):
    """A cell of a table with the colour that a picture has for it."""

    text: str
    colour: int


class Fact(NamedTuple):
    """A figure that is read at a glance. `note`: a few words below it."""

    title: str
    value: str
    note: str = ""
    tone: Tone = "plain"


def facts(found: Iterable[Fact]) -> str:
    """Figures side by side."""
    cells = "".join(
        f'<div class="{each.tone}"><dt>{html.escape(each.title)}</dt><dd>{html.escape(each.value)}'
        f"{f'<small>{html.escape(each.note)}</small>' if each.note else ''}</dd></div>"
        for each in found
    )
    return f'<dl class="facts">{cells}</dl>' if cells else ""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table: numbers and shares are aligned right, floats have four digits."""
    rows = list(rows)
    heads = [_head(title, [row[at] for row in rows]) for at, title in enumerate(header)]
    lines = [f"<thead><tr>{''.join(heads)}</tr></thead>"] if any(header) else []
    lines += [f"<tr>{''.join(_cell('td', value) for value in row)}</tr>" for row in rows]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _head(title: str, column: Sequence[object]) -> str:
    """Above numbers on the right."""
    right = ' class="number"' if column and 'class="number"' in _cell("td", column[0]) else ""
    return f"<th{right}>{html.escape(title)}</th>"


def _cell(tag: str, value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        return f'<{tag} class="number">{shown}</{tag}>'
    if isinstance(value, Swatch):
        return f'<{tag}><i class="swatch c{value.colour}"></i>{html.escape(value.text)}</{tag}>'
    said = str(value)
    right = ' class="number"' if NUMBER.fullmatch(said) else ""
    return f"<{tag}{right}>{html.escape(said)}</{tag}>"


def settings(values: Mapping[str, object]) -> str:
    """Names with their values, in as many columns as fit."""
    items = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(shown(value))}</dd></div>" for name, value in values.items()
    )
    return f'<dl class="settings">{items}</dl>'


def shown(value: object) -> str:
    """A value as a user writes it on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return " ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def picture(data: bytes, alt: str, kind: str = "png") -> str:
    """An inline image on white, since most are drawn for paper."""
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def details(title: str, body: str, opened: bool = False) -> str:
    """HTML under a title that opens and closes it."""
    return f"<details{' open' if opened else ''}><summary>{html.escape(title)}</summary>{body}</details>"


def side_by_side(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Texts of several lines in columns of equal width; below each other, with their titles, in a narrow window."""
    lines = ["".join(f"<th>{html.escape(title)}</th>" for title in header)]
    lines += [
        "".join(
            f'<td data-title="{html.escape(title)}"><pre>{html.escape(cell)}</pre></td>'
            for title, cell in zip(header, row, strict=True)
        )
        for row in rows
    ]
    return '<table class="texts">' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def columns(parts: Iterable[tuple[str, str]]) -> str:
    """(title, HTML) side by side, below each other in a narrow window."""
    cells = "".join(f"<div><h3>{html.escape(title)}</h3>{body}</div>" for title, body in parts)
    return f'<div class="columns">{cells}</div>'


class Piece(NamedTuple):
    """A part of a rendered row. `weight`: of its tokens in the loss."""

    text: str
    weight: float


def weighted(pieces: Iterable[Piece]) -> str:
    """A rendered row in which trained text is marked, stronger where it counts more than once."""
    marked = "".join(
        html.escape(piece.text)
        if piece.weight == 0
        else f'<mark class="{"more" if piece.weight > 1 else "once"}" title="weight {piece.weight:g}">'
        f"{html.escape(piece.text)}</mark>"
        for piece in pieces
    )
    return f"<pre>{marked}</pre>"


# --- bars -------------------------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """A share from 0 to 1 with its interval. `colour`: the number of one of the page's colours, from 1."""

    label: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    colour: int = 1


def bars(groups: Iterable[tuple[str, Sequence[Bar]]]) -> str:
    """(title, its bars): one bar below the other on a scale from 0 to 1, with whiskers for intervals."""
    found = "".join(
        f'<div class="group"><h3>{html.escape(title)}</h3>{"".join(map(_bar, each))}</div>' for title, each in groups
    )
    return f'<div class="bars">{found}</div>'


def _bar(bar: Bar) -> str:
    whisker = ""
    if bar.low is not None and bar.high is not None:
        whisker = f'<i style="left:{100 * bar.low:.1f}%;width:{100 * (bar.high - bar.low):.1f}%"></i>'
    return (
        f'<div class="bar c{bar.colour}"><span>{html.escape(bar.label)}</span>'
        f'<span class="track"><b style="width:{100 * min(max(bar.value, 0), 1):.1f}%"></b>{whisker}</span>'
        f"<span>{html.escape(bar.text)}</span></div>"
    )


def stack(parts: Iterable[tuple[str, float, int]]) -> str:
    """(title, share, colour) as one bar of all shares."""
    cells = "".join(
        f'<b class="c{colour}" style="flex:{share:.4f}" title="{html.escape(title)}: {share:.1%}"></b>'
        for title, share, colour in parts
        if share > 0
    )
    return f'<div class="stack">{cells}</div>'


def histogram(title: str, bins: Sequence[tuple[str, int]], ends: tuple[str, str]) -> str:
    """(what a bin is, its count) as columns. `ends`: below the first and the last bin."""
    most = max((count for _, count in bins), default=0) or 1
    cells = "".join(
        f'<i style="height:{max(100 * count / most, 1.5 if count else 0):.1f}%" '
        f'title="{html.escape(name)}: {count:,}"></i>'
        for name, count in bins
    )
    low, high = map(html.escape, ends)
    return (
        f'<figure class="histogram"><figcaption>{html.escape(title)}</figcaption><div class="cells">{cells}</div>'
        f'<div class="ends"><span>{low}</span><span>{high}</span></div></figure>'
    )
