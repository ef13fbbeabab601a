"""The words of the terminal dialogue: what each does, and which of them was meant. Knows no dialogue."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import takewhile

EXIT_WORDS = ("exit", "quit")
COMMANDS = {
    "help": "lists these words; so does ?",
    "reset-system": "the next entry is the new system prompt; an empty one restores the first",
    "multi-line": "an entry may have several lines; # at the end of a line ends it",
    "single-line": "a line is an entry",
    "clear": "forgets the dialogue; the system prompt stays",
    "exit": "leaves; so do quit and Ctrl-D",
}
KEYS = "Ctrl-C stops a reply, or clears what is typed; pressed twice at an empty prompt it leaves."


def help_text() -> str:
    """A line for each word, and one for the keys."""
    width = max(map(len, COMMANDS))
    lines = [f"{name:<{width}}  {meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join([*lines, KEYS])


def closest_command(entry: str, is_observation: bool = False) -> str | None:
    """The command that one or two words were perhaps meant to be. An observation may be any short word."""
    if len(entry.split()) > 2:
        return None
    word = "-".join(entry.removeprefix("/").replace("_", " ").split())
    long = [name for name in COMMANDS if "-" in name]
    short = [] if is_observation else [name for name in (*COMMANDS, *EXIT_WORDS) if _a_slip_away(word, name)]
    return next(iter([*difflib.get_close_matches(word, long, n=1, cutoff=0.8), *short]), None)


def _a_slip_away(word: str, name: str) -> bool:
    """Whether one letter of `word` is wrong, missing or too many, or two are exchanged."""
    start = _same(word, name)
    end = _same(reversed(word[start:]), reversed(name[start:]))
    left, right = word[start : len(word) - end], name[start : len(name) - end]
    return max(len(left), len(right)) <= 1 or (len(left) == 2 and left == right[::-1])


def _same(left: Iterable[str], right: Iterable[str]) -> int:
    """How many letters two texts begin with in common."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))))
