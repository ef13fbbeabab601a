"""The page of `swift data show --html`: findings, figures, and rows as chats. Reads no file and renders no row."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from swift.assembly import sample_html
from swift.assembly.chat_view import turns
from swift.assembly.sample_view import SEVERAL, Shown, summary
from swift.data.linting import Finding, Report
from swift.data.row_kinds import kind_of
from swift.data.rules import RULES
from swift.pages import document, elements
from swift.pages.elements import Fact
from swift.system.atomic_write import atomic_file

ROWS = 200
"""Rows on a page. The others are in the figures and findings."""
FINDINGS = 1000


class RowsPage:
    """Collects rows one after another. `warn` is to be called with each warning before its row is shown.

    `only`: one row was chosen, so findings of others are left out.
    """

    def __init__(self, file: Path, title: str, say: Callable[[str], None], only: bool = False) -> None:
        self._file, self._title, self._say, self._only = file, title, say, only
        self._rows: list[str] = []
        self._total, self._lengths, self._trained = 0, list[int](), 0
        self._kinds: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._warnings: list[Finding] = []
        self._places: dict[tuple[str, int], int] = {}
        self._pending: list[Finding] = []
        self._refused: list[str] = []

    def warn(self, finding: Finding) -> None:
        self._pending.append(finding)
        if len(self._warnings) < FINDINGS:
            self._warnings.append(finding)

    def refuse(self, reason: str) -> None:
        """A row that cannot be rendered, or is too long."""
        self._refused.append(reason)

    def show(self, shown: Shown) -> None:
        if shown.number == 1:
            self._begin(shown)
        self._lengths.append(len(shown.rendered.sample.tokens))
        self._trained += shown.rendered.sample.trained
        if self._total > ROWS:
            return
        which = f"sample {shown.number} of {shown.of}: " if shown.of > 1 else ""
        cut = ", its oldest part cut off" if shown.cut else ""
        line = elements.text(f"{which}{summary(shown.rendered.sample)}{cut}")
        self._rows.append(line + sample_html.chat(turns(shown.conversation, shown.rendered)))

    def _begin(self, shown: Shown) -> None:
        self._total += 1
        self._kinds[kind_of(shown.conversation)] += 1
        self._sources[shown.source] += 1
        found = [each for each in self._pending if each.line == shown.line]
        self._pending.clear()
        if self._total > ROWS:
            return
        self._places.update(dict.fromkeys(((each.file, each.line) for each in found), self._total))
        place = html.escape(f"{shown.source}:{shown.line}")
        why = elements.text(SEVERAL) if shown.of > 1 else ""
        self._rows.append(f'<h3 id="row-{self._total}">{place}</h3>{sample_html.findings(found)}{why}')

    def write(self, report: Report) -> None:
        """Writes the page. `report`: of all rows that were read."""
        found = [*report.findings, *self._warnings]
        unread = [str(each) for each in report.unused_keys.found()]
        if self._only:
            found, unread = [each for each in self._warnings if self._place(each)], []
        sections = [document.Section("Lint", self._lint(found, unread))]
        if self._refused:
            items = "".join(f"<li>{html.escape(each)}</li>" for each in self._refused[:FINDINGS])
            sections.append(document.Section("Rows that are not trained", f"<ul>{items}</ul>"))
        sections.append(document.Section("Lengths and mixture", self._figures()))
        sections.append(document.Section("Rows", self._shown()))
        with atomic_file(self._file) as written:
            written.write_text(document.render(self._title, sections, kind="rows"), encoding="utf-8")
        self._say(f"{self._file}: {min(self._total, ROWS)} of {self._total} rows")

    def _lint(self, found: Sequence[Finding], unread: Sequence[str]) -> str:
        if not found and not unread:
            return elements.text("nothing wrong")
        remedies = {rule.name: rule for rule in RULES}
        counts = Counter((each.rule, "warning" if each.warning else "error") for each in found)
        rows = [
            (rule, kind, number, remedies[rule].remedy.replace("`", "") if rule in remedies else "")
            for (rule, kind), number in counts.most_common()
        ]
        table = elements.table(("rule", "", "rows", "remedy"), rows)
        lines = "".join(f"<li>{self._linked(each)}</li>" for each in found[:FINDINGS])
        lines += "".join(f"<li>{html.escape(each)}</li>" for each in unread)
        more = f" The first {FINDINGS:,} are listed." if len(found) > FINDINGS else ""
        return table + elements.details(f"{len(found) + len(unread):,} findings.{more}", f"<ul>{lines}</ul>")

    def _place(self, finding: Finding) -> int | None:
        return self._places.get((finding.file, finding.line))

    def _linked(self, finding: Finding) -> str:
        """A finding; one of a row that is shown is a link to it."""
        text, place = html.escape(str(finding)), self._place(finding)
        return f'<a href="#row-{place}">{text}</a>' if place else text

    def _figures(self) -> str:
        if not self._lengths:
            return elements.text("no row is shown")
        total = sum(self._lengths)
        numbers = [
            Fact("rows", f"{self._total:,}"),
            Fact("samples", f"{len(self._lengths):,}"),
            Fact("tokens", f"{total:,}"),
            Fact("trained tokens", f"{self._trained / max(total, 1):.0%}", f"{self._trained:,}"),
            Fact("longest sample", f"{max(self._lengths):,}", "tokens"),
        ]
        charts = [
            sample_html.bars("Tokens of a sample", sample_html.histogram(self._lengths)),
            sample_html.bars("Kinds of rows", self._kinds.most_common()),
        ]
        if len(self._sources) > 1:
            charts.append(sample_html.bars("Sources", self._sources.most_common()))
        return elements.facts(numbers) + "".join(charts)

    def _shown(self) -> str:
        note = f"The first {ROWS} of {self._total:,} rows; --row N shows another." if self._total > ROWS else ""
        style = f"<style>{sample_html.STYLE}</style>"
        return f"{style}{elements.text(note) if note else ''}{sample_html.legend()}{''.join(self._rows)}"
