"""Rows as HTML: chats whose tokens are coloured by loss weight, findings, figures. Knows no page and reads no file."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence

from swift.assembly.chat_view import Turn
from swift.data.linting import Finding

Say = Callable[[str], str]
"""An English text -> the text in the reader's language."""

LONGEST = 200_000
"""Characters of a sample that are shown. The others are counted."""
BINS = 12

STYLE = """
.rowchat { display: flex; flex-direction: column; gap: .4rem; margin: .6rem 0 1.2rem }
.rowchat div { border: 1px solid #8885; border-radius: .5rem; padding: .3rem .7rem .5rem; max-width: 52rem }
.rowchat .user { align-self: flex-end; background: #8881 } .rowchat .assistant { border-color: #2a7b4a88 }
.rowchat .template { border: 0; padding: 0 .7rem; opacity: .75 } .rowchat .template b { display: none }
.rowchat div > b { font-weight: 400; font-size: .78em; opacity: .8; display: block }
.rowchat pre { margin: 0; padding: 0; background: none; max-height: none; overflow: visible; font-size: .88em;
  white-space: pre-wrap; overflow-wrap: anywhere }
.rowchat .template pre { font-size: .74em }
.w { border-radius: .15rem } .w0 { opacity: .72 } .w1 { background: #22aa5538; box-shadow: inset 0 -1px #2a7b4a }
.w-low { background: #e0b00038; box-shadow: inset 0 -1px #9a7a00; font-style: italic }
.w-high { background: #dd443338; box-shadow: inset 0 -2px #c03020; font-weight: 600 }
.weights { font-size: .85em; display: flex; gap: 1rem; flex-wrap: wrap; margin: .5rem 0; max-width: none }
.weights .w { padding: 0 .3rem }
.finding { margin: .3rem 0; padding: .3rem .7rem; border-left: .25rem solid #c03020; background: #dd443318;
  overflow-wrap: anywhere } .finding.warning { border-color: #b08a00; background: #e0b00018 }
table.counts { width: 100%; max-width: 40rem; margin-bottom: 1rem } table.counts .bar { width: 55% }
table.counts svg { width: 100%; height: .8rem; display: block } table.counts rect { fill: #3a7bd5 }
table.counts td, table.counts th { padding: .1rem .5rem; text-align: left; font-weight: 400; border: 0 }
table.counts td.count { text-align: right; font-variant-numeric: tabular-nums }
table.counts caption { text-align: left; font-weight: 600; padding: .2rem .5rem }
"""


def chat(turns: Sequence[Turn], say: Say = str, longest: int = LONGEST) -> str:
    """A sample as a chat. Of a very long one the beginning, and the number of characters that are left out."""
    total, left = sum(len(piece.text) for turn in turns for piece in turn.pieces), longest
    shown: list[str] = []
    for turn in turns:
        pieces: list[str] = []
        for text, weight in turn.pieces:
            pieces.append(_piece(text[:left], weight))
            left -= min(left, len(text))
        role = f"<b>{html.escape(say(turn.role))}</b>"
        shown.append(f'<div class="{html.escape(turn.role)}">{role}<pre>{"".join(pieces)}</pre></div>')
        if not left:
            break
    if total > longest:
        shown.append(f"<p>… {total - longest:,} {html.escape(say('more characters, which are not shown'))}</p>")
    return f'<div class="rowchat">{"".join(shown)}</div>'


def _piece(text: str, weight: float | None) -> str:
    # a line break at the beginning of <pre> would be dropped
    written = html.escape(text).replace("\n", "&#10;").replace("\r", "&#13;")
    return f'<span class="w {_level(weight)}" title="x{weight:g}">{written}</span>' if weight is not None else written


def _level(weight: float) -> str:
    return "w0" if weight == 0 else "w1" if weight == 1 else "w-low" if weight < 1 else "w-high"


def legend(say: Say = str) -> str:
    """What the colours mean."""
    levels = ((0, "x0, not trained"), (0.5, "less than x1"), (1, "x1, trained"), (2, "more than x1, such as x2"))
    marks = "".join(
        f'<span class="w {_level(weight)}">{html.escape(say(meaning))}</span>' for weight, meaning in levels
    )
    return f'<p class="weights"><span>{html.escape(say("loss weight of each token:"))}</span>{marks}</p>'


def findings(found: Iterable[Finding]) -> str:
    """The errors and warnings of a row."""
    return "".join(
        f'<p class="finding{" warning" * each.warning}"><b>{html.escape(each.rule)}</b> {html.escape(each.message)}</p>'
        for each in found
    )


def bars(title: str, counts: Sequence[tuple[str, int]]) -> str:
    """A bar chart that is a table: a label, a bar and a number each."""
    most = max((count for _, count in counts), default=0) or 1
    lines = "".join(
        f'<tr><th scope="row">{html.escape(label)}</th><td class="bar"><svg aria-hidden="true">'
        f'<rect width="{100 * count / most:.1f}%" height="100%"/></svg></td><td class="count">{count:,}</td></tr>'
        for label, count in counts
    )
    return f'<table class="counts"><caption>{html.escape(title)}</caption>{lines}</table>'


def histogram(values: Sequence[int]) -> list[tuple[str, int]]:
    """Counts of values in at most BINS intervals whose width is 1, 2 or 5 times a power of ten."""
    if not values:
        return []
    lowest, highest = min(values), max(values)
    widths = (step * 10**power for power in range(16) for step in (1, 2, 5))
    width = next(each for each in widths if highest // each - lowest // each < BINS)
    counts = [0] * (highest // width - lowest // width + 1)
    for value in values:
        counts[value // width - lowest // width] += 1
    starts = [(lowest // width + at) * width for at in range(len(counts))]
    return [
        (f"{start:,}" if width == 1 else f"{start:,} - {start + width - 1:,}", count)
        for start, count in zip(starts, counts, strict=True)
    ]
