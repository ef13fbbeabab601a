"""What is wrong with a row, and what becomes of it. Knows no row shape, no sampling and no tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from swift import images
from swift.chat import Conversation
from swift.data import rows
from swift.data.fields import BadRow, Row
from swift.data.repairs import outcome
from swift.data.sources import Source, data_files, read_rows

Strategy = Literal["none", "discard", "error", "warning"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Say = Callable[[str], None]

FATES = ("read", "kept", "bad", "filtered")


class Finding(NamedTuple):
    """A bad row and where it stands; line 0 is a file that cannot be read."""

    file: str
    line: int
    rule: str
    message: str
    excerpt: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.rule}: {self.message}" + (f": {self.excerpt}" if self.excerpt else "")


@dataclass
class Report:
    """What became of every row: `rows[source][fate]`.

    Fates: read; kept; bad (broke a rule); filtered (left out by the set's own filter).
    """

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    rules: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    columns_met: set[str] = field(default_factory=set)

    def count(self, source: str, fate: str, number: int = 1) -> None:
        assert fate in FATES, fate
        self.rows.setdefault(source, Counter())[fate] += number

    def add(self, source: str, finding: Finding) -> None:
        self.count(source, "bad")
        self.rules[finding.rule] += 1
        self.findings.append(finding)

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
        return found

    def as_dict(self) -> dict[str, object]:
        """The report as JSON: the counts, the rules, every bad row and the remarks."""
        return {
            "rows": {source: {fate: counts[fate] for fate in FATES} for source, counts in self.rows.items()},
            "rules": dict(self.rules),
            "findings": [finding._asdict() for finding in self.findings],
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
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"--check_dataset_strategy {strategy}: choose one of {', '.join(STRATEGIES)}")
    read = rows.read if strategy == "none" else rows.conversation
    renamed = {**source.columns, **(columns or {})}
    report.count(source.name, "read", 0)
    for file in source.files:
        for line, row in read_rows(file):
            report.count(source.name, "read")
            if columns and isinstance(row, dict):
                report.columns_met.update(columns.keys() & row.keys())
            try:
                found = _conversations(source, file, row, read, renamed)
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
            yield from (replace(conversation, source=source.name, line=line) for conversation in found)


def lint(paths: Iterable[str | Path], columns: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Everything that is wrong in files and in the files of folders; one bad file does not hide the next."""
    for path in paths:
        try:
            files = data_files(Path(path))
        except (ValueError, OSError) as error:
            yield Finding(str(path), 0, "unreadable-file", str(error))
            continue
        for file in files:
            yield from _lint_file(file, columns)


def _lint_file(file: Path, columns: Mapping[str, str] | None) -> Iterator[Finding]:
    source = Source(str(file), (file,))
    try:
        for line, row in read_rows(file):
            try:
                _conversations(source, file, row, rows.conversation, columns or {})
            except BadRow as bad:
                yield _finding(file, line, row, bad)
    except ValueError as error:
        yield Finding(str(file), 0, "unreadable-file", str(error).removeprefix(f"{file}: "))


def _conversations(
    source: Source,
    file: Path,
    row: Row | BadRow,
    read: Callable[[Row, Mapping[str, str]], Conversation],
    columns: Mapping[str, str],
) -> list[Conversation]:
    """None where the set's own filter leaves the row out; several where one row holds several."""
    if isinstance(row, BadRow):
        raise row
    return [_with_images(read(repaired, columns), file.parent) for repaired in outcome(source.repair(row))]


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
    excerpt = bad.excerpt if isinstance(row, BadRow) else json.dumps(row, ensure_ascii=False, default=str)
    short = excerpt if len(excerpt) <= 120 else excerpt[:117] + "..."
    return Finding(str(file), line, bad.rule, bad.message, short.replace("\n", " "))
