"""Redirects standard output and error of other libraries, and of the processes they start, to a log file."""

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
    """From `begin` to `end`, file descriptors 1 and 2, which child processes inherit, are `file`.

    Between `begin` and `restore`, so are sys.stdout and sys.stderr, which loggers and forked processes hold on to. From
    `restore` on, they write to the original output, so that this program's own text stays visible. The file stays
    open, because loggers keep it.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._log = file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._duplicates: list[tuple[int, int]] = []
        self._streams = sys.stdout, sys.stderr
        self._visible: list[TextIO] = []

    def begin(self) -> None:
        self._streams = sys.stdout, sys.stderr
        for stream, fd in zip(self._streams, (1, 2), strict=True):
            stream.flush()
            duplicate = os.dup(fd)
            self._duplicates.append((fd, duplicate))
            self._visible.append(_stream_to(duplicate, fd, stream))
            os.dup2(self._log.fileno(), fd)
        sys.stdout = sys.stderr = self._log

    def restore(self) -> None:
        """The other library has started: this program prints to the original output again."""
        sys.stdout, sys.stderr = self._visible

    def end(self) -> None:
        for stream in self._visible:
            stream.flush()
        for fd, duplicate in self._duplicates:
            os.dup2(duplicate, fd)
            os.close(duplicate)
        self._duplicates, self._visible = [], []
        sys.stdout, sys.stderr = self._streams

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        self.begin()
        try:
            yield
        finally:
            self.end()


def _stream_to(duplicate: int, fd: int, stream: TextIO) -> TextIO:
    """A stream like `stream` that writes to `duplicate`; `stream` itself if it does not write to `fd`."""
    try:
        if stream.fileno() != fd:
            return stream
    except (OSError, ValueError):
        return stream
    like = stream if isinstance(stream, io.TextIOWrapper) else None
    errors, line_buffering = (like.errors, like.line_buffering) if like else (None, True)
    return open(
        duplicate, "w", encoding=stream.encoding, errors=errors, buffering=1 if line_buffering else -1, closefd=False
    )


class RedirectedEngine:
    """The engine that `start` returns, with its library's output in `file` until it is closed."""

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
