"""Dialogues that were read before. Keeps no dialogue, only a number of each and where it stood."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from swift.chat import Conversation

MOST = 1_000_000
"""Dialogues that are remembered: 100 MB. Among later ones only their repetitions of these are found."""


class Seen:
    """The dialogues of one run, over all its files."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}  # hash of a dialogue -> file and line in one number
        self._files: list[Path] = []

    @property
    def full(self) -> bool:
        return len(self._places) >= MOST

    def before(self, found: Conversation, file: Path, line: int) -> str:
        """The first place of the same dialogue, "" where there is none or where it is this very row."""
        if not self._files or self._files[-1] is not file:
            self._files.append(file)
        said: list[Hashable] = [message.content for message in found.messages]
        if found.tools:
            said += [repr(tool.spec) for tool in found.tools]
            said += [message.tool_calls for message in found.messages]
        if any(message.reasoning for message in found.messages):
            said += [message.reasoning for message in found.messages]
        if found.template_kwargs:
            said.append(repr(sorted(found.template_kwargs.items())))
        said += found.images
        key = hash(tuple(said))
        place = self._places.get(key)
        if place is None:
            if not self.full:
                self._places[key] = len(self._files) - 1 << 40 | line
            return ""
        first, at = self._files[place >> 40], place & (1 << 40) - 1
        return "" if at == line and first.resolve() == file.resolve() else f"{first}:{at}"
