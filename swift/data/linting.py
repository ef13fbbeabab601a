"""Checks rows and reports errors and warnings. Knows no row format, no sampling and no tokenizer."""

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
from swift.data.duplicates import CAPACITY, DuplicateIndex
from swift.data.preprocessors import as_rows, unchanged
from swift.data.readers import read_rows
from swift.data.row_format import DIALOGUES, RowFormat
from swift.data.row_values import BadRow, Row, RowWarning
from swift.data.sources import Source, data_files
from swift.data.trace_rows import why_untrained
from swift.data.unused_keys import RULE, UnusedKeys

Strategy = Literal["none", "discard", "error", "warning"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Say = Callable[[str], None]
Validate = Callable[[Conversation, Path, int], tuple[Conversation, list[RowWarning]]]
"""(conversation, file, line) -> the conversation with its images, and its warnings. Raises BadRow."""

OUTCOMES = ("read", "kept", "bad", "filtered")


class Finding(NamedTuple):
    """An error or (`warning`) a warning, and its place. Line 0 means the whole file."""

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
    """The number of rows with a warning of one rule, and the first of them."""

    rows: int
    first: Finding


def _ignore(_: Finding) -> None:
    pass


@dataclass
class Report:
    """Counts of rows by source and outcome: `rows[source][outcome]`.

    Outcomes: read; kept; bad (an error); filtered (dropped by the data set's preprocessor, or a
    run without an answer). `warned`: warnings by rule. `seen`: finds duplicates. `unused_keys`: ignored keys.
    `notes`: remarks on files and sampling. `on_warning` is called with each warning about a row.
    """

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    rules: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    warned: dict[str, WarningCount] = field(default_factory=dict)
    seen: DuplicateIndex = field(default_factory=DuplicateIndex)
    unused_keys: UnusedKeys = field(default_factory=lambda: UnusedKeys(rows.KNOWN_KEYS))
    notes: list[str] = field(default_factory=list)
    columns_met: set[str] = field(default_factory=set)
    on_warning: Callable[[Finding], None] = field(default=_ignore, repr=False, compare=False)

    def count(self, source: str, outcome: str, number: int = 1) -> None:
        assert outcome in OUTCOMES, outcome
        self.rows.setdefault(source, Counter())[outcome] += number

    def add(self, source: str, finding: Finding) -> None:
        self.count(source, "bad")
        self.rules[finding.rule] += 1
        self.findings.append(finding)

    def warn(self, finding: Finding) -> None:
        self.on_warning(finding)
        known = self.warned.get(finding.rule)
        self.warned[finding.rule] = known._replace(rows=known.rows + 1) if known else WarningCount(1, finding)

    def total(self, outcome: str) -> int:
        return sum(counts[outcome] for counts in self.rows.values())

    def lines(self) -> list[str]:
        """The report as text: one line per source, then the errors by rule, then warnings."""
        shown = [outcome for outcome in OUTCOMES if outcome in ("read", "kept") or self.total(outcome)]
        found = []
        for source, counts in self.rows.items():
            found.append(f"{source}: " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in shown))
        if self.rules:
            found.append("bad rows by rule: " + ", ".join(f"{rule} {n}" for rule, n in self.rules.most_common()))
        return found + self.warnings()

    def warnings(self) -> list[str]:
        """One line per warning rule and per ignored key, with the count and the first place."""
        found = [
            f"warning: {rule}: {rows} row{'s' * (rows > 1)}, first {first.file}:{first.line}: {first.message}"
            for rule, (rows, first) in self.warned.items()
        ]
        if self.seen.full:
            found.append(f"warning: duplicates were only searched among the first {CAPACITY:,} different rows")
        return found + [str(key) for key in self.unused_keys.found()]

    def as_dict(self) -> dict[str, object]:
        """The report as JSON: counts, rules, every bad row, warnings and notes."""
        return {
            "rows": {
                source: {outcome: counts[outcome] for outcome in OUTCOMES} for source, counts in self.rows.items()
            },
            "rules": dict(self.rules),
            "findings": [finding._asdict() for finding in self.findings],
            "warnings": {rule: {"rows": rows, "first": first._asdict()} for rule, (rows, first) in self.warned.items()},
            "unread_keys": [key._asdict() for key in self.unused_keys.found()],
            "notes": list(self.notes),
        }


def checked(
    source: Source,
    strategy: Strategy,
    report: Report,
    say: Say,
    columns: Mapping[str, str] | None = None,
    row_format: RowFormat = DIALOGUES,
) -> Iterator[Conversation]:
    """The good rows of a source. Bad rows are counted, and reported according to `strategy`.

    none     rows are read but not validated; a row that is not a dialogue is dropped and reported
    discard  bad rows are dropped and counted
    warning  bad rows are dropped, counted and reported
    error    the first bad row raises ValueError

    Rows with warnings are kept; `report.warned` counts them, except with `none`.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"--check_dataset_strategy {strategy}: choose one of {', '.join(STRATEGIES)}")
    validated = _unvalidated if strategy == "none" else partial(_validated, row_format, report.seen)
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
                on_unused = partial(report.unused_keys.add, source.name, str(file), line)
                found = _conversations(source, file, line, row, row_format, validated, renamed, on_unused)
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
                for finding in _unanswered(file, line, row):
                    report.warn(finding)
            report.count(source.name, "kept", len(found))
            for conversation, warnings in found:
                if warnings:
                    for warning in {each.rule: each for each in reversed(warnings)}.values():
                        report.warn(_warning(file, line, row, warning))
                yield replace(conversation, source=source.name, line=line)


def lint(paths: Iterable[str | Path], columns: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Every error and warning in files and folders; an unreadable file does not hide the next."""
    seen = DuplicateIndex()
    for path in paths:
        try:
            files = data_files(Path(path))
        except (ValueError, OSError) as error:
            yield Finding(str(path), 0, "unreadable-file", str(error))
            continue
        for file in files:
            yield from _lint_file(file, columns, seen)


