"""Whether a stream shows colours and moving bars: terminals do, files and pipes do not. Knows no command."""

from __future__ import annotations

import os
import sys
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 160
"""Columns of tables in files and pipes."""


def is_live(stream: IO[str]) -> bool:
    """Whether text on `stream` can be overwritten, as a progress bar needs."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_colours(stream: IO[str]) -> bool:
    """True for a terminal, unless NO_COLOR is set (no-color.org); FORCE_COLOR gives colours to files and pipes too."""
    if os.environ.get("NO_COLOR"):
        return False
    return is_live(stream) or os.environ.get("FORCE_COLOR", "") not in ("", "0")


def console(*, stderr: bool = False, **options: Any) -> Console:
    """A console of rich that has colours where `has_colours` says so. Its bars are for streams that are live."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if not is_live(stream):
        options.setdefault("width", PLAIN_WIDTH)
    coloured = has_colours(stream)
    # rich itself takes FORCE_COLOR for a terminal, and keeps bold and dim text with NO_COLOR
    system: Literal["auto", "standard"] | None = ("auto" if is_live(stream) else "standard") if coloured else None
    return Console(file=stream, force_terminal=coloured or is_live(stream), color_system=system, **options)
