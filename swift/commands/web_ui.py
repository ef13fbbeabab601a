"""Web pages to train, watch runs, edit data, chat, evaluate and serve: another name of swift studio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from swift.commands import studio


@dataclass(frozen=True)
class Config(studio.Config):
    example: ClassVar[str] = "swift web-ui --port 0"


main = studio.main
