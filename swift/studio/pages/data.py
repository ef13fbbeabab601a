"""The page `data`."""

from __future__ import annotations

from swift.studio import layout
from swift.studio.settings import Studio


def content(studio: Studio) -> None:
    layout.empty(studio, studio.say("Nothing here yet"))
