"""Keys of rows that are ignored: names, counts and first places. Knows no row format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from swift.system.nearest import closest

RULE = "unread-key"


class UnusedKey(NamedTuple):
    """An ignored key. `of`: "rows", "messages" or "calls"; `met`: its count; `file`, `line`: its first place."""

    source: str
    of: str
    key: str
    met: int
    file: str
    line: int
    near: str = ""

    @property
    def message(self) -> str:
        hint = f"; did you mean {self.near!r}?" if self.near else ""
        return f"the key {self.key!r} of {self.of} is ignored{hint}"

    @property
    def times(self) -> str:
        return "once" if self.met == 1 else f"{self.met} times"

    def __str__(self) -> str:
        return f"warning: {RULE}: {self.message} ({self.times}, first {self.file}:{self.line})"


class UnusedKeys:
    """Counts ignored keys per source. `known`: the keys that are read, for suggestions."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = sorted(known)
        self._found: dict[tuple[str, str, str], UnusedKey] = {}

    def add(self, source: str, file: str, line: int, of: str, key: str) -> None:
        """Counts one occurrence of a key."""
        known = self._found.get((source, of, key))
        if known is None:
            near = [] if key in self._known else closest(key, self._known, 1, cutoff=0.8)
            known = UnusedKey(source, of, key, 0, file, line, next(iter(near), ""))
        self._found[source, of, key] = known._replace(met=known.met + 1)

    def found(self) -> list[UnusedKey]:
        """Keys of messages and calls first: they may have been meant to change what is trained."""
        return sorted(self._found.values(), key=lambda key: key.of == "rows")
