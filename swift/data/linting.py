"""What is wrong with a row, and what becomes of it. Knows no row shape, no sampling and no tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from swift import images
from swift.chat import Conversation
from swift.data import rows
from swift.data.duplicates import MOST, Seen
from swift.data.preprocessors import as_it_is, outcome
from swift.data.readers import read_rows
from swift.data.row_values import BadRow, Row, RowWarning
from swift.data.sources import Source, data_files
from swift.data.unused_keys import RULE, Unread
from swift.data.validate import examine

Strategy = Literal["none", "discard", "error", "warning"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Say = Callable[[str], None]
Look = Callable[[Conversation, Path, int], tuple[Conversation, list[RowWarning]]]
"""Makes sure of a conversation of a file's line: the conversation with its images, and what looks odd in it."""

FATES = ("read", "kept", "bad", "filtered")


class Finding(NamedTuple):
    """A bad row, or one that looks odd (`warning`), and where it stands; line 0 is a file that cannot be read."""

    file: str
    line: int
    rule: str
    message: str
    excerpt: str = ""
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        rule = f"warning: {self.rule}" if self.warning else self.rule
        return f"{where}: {rule}: {self.message}" + (f": {self.excerpt}" if self.excerpt else "")


class WarningCount(NamedTuple):
    """How many rows look odd in one way, and the first of them."""

    rows: int
    first: Finding


@dataclass
class Report:
    """What became of every row: `rows[source][fate]`.

    Fates: read; kept; bad (broke a rule); filtered (left out by the set's own filter). `warned`: what looks odd in
    rows that are kept, by rule. `seen`: the dialogues that were read, to find those that come twice. `unread`: the
    keys that nobody reads. `notes`: remarks on files and on the choice of rows.
    """

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    rules: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    warned: dict[str, WarningCount] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    unread: Unread = field(default_factory=lambda: Unread(rows.KNOWN_KEYS))
    notes: list[str] = field(default_factory=list)
    columns_met: set[str] = field(default_factory=set)

    def count(self, source: str, fate: str, number: int = 1) -> None:
        assert fate in FATES, fate
        self.rows.setdefault(source, Counter())[fate] += number

    def add(self, source: str, finding: Finding) -> None:
        self.count(source, "bad")
        self.rules[finding.rule] += 1
        self.findings.append(finding)

    def warn(self, finding: Finding) -> None:
        known = self.warned.get(finding.rule)
        self.warned[finding.rule] = known._replace(rows=known.rows + 1) if known else WarningCount(1, finding)

    def total(self, fate: str) -> int:
        return sum(counts[fate] for counts in self.rows.values())

    def lines(self) -> list[str]:
        """The report for people: a line a source, then the rules that were broken."""
        shown = [fate for fate in FATES if fate in ("read", "kept") or self.total(fate)]
        found = []
        for source, counts in self.rows.items():
            found.append(f"{source}: " + ", ".join(f"{counts[fate]} {fate}" for fate in shown))
        if self.rules:
            found.append("bad rows by rule: " + ", ".join(f"{rule} {n}" for rule, n in self.rules.most_common()))
        return found + self.warnings()

    def warnings(self) -> list[str]:
        """A line for each way in which rows look odd, and for each key that nobody reads: how many, and the first."""
        found = [
            f"warning: {rule}: {rows} row{'s' * (rows > 1)}, first {first.file}:{first.line}: {first.message}"
            for rule, (rows, first) in self.warned.items()
        ]
        if self.seen.full:
            found.append(f"warning: rows that come twice were looked for among the first {MOST:,} different ones")
        return found + [str(key) for key in self.unread.found()]

    def as_dict(self) -> dict[str, object]:
        """The report as JSON: the counts, the rules, every bad row and the remarks."""
        return {
            "rows": {source: {fate: counts[fate] for fate in FATES} for source, counts in self.rows.items()},
            "rules": dict(self.rules),
            "findings": [finding._asdict() for finding in self.findings],
            "warnings": {rule: {"rows": rows, "first": first._asdict()} for rule, (rows, first) in self.warned.items()},
            "unread_keys": [key._asdict() for key in self.unread.found()],
            "notes": list(self.notes),
        }


