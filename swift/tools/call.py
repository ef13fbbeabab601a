"""Runs the calls of a reply: validation, confirmation, limits, and every outcome as text for the model."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

from swift.agent.arguments import excerpt, json_arguments
from swift.agent.jsontext import loads
from swift.agent.schemas import violation
from swift.chat import ToolCall
from swift.system import utf8
from swift.system.nearest import closest
from swift.tools import result_text
from swift.tools.bound_tool import BoundTool
from swift.tools.errors import TimeLimitError
from swift.tools.result_text import ResultText

Failure = Literal["", "unknown tool", "bad arguments", "declined", "raised", "timeout"]
Confirm = Callable[[BoundTool, ToolCall], bool]
"""Whether a call may run. Called for one call at a time, in the order of the calls, on the caller's thread."""
AT_ONCE = 8
"""Calls of one reply that run in parallel."""


class Limits(NamedTuple):
    """`seconds`: of a call. `characters`: of its result; the rest is cut, and the model reads that it was."""

    seconds: float = 30.0
    characters: int = 20_000


DEFAULT_LIMITS = Limits()


class Result(NamedTuple):
    """The result of a call: the text for the model, the duration in seconds, and the kind of failure, "" for none.

    `replaced`: the tool returned invalid UTF-8 or lone surrogates, which were replaced by U+FFFD. `cut`: the
    characters that were left out.
    """

    text: str
    seconds: float
    failure: Failure = ""
    replaced: bool = False
    cut: int = 0


class _Ready(NamedTuple):
    """A valid call."""

    bound: BoundTool
    arguments: dict[str, Any]


def call(
    tools: Sequence[BoundTool], wanted: ToolCall, limits: Limits = DEFAULT_LIMITS, confirm: Confirm | None = None
) -> Result:
    """Runs one call. Failures become the text of the result; nothing is raised."""
    return call_all(tools, [wanted], limits, confirm)[0]


def call_all(
    tools: Sequence[BoundTool],
    wanted: Sequence[ToolCall],
    limits: Limits = DEFAULT_LIMITS,
    confirm: Confirm | None = None,
) -> list[Result]:
    """Runs the calls of one reply and returns their results in the order of the calls. Failures are results.

    Calls run in parallel, except that a call that may write waits for the earlier calls of its source, and later calls
    of that source wait for it.
    """
    results: list[Result | None] = []
    ready: list[tuple[int, _Ready]] = []
    for number, each in enumerate(wanted):
        checked = _check(tools, each)
        if isinstance(checked, _Ready) and confirm is not None and not confirm(checked.bound, each):
            checked = _failed("declined", "the user declined this call, so it did not run")
        results.append(checked if isinstance(checked, Result) else None)
        if isinstance(checked, _Ready):
            ready.append((number, checked))
    if len(ready) == 1:
        number, only = ready[0]
        results[number] = _run(only, limits)
    else:
        for (number, _), result in zip(ready, _side_by_side([each for _, each in ready], limits), strict=True):
            results[number] = result
    return [cast(Result, result) for result in results]


def _check(tools: Sequence[BoundTool], wanted: ToolCall) -> _Ready | Result:
    by_name = {bound.name: bound for bound in tools}
    bound = by_name.get(wanted.name)
    if bound is None:
        return _failed("unknown tool", _no_such_tool(wanted.name, list(by_name)))
    arguments = json_arguments(wanted.arguments)
    reason = arguments.reason or violation(bound.validator, loads(arguments.text))
    if reason:
        return _failed("bad arguments", f"{wanted.name}: {reason}")
    return _Ready(bound, loads(arguments.text))


def _side_by_side(ready: Sequence[_Ready], limits: Limits) -> list[Result]:
    """On daemon threads, so that a call that hangs keeps no program from ending. No call begins after Ctrl-C."""
    results: dict[int, Result] = {}
    stopped = threading.Event()
    running = threading.Semaphore(AT_ONCE)
    done = [threading.Event() for _ in ready]
    earlier: defaultdict[str, list[int]] = defaultdict(list)

    def work(number: int, each: _Ready, awaited: Sequence[int]) -> None:
        for other in awaited:
            done[other].wait()
        with running:
            if not stopped.is_set():
                results[number] = _run(each, limits)
        done[number].set()

    try:
        for number, each in enumerate(ready):
            source, reads = each.bound.source, each.bound.read_only
            awaited = [other for other in earlier[source] if not (reads and ready[other].bound.read_only)]
            threading.Thread(target=work, args=(number, each, awaited), daemon=True).start()
            earlier[source].append(number)
        for event in done:
            event.wait()
    finally:
        stopped.set()
    return [results[number] for number in range(len(ready))]


def _run(ready: _Ready, limits: Limits) -> Result:
    started = time.perf_counter()

    def seconds() -> float:
        return time.perf_counter() - started

    try:
        text = result_text.of_value(ready.bound.invoke(ready.arguments, limits.seconds))
        failure: Failure = ""
    except TimeLimitError as error:
        note = f"; {error}" if str(error) else ""
        return _failed("timeout", f"no result within {limits.seconds:g} s{note}", seconds())
    except BaseException as error:  # user code may raise anything
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        text, failure = result_text.of_error(error), "raised"
    return _limited(text, seconds(), failure, limits)


def _limited(whole: ResultText, seconds: float, failure: Failure, limits: Limits) -> Result:
    text, prefix = whole.text, "Error: " if failure else ""
    shown = f"{prefix}{text}"[: limits.characters]
    total = len(prefix) + whole.characters
    if len(shown) < total:
        note = f"[cut: the result has {total:,} characters, these are the first {len(shown):,}]"
        return Result(f"{shown}\n{note}", seconds, failure, whole.replaced, total - len(shown))
    return Result(shown, seconds, failure, whole.replaced)


def _failed(failure: Failure, text: str, seconds: float = 0.0) -> Result:
    return Result(utf8.replace_surrogates(f"Error: {text}"), seconds, failure, not utf8.is_encodable(text))


def _no_such_tool(name: str, names: list[str]) -> str:
    close = closest(name, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"there is no tool '{excerpt(name)}'; the tools are: {', '.join(names) or 'none'}.{hint}"
