"""LoRA adapters that are served beside a model, each with the calibration of its checkpoint. Knows no server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from swift.infer.local_chat import LocalChat


class _Engine(Protocol):
    def add_adapter(self, name: str, source: str) -> None: ...
    def remove_adapter(self, name: str) -> None: ...


class CalibratedAdapters:
    """Adds adapters to an engine, and their calibrations to the chat in front of it."""

    def __init__(self, engine: _Engine, chat: LocalChat) -> None:
        self._engine, self._chat = engine, chat

    def add_adapter(self, name: str, folder: str) -> None:
        """Raises ValueError for a damaged calibration, and as the engine does."""
        from swift.infer.calibration_file import read_calibration

        calibration = read_calibration(Path(folder).expanduser())
        self._engine.add_adapter(name, folder)
        if calibration:
            self._chat.calibrations[name] = calibration

    def remove_adapter(self, name: str) -> None:
        self._engine.remove_adapter(name)
        self._chat.calibrations.pop(name, None)
