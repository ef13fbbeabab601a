"""The public functions of a Python file as tools, run in a process of their own. Never imports the file itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from swift.agent.arguments import excerpt
from swift.system.nearest import nearest_path
from swift.tools.bound_tool import BoundTool, from_schema
from swift.tools.errors import TimeLimitError, ToolError
from swift.tools.python.worker_process import InterruptedCallError, WorkerProcess
from swift.tools.result_text import ResultText

START_SECONDS = 30.0
"""Time limit for starting a process and importing the file."""


class PythonFile:
    """The source of a Python file: one worker process, started here, and replaced where it ends.

    Calls of functions that `swift.read_only` marks may run in parallel; any other call runs alone. `invoke` of its
    tools returns a ResultText of at most a million characters. Raises ValueError for a file that is missing, fails to
    run, or has no public function.
    """

    def __init__(self, path: Path, start_seconds: float = START_SECONDS) -> None:
        if path.suffix != ".py" or not path.is_file():
            raise ValueError(_why_not(path))
        self._path, self._start_seconds = path, start_seconds
        self._file = path.resolve()
        self._turns = Turns()
        self._lock = threading.Lock()
        self._closed = False
        self._process = WorkerProcess(self._file)
        try:
            tools = self._process.tools(start_seconds)
            self._tools = tuple(self._bound(**each) for each in tools)
        except ValueError as error:
            self.close()
            raise ValueError(f"{path}: {excerpt(str(error))}") from None
        except BaseException:  # Ctrl-C
            self.close()
            raise

    @property
    def name(self) -> str:
        return self._path.stem

    @property
    def tools(self) -> Sequence[BoundTool]:
        return self._tools

    def close(self) -> None:
        """Ends the process; calls after that fail."""
        self._closed = True
        self._process.close()

    def _bound(self, spec: dict[str, Any], read_only: bool) -> BoundTool:
        invoke = partial(self._invoke, spec["function"]["name"], not read_only)
        return from_schema(spec, invoke, read_only, str(self._file))

    def _invoke(self, tool: str, alone: bool, arguments: dict[str, Any], seconds: float) -> ResultText:
        with self._turns.take(alone):
            while seconds > 0:
                process = self._running()
                began = time.monotonic()
                try:
                    return process.call(tool, arguments, seconds)
                except InterruptedCallError:  # another call made the process end; this one may run again: it only reads
                    seconds -= time.monotonic() - began
        raise TimeLimitError

    def _running(self) -> WorkerProcess:
        """The process, or a new one for one that ended."""
        with self._lock:
            if self._closed:
                raise self._closed_error()
            if not self._process.is_running:
                self._process = WorkerProcess(self._file)
                try:
                    self._process.tools(self._start_seconds)
                except (ValueError, InterruptedCallError) as error:
                    if self._closed:
                        raise self._closed_error() from None
                    raise ToolError(f"{self._path.name} does not start again: {excerpt(str(error))}") from None
            if self._closed:  # while it started
                self._process.close()
                raise self._closed_error()
            return self._process

    def _closed_error(self) -> ToolError:
        return ToolError(f"the tools of {self._path.name} are closed")


class Turns:
    """Who may run: either any number of calls that read, or one other call alone. In the order of arrival."""

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._left = threading.Condition()
        self._reading = 0

    @contextmanager
    def take(self, alone: bool) -> Iterator[None]:
        if alone:
            with self._door:
                with self._left:
                    self._left.wait_for(lambda: not self._reading)
                yield
            return
        with self._door, self._left:
            self._reading += 1
        try:
            yield
        finally:
            with self._left:
                self._reading -= 1
                self._left.notify_all()


def _why_not(path: Path) -> str:
    """Why a path is no file of tools, in a line."""
    file, colon, name = str(path).rpartition(":")
    if colon and file.endswith(".py") and Path(file).is_file():
        return f"{path}: all public functions of {file} are tools: give --tools {file} --tool_filter {name}"
    if near := nearest_path(path):
        return f"{path}: no such file{near}"
    what = "not a Python file" if path.is_file() else "no such file"
    return f"{path}: {what}: tools are the public functions of a .py file, or described in a .json or .jsonl file"
