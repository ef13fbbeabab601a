"""What the rows of a command are: how one is read, and how it is validated. Knows no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from swift.chat import Conversation
from swift.data import rows
from swift.data.row_values import RowWarning
from swift.data.validate import validate


class RowFormat(NamedTuple):
    """`read(row, renamed columns, on_unused)` and `validate(conversation)`; both raise BadRow."""

    read: Callable[[Any, Mapping[str, str], rows.OnUnusedKey], Conversation]
    validate: Callable[[Conversation], list[RowWarning]]


DIALOGUES = RowFormat(rows.read, validate)
"""Dialogues, whose replies are trained."""
