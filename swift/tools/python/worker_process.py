"""A worker process: starting it, calls and their answers, its end. Does not know where the calls come from."""

from __future__ import annotations

import atexit
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from swift.tools.errors import TimeLimitError, ToolError
from swift.tools.result_text import CutError, ResultText

LOST = "what it kept in memory is lost"
LEAVE_SECONDS = 2.0
"""An idle worker's time to run its exit handlers."""
MOST_SECONDS = 1e6
"""Of a call: eleven days, within what `poll` takes."""
LINE = 8192
"""Characters of a printed line that are shown as one."""
_START = (
    "import sys; file, connection, lifeline, *sys.path = sys.argv[1:]; from swift.tools.python.worker import main; "
    "main(file, int(connection), int(lifeline))"
)


class InterruptedCallError(Exception):
    """The worker was ended because of another call."""


class EndedError(Exception):
    """The process ended by itself. The text says how: `exit code 3`, `signal SIGSEGV`."""


class WorkerProcess:
    """A process in a session of its own, so that Ctrl-C does not reach it, with nothing on its standard input.

    What it prints appears on this process's standard error, line by line, after the name of the file. It ends with
    this process, also where that is killed.
    """

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._greeting: Future[dict[str, Any]] = Future()
        self._waiting = {0: self._greeting}
        self._calls = 0
        self._ended = self._ended_here = False
        self._owner = os.getpid()
        self._connection, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        paths = [path for path in sys.path if isinstance(path, str)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(file), str(theirs.fileno()), str(lifeline), *paths],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno(), lifeline],
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(lifeline)
        assert self._process.stdout is not None
        self._output = threading.Thread(target=_show, args=(self._process.stdout, file.name), daemon=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._output.start()
        self._reader.start()
        atexit.register(self.close)

    @property
    def is_running(self) -> bool:
        return not (self._ended or self._ended_here)

    def tools(self, seconds: float) -> list[dict[str, Any]]:
        """`{"spec": ..., "read_only": ...}` of each tool. Raises ValueError where there are none in that time."""
        try:
            greeting = self._greeting.result(seconds)
        except FutureTimeoutError:
            self.end()
            raise ValueError(f"fails to run: not imported within {seconds:g} s") from None
        except EndedError as error:
            raise ValueError(f"fails to run: its process ended with {error}") from None
        except BaseException:  # Ctrl-C
            self.end()
            raise
        if "error" in greeting:
            self.end()
            raise ValueError(greeting["error"])
        tools: list[dict[str, Any]] = greeting["tools"]
        return tools

    def call(self, tool: str, arguments: dict[str, Any], seconds: float) -> ResultText:
        """Runs a tool. Past the time limit the process ends, and all that it started.

        Raises TimeLimitError, ToolError where the tool raises or its process ends, and InterruptedCallError.
        """
        answer: Future[dict[str, Any]] = Future()
        with self._lock:
            if not self.is_running:
                raise InterruptedCallError
            self._calls += 1
            number = self._calls
            self._waiting[number] = answer
        until = time.monotonic() + min(max(seconds, 0), MOST_SECONDS)
        try:
            if not self._send({"id": number, "tool": tool, "arguments": arguments}, until - time.monotonic()):
                raise FutureTimeoutError
            result = answer.result(until - time.monotonic())
        except FutureTimeoutError:
            self.end()
            raise TimeLimitError(f"the tool's process was ended, so {LOST}") from None
        except EndedError as error:
            raise ToolError(f"the tool's process ended with {error}, so {LOST}") from None
        except InterruptedCallError:
            raise
        except BaseException:  # Ctrl-C stops the call too
            self.end()
            raise
        whole = ResultText(result["text"], result["characters"], result["replaced"])
        if result["raised"]:
            raise CutError(whole)
        return whole

    def end(self) -> None:
        """Kills the process and its process group."""
        with self._lock:
            self._ended_here = True
            if not self._ended:
                self._kill()
        self._reader.join(LEAVE_SECONDS)

    def close(self) -> None:
        """Lets an idle process run its exit handlers, then ends it, and shows the last of what it printed."""
        if os.getpid() != self._owner:  # a fork of this process at its exit
            return
        with self._lock:
            idle = not self._waiting
        if idle:
            self._send({}, LEAVE_SECONDS)
            self._reader.join(LEAVE_SECONDS)
        self.end()
        self._output.join(LEAVE_SECONDS)

    def _send(self, request: dict[str, Any], seconds: float) -> bool:
        """Whether the worker took a request in that time, which one that hangs may not. One that is gone takes all."""
        data = memoryview(json.dumps(request).encode() + b"\n")
        until = time.monotonic() + seconds
        if not self._sending.acquire(timeout=seconds):
            return False
        try:
            with suppress(OSError, ValueError):  # where the process is gone, the reader says so
                writable = select.poll()
                writable.register(self._connection, select.POLLOUT)
                while data:
                    if not writable.poll(max(until - time.monotonic(), 0) * 1000):
                        return False
                    with suppress(BlockingIOError):
                        data = data[self._connection.send(data, socket.MSG_DONTWAIT) :]
            return True
        finally:
            self._sending.release()

    def _read(self) -> None:
        with suppress(OSError, ValueError, KeyError, TypeError), self._connection.makefile("rb") as lines:
            for line in lines:  # what is no answer was written by the tool, and ends the process
                answer = json.loads(line)
                with self._lock:
                    future = self._waiting.pop(answer["id"])
                future.set_result(answer)
        with self._lock:
            self._ended = True
            self._kill()
        status = self._process.wait()
        with self._sending:  # its number may soon be that of another file
            self._connection.close()
        os.close(self._lifeline)
        atexit.unregister(self.close)
        error = InterruptedCallError() if self._ended_here else EndedError(_named(status))
        for future in self._waiting.values():
            future.set_exception(error)
        self._waiting.clear()

    def _kill(self) -> None:
        """Before the process is waited for, so that its number still names its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _show(output: IO[bytes], name: str) -> None:
    with io.TextIOWrapper(output, "utf-8", errors="replace") as lines:
        while line := lines.readline(LINE):
            with suppress(OSError, ValueError):  # standard error may be closed
                print(f"{name}: {line.rstrip(chr(10))}", file=sys.stderr, flush=True)


def _named(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"signal {-status}"
