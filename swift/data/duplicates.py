"""Finds duplicate dialogues. Stores a hash and a place per dialogue, never the dialogue itself."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from swift.chat import Conversation, Preference

CAPACITY = 1_000_000
"""Dialogues that are stored (100 MB). Later dialogues are only compared with these."""


class DuplicateIndex:
    """The dialogues of one run, across all its files."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}  # hash of a dialogue -> file number << 40 | line
        self._files: list[Path] = []

    @property
    def full(self) -> bool:
        return len(self._places) >= CAPACITY

    def first_place(self, found: Conversation, file: Path, line: int) -> str:
        """FILE:LINE of the first equal dialogue; "" if there is none, or if it is this very row."""
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
        if isinstance(found, Preference):
            said += [found.prompt, found.label, *((each.content, each.tool_calls) for each in found.rejected)]
        said += found.images
        key = hash(tuple(said))
        place = self._places.get(key)
        if place is None:
            if not self.full:
                self._places[key] = len(self._files) - 1 << 40 | line
            return ""
        first, at = self._files[place >> 40], place & (1 << 40) - 1
        return "" if at == line and first.resolve() == file.resolve() else f"{first}:{at}"
