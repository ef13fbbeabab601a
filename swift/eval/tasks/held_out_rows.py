"""The rows of `--dataset` for evaluation, or generated dialogues where none is given. Knows no task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from swift.chat import Conversation
from swift.data import demo_rows
from swift.data.linting import Report, checked
from swift.data.preprocessors import Preprocessor, as_rows
from swift.data.row_values import BadRow, Row, first
from swift.data.rows import DIALOGUE_KEYS
from swift.data.sources import resolve
from swift.eval.task import Settings

EXPECTED = "expected"
GENERATED = 60
"""Dialogues that are generated where no row is given."""
NO_CALL_TEXT = "(no call)"
"""The reply of a row whose `expected` is empty; it only says that no call is right."""


def load(settings: Settings, style: demo_rows.Style) -> tuple[list[Conversation], str]:
    """(conversations, what they are). `style`: how generated dialogues write tools and calls.

    Bad rows are named and left out. Raises ValueError or OSError for data that cannot be read, and if no row is good.
    """
    if not settings.dataset:
        rows = demo_rows.agent_rows(GENERATED, settings.seed, held_out=True, style=style, rounds=(1, 1))
        numbered = [replace(row, source="generated", line=number) for number, row in enumerate(rows, 1)]
        return numbered, f"{GENERATED} generated dialogues with tools that `swift demo` does not train on"
    report = Report()
    found: list[Conversation] = []
    for name in settings.dataset:
        source = resolve(name)
        source = replace(source, preprocess=_with_expected(source.preprocess))
        rows = list(checked(source, "warning", report, settings.say))
        found += rows if source.count is None else rows[: source.count]
    if not found:
        raise ValueError(f"--dataset {' '.join(settings.dataset)}: no row is good")
    for line in report.warnings():
        settings.say(line)
    return found, f"{len(found)} rows of {', '.join(settings.dataset)}"


def _with_expected(preprocess: Preprocessor) -> Preprocessor:
    """`preprocess`, and rows with `expected` calls as dialogues that end with these calls."""

    def rows(row: Row) -> Sequence[Row]:
        return [_completed(each) if EXPECTED in each else each for each in as_rows(preprocess(row))]

    return rows


def _completed(row: Row) -> Row:
    """`{messages, tools, expected}` as a row whose last message is the right one; no other is a question."""
    key = first(row, DIALOGUE_KEYS)
    items = row[key] if key else None
    if key is None or not isinstance(items, list):
        raise BadRow("wrong-type", "a row with 'expected' needs 'messages', a list")
    calls = _calls(row[EXPECTED])
    last: dict[str, Any] = {"role": "assistant", "content": "" if calls else NO_CALL_TEXT}
    before = [{**item, "weight": 0} if _is_reply(item) else item for item in items]
    kept = {name: value for name, value in row.items() if name != EXPECTED}
    return kept | {key: [*before, last | ({"tool_calls": calls} if calls else {})]}


def _calls(value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadRow("bad-call", f"'expected' is not JSON: {error}") from None
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _is_reply(item: Any) -> bool:
    return isinstance(item, dict) and item.get("role") == "assistant"
