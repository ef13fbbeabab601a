"""General questions and answers, which keep a model's general ability. Knows no tools."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path


@cache
def general_rows(split: str = "train") -> tuple[dict[str, str], ...]:
    """The rows of general.jsonl: `query` and `response`. The split "test" is never trained on."""
    lines = Path(__file__).with_name("general.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return tuple(row for row in rows if row.get("split", "train") == split)
