"""The commands of the terminal dialogue: their help text and their spelling. Knows no dialogue."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import takewhile

EXIT_WORDS = ("exit", "quit")
COMMANDS = {
    "help": "list these commands (also: ?)",
    "reset-system": "the next entry becomes the system prompt; an empty one restores the first",
    "multi-line": "an entry may span several lines; # at the end of a line ends it",
    "single-line": "each line is an entry",
    "clear": "clear the dialogue; the system prompt stays",
    "exit": "leave (also: quit, Ctrl-D)",
}
KEYS = "Ctrl-C stops a reply or clears the line; twice at an empty prompt, it leaves."


def help_text() -> str:
    """A line for each command, and one for the keys."""
    width = max(map(len, COMMANDS))
    lines = [f"{name:<{width}}  {meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join([*lines, KEYS])


def closest_command(entry: str, is_observation: bool = False) -> str | None:
    """The command that an entry of one or two words misspells, if any. An observation may be any short word."""
    if len(entry.split()) > 2:
        return None
    word = "-".join(entry.removeprefix("/").replace("_", " ").split())
    long = [name for name in COMMANDS if "-" in name]
    short = [] if is_observation else [name for name in (*COMMANDS, *EXIT_WORDS) if _one_typo_apart(word, name)]
    return next(iter([*difflib.get_close_matches(word, long, n=1, cutoff=0.8), *short]), None)


def _one_typo_apart(word: str, name: str) -> bool:
    """Whether one letter of `word` is wrong, missing or superfluous, or two are swapped."""
    start = _common_prefix(word, name)
    end = _common_prefix(reversed(word[start:]), reversed(name[start:]))
    left, right = word[start : len(word) - end], name[start : len(name) - end]
    return max(len(left), len(right)) <= 1 or (len(left) == 2 and left == right[::-1])


def _common_prefix(left: Iterable[str], right: Iterable[str]) -> int:
    """The length of the common prefix."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))))
