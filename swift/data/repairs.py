"""What single published data sets need before their rows are read. Knows no file and no hub.

A repair returns the row to read, or None for a row that the set's own filter leaves out.
"""

from __future__ import annotations

from collections.abc import Callable

from swift.data.rows import Row, parsed

Repair = Callable[[Row], Row | None]


def as_it_is(row: Row) -> Row | None:
    return row


def ms_bench(row: Row) -> Row | None:
    """Leaves out dialogues that name another assistant or hold pasted role marks, and the stock system text."""
    turns = row.get("conversations")
    if isinstance(turns, str):
        try:
            turns = parsed(turns)
        except ValueError:
            return row  # reading the row will say what is wrong with it
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return row
    for turn in turns:
        said = str(turn.get("value") or "").lower()
        if any(word in said for word in ("moss", "human:", "assistant:", "user:")):
            return None
    if turns and turns[0].get("from") == "system" and turns[0].get("value") == "You are a helpful assistant.":
        turns = turns[1:]
    return row | {"conversations": turns}


# A key of this table is the `rows` of an entry in datasets.toml.
REPAIRS: dict[str, Repair] = {"": as_it_is, "ms_bench": ms_bench}
