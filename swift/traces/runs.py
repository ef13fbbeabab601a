"""Runs of the agent loop side by side over one chat. Knows no flag and no file."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from swift.chat import Delta, Draft, Message, Tool
from swift.engine.sampling_params import SamplingParams
from swift.tools.bound_tool import BoundTool
from swift.tools.call import Confirm, Limits
from swift.tools.loop import Deltas, Offer, Tools, Trace, run
from swift.traces.tasks import Task

Ask = Callable[[Sequence[Message], Sequence[Tool], SamplingParams], Deltas]
GRACE = 5.0
"""Seconds that runs have to end after a stop. A tool that hangs keeps nothing waiting longer."""


class Finished(NamedTuple):
    """A run that ended. `offered`: the tools that the model was offered, in that order, and those that it called."""

    task: Task
    trace: Trace
    offered: tuple[Tool, ...]


class Loop(NamedTuple):
    """What all runs share. `offer`: makes the selection of tools of a run."""

    ask: Ask
    tools: Callable[[], Sequence[BoundTool]]
    params: SamplingParams
    max_turns: int
    max_seconds: float | None
    limits: Limits
    offer: Callable[[Tools], Offer]
    confirm: Confirm
    system: str | None = None

    def run(self, task: Task) -> Finished:
        """One run. The n-th repetition of a task adds n to the seed."""
        params = self.params
        if task.repeat and params.seed is not None:
            params = replace(params, seed=params.seed + task.repeat)
        seen: dict[str, Tool] = {}

        def tools() -> Sequence[BoundTool]:
            return [bound for bound in self.tools() if task.tools is None or bound.name in task.tools]

        def ask(messages: Sequence[Message], offered: Sequence[Tool], params: SamplingParams) -> Deltas:
            seen.update((tool.name, tool) for tool in offered)
            return self.ask(messages, offered, params)

        trace = run(
            ask,
            tools,
            self.messages(task),
            self.max_turns,
            params=params,
            limits=self.limits,
            max_seconds=self.max_seconds,
            confirm=self.confirm,
            offer=self.offer(tools),
            keep_errors=True,
        )
        called = {call.name for message in trace.messages for call in message.tool_calls}
        unseen = (bound.tool for bound in tools() if bound.name in called and bound.name not in seen)
        return Finished(task, trace, (*seen.values(), *unseen))

    def messages(self, task: Task) -> list[Message]:
        """The task's messages, with the system prompt of all runs unless the task has its own."""
        own = self.system is None or task.messages[0].role == "system"
        return [*task.messages] if own else [Message("system", self.system or ""), *task.messages]


class SideBySide:
    """`work` on each of `tasks`, `parallel` at a time, on daemon threads; iterating gives results as they come.

    An exception of `work` is raised where its result would be.
    """

    def __init__(
        self, work: Callable[[Task], Finished], tasks: Iterable[Task], parallel: int, stopped: threading.Event
    ) -> None:
        self._work, self._stopped = work, stopped
        self._left: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Finished | BaseException] = queue.SimpleQueue()
        self._finished: list[Finished] = []
        self._number = 0
        for task in tasks:
            self._left.put(task)
            self._number += 1
        self._threads = [
            threading.Thread(target=self._go, daemon=True) for _ in range(max(1, min(parallel, self._number)))
        ]

    def __iter__(self) -> Iterator[Finished]:
        for thread in self._threads:
            thread.start()
        for _ in range(self._number):
            result = self._results.get()
            if isinstance(result, BaseException):
                raise result
            yield result

    def stop(self) -> None:
        """Begins no further task, and waits for those that can be ended."""
        self._stopped.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(GRACE / len(self._threads))

    def ended(self) -> list[Finished]:
        """The runs that have ended, other than by `stop`, whether the iteration gave them or not."""
        return [each for each in self._finished if each.trace.end != "cancelled"]

    def _go(self) -> None:
        while not self._stopped.is_set():
            try:
                task = self._left.get_nowait()
            except queue.Empty:
                return
            try:
                finished = self._work(task)
                self._finished.append(finished)
                self._results.put(finished)
            except BaseException as error:  # raised again on the thread that reads the results
                self._results.put(error)


def stoppable(ask: Ask, stopped: threading.Event) -> Ask:
    """The chat, whose replies end once `stopped` is set."""

    def asked(messages: Sequence[Message], tools: Sequence[Tool], params: SamplingParams) -> Deltas:
        return _until(stopped, ask(messages, tools, params))

    return asked


def _until(stopped: threading.Event, deltas: Deltas) -> Generator[Delta, None, None]:
    try:
        for delta in deltas:
            if stopped.is_set():
                yield Delta(finish="cancelled")
                return
            yield delta
    finally:
        deltas.close()


def observed(ask: Ask, show: Callable[[Message], object]) -> Ask:
    """The chat, that shows each reply with calls when it is complete, and each result before the next reply."""

    def asked(messages: Sequence[Message], tools: Sequence[Tool], params: SamplingParams) -> Deltas:
        for message in results_at_end(messages):
            show(message)
        return _observed(ask(messages, tools, params), show)

    return asked


def results_at_end(messages: Sequence[Message]) -> Sequence[Message]:
    """The results with which the messages end."""
    number = next((n for n, message in enumerate(reversed(messages)) if message.role != "tool"), len(messages))
    return messages[len(messages) - number :]


def _observed(deltas: Deltas, show: Callable[[Message], object]) -> Generator[Delta, None, None]:
    draft = Draft()
    try:
        for delta in deltas:
            draft.add(delta)
            yield delta
    finally:
        deltas.close()
    if draft.finish == "tool_calls":
        show(draft.message)
