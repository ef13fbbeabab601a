"""Keys of rows that nobody reads: which they are, how often they come and where first. Knows no row shape."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

RULE = "unread-key"


class Key(NamedTuple):
    """A key that nobody reads. `of`: rows, messages or calls have it. `met`: how often; `file`, `line`: where first."""

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
        return f"the key {self.key!r} of {self.of} is not read{hint}"

    @property
    def times(self) -> str:
        return "once" if self.met == 1 else f"{self.met} times"

    def __str__(self) -> str:
        return f"warning: {RULE}: {self.message} ({self.times}, first {self.file}:{self.line})"


class Unread:
    """The keys met so far, each counted for each source. `known` are the keys that are read, for a hint."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = sorted(known)
        self._found: dict[tuple[str, str, str], Key] = {}

    def add(self, source: str, file: str, line: int, of: str, key: str) -> None:
        """Counts one key of a row of a file."""
        known = self._found.get((source, of, key))
        if known is None:
            near = [] if key in self._known else difflib.get_close_matches(key, self._known, 1, cutoff=0.8)
            known = Key(source, of, key, 0, file, line, next(iter(near), ""))
        self._found[source, of, key] = known._replace(met=known.met + 1)

    def found(self) -> list[Key]:
        """Those of messages and calls first, since they may have been meant to change what is trained."""
        return sorted(self._found.values(), key=lambda key: key.of == "rows")
