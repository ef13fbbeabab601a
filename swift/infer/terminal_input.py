"""Lines of input, from a terminal with line editing or from a pipe. Knows no dialogue."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from swift.system import utf8

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession


class LineCleared(KeyboardInterrupt):
    """Ctrl-C cleared a line that was not empty."""


def line_reader(lines: TextIO, out: TextIO) -> Callable[[str], str]:
    """A function (prompt) -> line. With a pipe it echoes the line after the prompt, so that `out` reads as a dialogue.

    The function raises EOFError at the end of `lines`, or for Ctrl-C if `lines` is a pipe. A byte that is not UTF-8
    becomes a lone surrogate in the line.
    """
    if isinstance(lines, io.TextIOWrapper):
        encoding = "utf-8" if lines.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968") else None
        lines.reconfigure(encoding=encoding, errors="surrogateescape")
    typed = lines.isatty()
    if typed and out.isatty():
        return _line_editor()

    def read(prompt: str) -> str:
        if typed:
            out.write(prompt)
            out.flush()
        try:
            line = lines.readline()
        except KeyboardInterrupt:
            if typed:
                out.write("\n")
                raise
            raise EOFError from None
        if not line:
            raise EOFError
        line = line.rstrip("\r\n")
        if not typed:
            out.write(f"{prompt}{utf8.replace_surrogates(line)}\n")
            out.flush()
        return line

    return read


def line_editor(lines: TextIO, out: TextIO) -> Callable[[str, str], str]:
    """A function (prompt, default) -> line, where a terminal shows the default to edit.

    With a pipe an empty line is the default. Otherwise as `line_reader`.
    """
    if lines.isatty() and out.isatty():
        edit = _session()
        return lambda prompt, default: edit.prompt(prompt, default=default)
    read = line_reader(lines, out)
    return lambda prompt, default: read(prompt) or default


def _line_editor() -> Callable[[str], str]:
    return _session().prompt


def _session() -> PromptSession[str]:
    from prompt_toolkit import PromptSession  # slow to import, and not needed for a pipe
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("c-c")
    @keys.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        event.app.exit(
            exception=LineCleared if event.app.current_buffer.text else KeyboardInterrupt, style="class:aborting"
        )

    return PromptSession(reserve_space_for_menu=0, key_bindings=keys)
