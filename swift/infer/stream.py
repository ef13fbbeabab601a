"""A token stream -> text that is safe to show: whole characters, nothing after a stop text. Knows no messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

BROKEN = "\ufffd"
"""What a decoder writes for bytes that do not make a character (yet)."""


class Ending(NamedTuple):
    """A text that ends a reply, and whether it stays in it."""

    text: str
    keep: bool


class Detokenizer:
    """Turns tokens into text one by one, never half a character.

    `before`: the last tokens of the prompt. Some decoders drop the space before the first word they see.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._shown = list(before)  # tokens whose text is out, kept as context
        self._new: list[int] = []

    def push(self, token: int) -> str:
        self._new.append(token)
        return self._text(final=False)

    def flush(self) -> str:
        """What is still held: at the end of a reply even a broken character is shown."""
        return self._text(final=True) if self._new else ""

    def _text(self, final: bool) -> str:
        before, whole = self._decode(self._shown), self._decode(self._shown + self._new)
        if not final and (len(whole) <= len(before) or whole.endswith(BROKEN)):
            return ""
        self._shown, self._new = self._new, []
        return whole[len(before) :]


class Gate:
    """Lets text through up to the first of `endings`; holds back what may be the beginning of one."""

    def __init__(self, endings: Sequence[Ending]) -> None:
        self._endings = tuple(endings)
        self._held = ""
        self.ended: Ending | None = None

    def push(self, text: str) -> str:
        if self.ended is not None:
            return ""
        self._held += text
        # The first to begin wins, and of those the longest.
        found = [
            (at, -len(ending.text), ending) for ending in self._endings if (at := self._held.find(ending.text)) >= 0
        ]
        if found:
            at, _, self.ended = min(found)
            passed = self._held[: at + len(self.ended.text) * self.ended.keep]
            self._held = ""
            return passed
        hold = max((held_back(self._held, ending.text) for ending in self._endings), default=0)
        cut = len(self._held) - hold
        passed, self._held = self._held[:cut], self._held[cut:]
        return passed

    def flush(self) -> str:
        """What is still held: the reply is over, so it was no ending."""
        passed, self._held = self._held, ""
        return passed


class Stream:
    """Tokens -> text: a Detokenizer, then a Gate. `ended` is the ending that was met, if any."""

    def __init__(
        self, decode: Callable[[list[int]], str], endings: Sequence[Ending] = (), before: Sequence[int] = ()
    ) -> None:
        self._characters = Detokenizer(decode, before)
        self._gate = Gate(endings)

    @property
    def ended(self) -> Ending | None:
        return self._gate.ended

    def push(self, token: int) -> str:
        return self._gate.push(self._characters.push(token))

    def flush(self) -> str:
        return self._gate.push(self._characters.flush()) + self._gate.flush()


class Talk:
    """Splits a reply that may call tools into what can be shown at once and what must wait for its end.

    From a call mark on everything waits, and so does white space at the end: it may stand before a mark.
    """

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = tuple(marks)
        self._mark = re.compile("|".join(map(re.escape, marks)) or r"(?!)", re.IGNORECASE)
        self.whole = ""
        self._shown = 0

    def push(self, text: str) -> str:
        self.whole += text
        rest = self.whole[self._shown :]
        found = self._mark.search(rest)
        held = max((held_back(rest, mark) for mark in self._marks), default=0)
        showable = rest[: found.start() if found else len(rest) - held].rstrip()
        self._shown += len(showable)
        return showable

    def rest(self, content: str) -> str:
        """What of the reply's final `content` has not been shown."""
        return content[self._shown :]


def held_back(text: str, mark: str) -> int:
    """The length of the longest end of `text` that may be a beginning of `mark`, in any letter case."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    return next((size for size in sizes if text[-size:].lower() == mark[:size].lower()), 0)
