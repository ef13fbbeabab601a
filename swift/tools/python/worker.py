"""The process that imports a Python file of the user and runs its functions. Started by `WorkerProcess`.

It reads requests and writes answers as lines of JSON on one socket, and never uses standard input, output or error,
which belong to the user's code. Functions marked read-only run on threads of their own, all others on the main
thread, where the file is imported. Imports little, so that it starts quickly.
"""

from __future__ import annotations

import faulthandler
import fcntl
import functools
import importlib.util
import inspect
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from swift.tools.errors import ToolError
from swift.tools.function_schema import describe
from swift.tools.marks import is_read_only
from swift.tools.result_text import ResultText, of_error, of_value

MOST_CHARACTERS = 1_000_000
"""Characters of a result that cross the socket."""


class Function(NamedTuple):
    """A function of the file: its description, and itself with validated arguments."""

    spec: dict[str, Any]
    run: Callable[..., object]
    read_only: bool


def main(file: str, connection: int, lifeline: int) -> None:
    """Imports the file, sends its tools, and answers calls until the parent ends it or is gone.

    `connection`: the descriptor of a socket. `lifeline`: the descriptor of a pipe whose other end is the parent's.
    """
    sys.argv[:] = [file]
    _end_with_parent(lifeline)
    _prefer_to_be_killed()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable(all_threads=False)  # a crash prints where it was
    answers = Answers(connection)
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, requests), daemon=True).start()
    try:
        functions = _functions(Path(file))
    except ValueError as error:
        answers.send({"id": 0, "error": str(error)})
        return
    tools = [{"spec": each.spec, "read_only": each.read_only} for each in functions.values()]
    answers.send({"id": 0, "tools": tools})
    while (request := requests.get()) != {}:
        function = functions.get(request["tool"])
        work = functools.partial(_answer, answers, function, request)
        if function is not None and function.read_only:
            threading.Thread(target=work, daemon=True).start()
        else:
            work()


class Answers:
    """The writing end of the connection. It belongs to this process: a fork of it has none, and ends here.

    The descriptor is used as it is and never closed, so the parent sees its end when the process has ended.
    """

    def __init__(self, connection: int) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._process = os.getpid()
        os.set_inheritable(connection, False)
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        if self._connection >= 0:  # in a fork of a fork, the number may be that of the user's file
            os.close(self._connection)
        self._connection = -1

    def send(self, answer: dict[str, Any]) -> None:
        """Writes an answer. A forked child that comes here ends: its parent answers the call."""
        if os.getpid() != self._process:
            os._exit(0)
        data = memoryview(json.dumps(answer).encode() + b"\n")
        with self._lock:
            while data:
                try:
                    data = data[os.write(self._connection, data) :]
                except OSError:  # the tool closed the descriptor, or the parent is gone
                    os._exit(1)


def _listen(connection: int, requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    with open(connection, "rb", closefd=False) as lines:
        for line in lines:
            requests.put(json.loads(line))
    os.killpg(os.getpgrp(), signal.SIGKILL)  # the parent is gone; a tool may hang


def _end_with_parent(lifeline: int) -> None:
    """Makes Linux kill the process group when the pipe closes, also while a tool holds Python's lock."""
    os.set_inheritable(lifeline, False)
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _prefer_to_be_killed() -> None:
    """Where memory runs out, Linux ends this process and not the one with the model."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(answers: Answers, function: Function | None, request: dict[str, Any]) -> None:
    try:
        if function is None:
            raise ToolError(f"the file has no function '{request['tool']}' any more")
        value = function.run(**request["arguments"])
        if inspect.isawaitable(value):
            from swift.tools.python import event_loop  # asyncio takes as long to import as the rest

            value = event_loop.result(value)
        result, raised = of_value(value, MOST_CHARACTERS), False
    except BaseException as error:  # user code may raise anything
        result, raised = of_error(error, MOST_CHARACTERS), True
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the user's code may have replaced or closed it
            stream.flush()
    answers.send({"id": request["id"], "raised": raised, **result._asdict()})


def _functions(file: Path) -> dict[str, Function]:
    """The public functions of a file by name. Raises ValueError."""
    found = {}
    for name, function in _public(_imported(file)):
        try:
            spec, run = describe(function, name)
        except ValueError:
            raise
        except Exception as error:  # annotations are user code
            raise ValueError(f"tool '{name}': {_one_line(of_error(error, 1000))}") from None
        found[name] = Function(spec, run, is_read_only(function))
    if not found:
        raise ValueError("no public function, so there are no tools")
    return found


def _public(module: ModuleType) -> Iterator[tuple[str, Callable[..., object]]]:
    """The functions that the file defines, or those that its `__all__` names, which may be imported."""
    listed = vars(module).get("__all__")
    for name, each in vars(module).items():
        chosen = not name.startswith("_") if listed is None else name in listed
        if not chosen or not callable(each) or (listed is None and each.__module__ != module.__name__):
            continue
        if inspect.isfunction(inspect.unwrap(each)):
            yield name, each if inspect.isfunction(each) else _as_function(each)


def _as_function(wrapper: Callable[..., object]) -> Callable[..., object]:
    """A wrapper that is an object, such as that of `functools.cache`, as a function."""

    @functools.wraps(wrapper)
    def function(*positional: object, **named: object) -> object:
        return wrapper(*positional, **named)

    return function


def _imported(file: Path) -> ModuleType:
    """The module of a file, which may import its neighbours. Raises ValueError for whatever it raises."""
    taken = file.stem in sys.modules or file.stem in sys.stdlib_module_names
    spec = importlib.util.spec_from_file_location(f"_{file.stem}" if taken else file.stem, file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # user code may raise anything
        steps = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in steps if frame.f_code.co_filename == str(file)]
        place = f" (line {lines[-1]})" if lines else ""
        raise ValueError(f"fails to run: {_one_line(of_error(error, 1000))}{place}") from None
    return module


def _one_line(whole: ResultText) -> str:
    return " ".join(whole.text.split())
