"""What `swift agent run` and `swift data review` say about a row, and which rows are not trained. Writes none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRACE = "trace"
ANSWER = "answer"


def trace_of(row: object) -> Mapping[str, Any]:
    """The trace of a row: how its dialogue came about. Empty if it has none."""
    trace = row.get(TRACE) if isinstance(row, dict) else None
    is_trace = isinstance(trace, dict) and (
        isinstance(trace.get("outcome"), str) or isinstance(trace.get("review"), dict)
    )
    return trace if isinstance(trace, dict) and is_trace else {}


def why_untrained(row: object) -> str:
    """Why a row is not trained, "" if it is: its run ended without an answer, and nobody has reviewed it."""
    trace = trace_of(row)
    if not trace or trace.get("outcome") == ANSWER or trace.get("review"):
        return ""
    return f"the run ended without an answer ({trace['outcome']}); `swift data review` can correct it"
