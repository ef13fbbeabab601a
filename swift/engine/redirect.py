"""What other code writes to standard output and error goes into a file, also what its processes write."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from swift.engine.interface import Engine, TokenStream
from swift.engine.sampling import SamplingParams


class OutputRedirect:
    """Keeps standard output and error for this program: `begin`, start the other code, `restore`, and at last `end`.

    From `begin` on, the file descriptors 1 and 2, which other processes inherit, are the file. Between `begin` and
    `restore` so are sys.stdout and sys.stderr, which loggers and forked processes take hold of; afterwards these write
    where they did before. The file stays open, because loggers do not let go of it.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._log = file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._kept: list[tuple[int, int]] = []
        self._streams = sys.stdout, sys.stderr
        self._own: list[TextIO] = []

    def begin(self) -> None:
        self._streams = sys.stdout, sys.stderr
        for stream, fd in zip(self._streams, (1, 2), strict=True):
            stream.flush()
            kept = os.dup(fd)
            self._kept.append((fd, kept))
            self._own.append(_writing_to(kept, fd, stream))
            os.dup2(self._log.fileno(), fd)
        sys.stdout = sys.stderr = self._log

    def restore(self) -> None:
        """The other code has started: what this program prints goes where it went before."""
        sys.stdout, sys.stderr = self._own

    def end(self) -> None:
        for stream in self._own:
            stream.flush()
        for fd, kept in self._kept:
            os.dup2(kept, fd)
            os.close(kept)
        self._kept, self._own = [], []
        sys.stdout, sys.stderr = self._streams

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        self.begin()
        try:
            yield
        finally:
            self.end()


def _writing_to(kept: int, fd: int, stream: TextIO) -> TextIO:
    """A stream like `stream` whose file descriptor is `kept`; itself where it does not write to `fd`."""
    try:
        if stream.fileno() != fd:
            return stream
    except (OSError, ValueError):
        return stream
    like = stream if isinstance(stream, io.TextIOWrapper) else None
    errors, line_buffering = (like.errors, like.line_buffering) if like else (None, True)
    return open(
        kept, "w", encoding=stream.encoding, errors=errors, buffering=1 if line_buffering else -1, closefd=False
    )


class RedirectedEngine:
    """An engine whose own output, and that of its processes, goes into `file` until it is closed."""

    def __init__(self, start: Callable[[], Engine], file: Path) -> None:
        self._redirect = OutputRedirect(file)
        self._redirect.begin()
        try:
            self._engine = start()
        except BaseException:
            self._redirect.end()
            raise
        self._redirect.restore()

    @property
    def context(self) -> int | None:
        return self._engine.context

    def submit(
        self, tokens: Sequence[int], params: SamplingParams, inputs: Mapping[str, Any] | None = None
    ) -> TokenStream:
        return self._engine.submit(tokens, params, inputs)

    def close(self) -> None:
        try:
            self._engine.close()
        finally:
            self._redirect.end()