def checked(
    source: Source, strategy: Strategy, report: Report, say: Say, columns: Mapping[str, str] | None = None
) -> Iterator[Conversation]:
    """The good rows of a source; the others are counted, and named as `strategy` wants.

    none     rows are read but not examined; one that is no dialogue at all is left out and named
    discard  bad rows are left out and counted
    warning  bad rows are left out, counted and named
    error    the first bad row ends the run: ValueError

    Rows that look odd are kept, and `report.warned` counts them; `none` looks for no such rows.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"--check_dataset_strategy {strategy}: choose one of {', '.join(STRATEGIES)}")
    look = _nothing if strategy == "none" else partial(_looked_at, report.seen)
    renamed = {**source.columns, **(columns or {})}
    report.count(source.name, "read", 0)

    def note(remark: str) -> None:
        report.notes.append(remark)
        say(remark)

    for file in source.files:
        for line, row in read_rows(file, note):
            report.count(source.name, "read")
            if columns and isinstance(row, dict):
                report.columns_met.update(columns.keys() & row.keys())
            try:
                hear = partial(report.unread.add, source.name, str(file), line)
                found = _conversations(source, file, line, row, look, renamed, hear)
            except BadRow as bad:
                finding = _finding(file, line, row, bad)
                report.add(source.name, finding)
                if strategy == "error":
                    raise ValueError(str(finding)) from None
                if strategy != "discard":
                    say(str(finding))
                continue
            if not found:
                report.count(source.name, "filtered")
            report.count(source.name, "kept", len(found))
            for conversation, odd in found:
                if odd:
                    for oddity in {each.rule: each for each in reversed(odd)}.values():
                        report.warn(_warning(file, line, row, oddity))
                yield replace(conversation, source=source.name, line=line)


def lint(paths: Iterable[str | Path], columns: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """All that is wrong or odd in files and in the files of folders; one bad file does not hide the next."""
    seen = Seen()
    for path in paths:
        try:
            files = data_files(Path(path))
        except (ValueError, OSError) as error:
            yield Finding(str(path), 0, "unreadable-file", str(error))
            continue
        for file in files:
            yield from _lint_file(file, columns, seen)


def _lint_file(file: Path, columns: Mapping[str, str] | None, seen: Seen) -> Iterator[Finding]:
    source, look = Source(str(file), (file,)), partial(_looked_at, seen)
    unread, notes = Unread(rows.KNOWN_KEYS), list[str]()
    try:
        for line, row in read_rows(file, notes.append):
            try:
                hear = partial(unread.add, source.name, str(file), line)
                found = _conversations(source, file, line, row, look, columns or {}, hear)
            except BadRow as bad:
                yield _finding(file, line, row, bad)
                continue
            for oddity in (oddity for _, odd in found for oddity in odd):
                yield _warning(file, line, row, oddity)
    except ValueError as error:
        yield Finding(str(file), 0, "unreadable-file", str(error).removeprefix(f"{file}: "))
    for remark in notes:
        yield Finding(str(file), 0, "csv-separator", remark.removeprefix(f"{file}: "), warning=True)
    for key in unread.found():
        yield Finding(str(file), key.line, RULE, f"{key.message} ({key.times})", warning=True)


def _conversations(
    source: Source,
    file: Path,
    line: int,
    row: Row | BadRow,
    look: Look,
    columns: Mapping[str, str],
    unread: rows.Unread,
) -> list[tuple[Conversation, list[RowWarning]]]:
    """The row's conversations: none where the set's own filter leaves it out, several where it holds several."""
    if isinstance(row, BadRow):
        raise row
    hear = unread if source.repair is as_it_is else partial(_not_of_rows, unread)
    return [look(rows.read(repaired, columns, hear), file, line) for repaired in outcome(source.repair(row))]


def _not_of_rows(unread: rows.Unread, of: str, key: str) -> None:
    """A set's own row function reads what keys of rows it likes."""
    if of != "rows":
        unread(of, key)


def _nothing(found: Conversation, file: Path, line: int) -> tuple[Conversation, list[RowWarning]]:
    return _with_images(found, file.parent), []


def _looked_at(seen: Seen, found: Conversation, file: Path, line: int) -> tuple[Conversation, list[RowWarning]]:
    odd = examine(found)
    found = _with_images(found, file.parent)
    if before := seen.before(found, file, line):
        odd.append(RowWarning("duplicate-row", f"the same dialogue stands in {before}"))
    return found, odd


def _with_images(found: Conversation, folder: Path) -> Conversation:
    """The conversation with images that can be opened; their paths begin at the data file's folder."""
    if not found.images:
        return found
    try:
        shown = images.read_all(found.messages, images.Access(folder, network="any", keep=images.kept()))
    except ValueError as error:
        raise BadRow("bad-image", str(error)) from None
    return found.with_messages(tuple(shown))


def _finding(file: Path, line: int, row: Row | BadRow, bad: BadRow) -> Finding:
    return Finding(str(file), line, bad.rule, bad.message, _excerpt(row, bad.excerpt))


def _warning(file: Path, line: int, row: Row | BadRow, oddity: RowWarning) -> Finding:
    return Finding(str(file), line, oddity.rule, oddity.message, _excerpt(row), warning=True)


def _excerpt(row: Row | BadRow, text: str = "") -> str:
    """What a row begins with; `text` where there is no row to take it from."""
    excerpt = text if isinstance(row, BadRow) else json.dumps(row, ensure_ascii=False, default=str)
    short = excerpt if len(excerpt) <= 120 else excerpt[:117] + "..."
    return short.replace("\n", " ").encode(errors="backslashreplace").decode()