def _lint_file(file: Path, columns: Mapping[str, str] | None, seen: DuplicateIndex) -> Iterator[Finding]:
    linter, notes = Linter(file, columns, seen), list[str]()
    try:
        for line, row in read_rows(file, notes.append):
            yield from linter.row(line, row)
    except ValueError as error:
        yield unreadable(file, error)
    yield from linter.of_file(notes)


def unreadable(file: Path, error: ValueError) -> Finding:
    """The error of a file that cannot be read, or not to its end."""
    return Finding(str(file), 0, "unreadable-file", str(error).removeprefix(f"{file}: "))


class Linter:
    """Finds the errors and warnings of the rows of a file, which it is given one after another.

    `seen`: finds duplicates. `access`: the permitted sources of images; None: those of training.
    """

    def __init__(
        self,
        file: Path,
        columns: Mapping[str, str] | None = None,
        seen: DuplicateIndex | None = None,
        access: images.Access | None = None,
    ) -> None:
        self._file, self._columns, self._source = file, columns or {}, Source(str(file), (file,))
        self._validated = partial(_validated, DIALOGUES, seen or DuplicateIndex(), access=access)
        self._unread = UnusedKeys(rows.KNOWN_KEYS)

    def row(self, line: int, row: Row | BadRow) -> Iterator[Finding]:
        """The error of a row, or its warnings."""
        on_unused = partial(self._unread.add, self._source.name, str(self._file), line)
        try:
            found = _conversations(
                self._source, self._file, line, row, DIALOGUES, self._validated, self._columns, on_unused
            )
        except BadRow as bad:
            yield _finding(self._file, line, row, bad)
            return
        yield from _unanswered(self._file, line, row)
        for warning in (warning for _, warnings in found for warning in warnings):
            yield _warning(self._file, line, row, warning)

    def of_file(self, notes: Iterable[str] = ()) -> Iterator[Finding]:
        """The warnings about all rows so far: ignored keys, and the reader's remarks."""
        for remark in notes:
            yield Finding(str(self._file), 0, "csv-separator", remark.removeprefix(f"{self._file}: "), warning=True)
        for key in self._unread.found():
            yield Finding(str(self._file), key.line, RULE, f"{key.message} ({key.times})", warning=True)


def _conversations(
    source: Source,
    file: Path,
    line: int,
    row: Row | BadRow,
    row_format: RowFormat,
    validated: Validate,
    columns: Mapping[str, str],
    unread: rows.OnUnusedKey,
) -> list[tuple[Conversation, list[RowWarning]]]:
    """The conversations of a row: none if the preprocessor drops it, several if it returns several rows.

    None, too, for a run without an answer.
    """
    if isinstance(row, BadRow):
        raise row
    if why_untrained(row):
        return []
    on_unused = unread if source.preprocess is unchanged else partial(_below_rows, unread)
    return [validated(row_format.read(row, columns, on_unused), file, line) for row in as_rows(source.preprocess(row))]


def _below_rows(unread: rows.OnUnusedKey, of: str, key: str) -> None:
    """Ignores unused keys of rows: a preprocessor may read any of them."""
    if of != "rows":
        unread(of, key)


def _unvalidated(found: Conversation, file: Path, line: int) -> tuple[Conversation, list[RowWarning]]:
    return _with_images(found, file.parent), []


def _validated(
    row_format: RowFormat,
    seen: DuplicateIndex,
    found: Conversation,
    file: Path,
    line: int,
    access: images.Access | None = None,
) -> tuple[Conversation, list[RowWarning]]:
    warnings = row_format.validate(found)
    found = _with_images(found, file.parent, access)
    if before := seen.first_place(found, file, line):
        warnings.append(RowWarning("duplicate-row", f"the same dialogue is in {before}"))
    return found, warnings


def _with_images(found: Conversation, folder: Path, access: images.Access | None = None) -> Conversation:
    """The conversation with images that can be opened; paths are relative to the data file's folder."""
    if not found.images:
        return found
    access = access or images.Access(folder, network="any", keep=images.cache_folder())
    try:
        shown = images.read_all(found.messages, access)
    except ValueError as error:
        raise BadRow("bad-image", str(error)) from None
    return found.with_messages(tuple(shown))


def _finding(file: Path, line: int, row: Row | BadRow, bad: BadRow) -> Finding:
    return Finding(str(file), line, bad.rule, bad.message, _excerpt(row, bad.excerpt))


def _warning(file: Path, line: int, row: Row | BadRow, warning: RowWarning) -> Finding:
    return Finding(str(file), line, warning.rule, warning.message, _excerpt(row), warning=True)


def _unanswered(file: Path, line: int, row: Row | BadRow) -> Iterator[Finding]:
    """The warning about a run without an answer, which is not trained."""
    if reason := why_untrained(row):
        yield _warning(file, line, row, RowWarning("unanswered-run", reason))


def _excerpt(row: Row | BadRow, text: str = "") -> str:
    """The beginning of a row; of `text` if there is no row."""
    excerpt = text if isinstance(row, BadRow) else json.dumps(row, ensure_ascii=False, default=str)
    short = excerpt if len(excerpt) <= 120 else excerpt[:117] + "..."
    return short.replace("\n", " ").encode(errors="backslashreplace").decode()
