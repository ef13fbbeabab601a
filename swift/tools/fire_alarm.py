"""The tools of the tutorial's fire-alarm agent: one looks at a picture, the others write to a log. Calls nobody."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from swift.tools.errors import ToolError
from swift.tools.marks import read_only

__all__ = ["call_fireman", "call_police", "fire_alert", "fire_recognition"]

LOG_VARIABLE = "SWIFT_FIRE_ALARM_LOG"
"""Environment variable with the path of the log; without it, fire_alarm.log in the current folder."""
SHARE = 0.003
"""Share of the pixels that must have the colour of flames."""
LONGEST = 1024
"""Pixels of the longer side to which larger pictures are reduced."""


@read_only
def fire_recognition(image: str) -> list[dict[str, Any]]:
    """Call this tool to interact with the fire recognition API. This API is used to recognize whether there is fire in
    the image.

    Args:
        image: The input image to recognize fire
    """
    centre = flames(Path(image))
    return [{"coordinate": centre, "on_fire": centre is not None}]


def fire_alert() -> str:
    """Call this tool to interact with the fire alert API. This API will start an alert to warn the building's
    administraters."""
    return _log("fire_alert", "the administrators of the building are warned")


def call_police() -> str:
    """Call this tool to interact with the police calling API. This API will call 110 to catch the thief."""
    return _log("call_police", "110 is called")


def call_fireman() -> str:
    """Call this tool to interact with the fireman calling API. This API will call 119 to extinguish the fire."""
    return _log("call_fireman", "119 is called")


def flames(picture: Path) -> list[float] | None:
    """[x, y], in pixels from the top left, of the centre of all pixels with the colour of flames; None without fire.

    Only the colour counts, so a sunset or an orange wall is fire too. Raises ToolError for a file that is missing or no
    picture.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    if not picture.is_file():
        raise ToolError(f"there is no file {picture}")
    try:
        with Image.open(picture) as opened:
            width = opened.width
            opened.thumbnail((LONGEST, LONGEST))
            pixels = np.asarray(opened.convert("RGB"), dtype=np.int16)
    except (UnidentifiedImageError, OSError) as error:
        raise ToolError(f"{picture} is no picture that can be read: {error}") from None
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    burning = (red > 190) & (red - blue > 90) & (green > 50) & (red > green)  # from deep orange to yellow
    if burning.mean() < SHARE:
        return None
    rows, columns = np.nonzero(burning)
    scale = width / pixels.shape[1]
    return [round(float(columns.mean()) * scale, 1), round(float(rows.mean()) * scale, 1)]


def _log(name: str, deed: str) -> str:
    """Adds a line with the time to the log."""
    file = Path(os.environ.get(LOG_VARIABLE) or "fire_alarm.log")
    with file.open("a", encoding="utf-8") as log:
        log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {name}: {deed}\n")
    return deed
