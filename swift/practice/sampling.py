"""Samples attempts at tasks, several at once: one reply, or a run of the agent loop with tools. Knows no engine."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from swift.agent import Syntax
from swift.chat import Tool
from swift.engine.sampling import SamplingParams
from swift.eval.runner import has_markup
from swift.eval.task import Answer
from swift.infer.chat import Chat, collect
from swift.practice import judging
from swift.practice.judging import Attempt
from swift.practice.tasks import Task
from swift.tools import loop
from swift.tools.bound_tool import BoundTool
from swift.tools.call import Limits, call
from swift.tools.toolbox import Toolbox


class Result(NamedTuple):
    """A task and its attempts."""

    task: Task
    attempts: tuple[Attempt, ...]

    @property
    def right(self) -> int:
        return sum(each.succeeded for each in self.attempts)


class Tools:
    """Tools that run, for many runs at a time. No run sees what another one did: each has processes of its own, unless
    all tools only read. Raises ValueError if no tool runs."""

    def __init__(self, open_tools: Callable[[], Toolbox]) -> None:
        self._open = open_tools
        self._first = open_tools()
        self.offered = [bound for bound in self._first.tools if not bound.described]
        self._shared = all(bound.read_only for bound in self.offered)
        if not self.offered:
            self._first.close()
            raise ValueError("--tools: nothing runs these tools: describe them in the tasks' 'tools' instead")

    @contextmanager
    def of_run(self) -> Iterator[list[BoundTool]]:
        """The tools of one run."""
        if self._shared:
            yield self.offered
            return
        with self._open() as toolbox:
            yield [bound for bound in toolbox.tools if not bound.described]

    def close(self) -> None:
        self._first.close()


class Sampler(NamedTuple):
    """A model and how it is sampled. `syntax`: that of its tool-call format. `tools`: None if nothing runs."""

    chat: Chat
    params: SamplingParams
    syntax: Syntax | None = None
    tools: Tools | None = None
    max_turns: int = 8
    limits: Limits = Limits()

    def attempt(self, task: Task, seed: int) -> Attempt:
        """One attempt. A task that the model cannot take is a failed one."""
        params = replace(self.params, seed=seed)
        try:
            if self.tools is None or task.tools:
                reply = collect(self.chat(task.messages, task.tools, params))
                markup = has_markup(reply.message, self.syntax)
                return judging.of_reply(task, Answer((reply.message,), reply.finish, reply.usage, markup))
            with self.tools.of_run() as present:
                tools = chosen(task, present)
                trace = loop.run(
                    self.chat, tools, task.messages, self.max_turns, params=params, limits=self.limits, keep_errors=True
                )
                offered: list[Tool] = [bound.tool for bound in tools]
                markup = has_markup(trace.messages[-1], self.syntax)
                return judging.of_run(task, trace, offered, markup, partial(call, present, limits=self.limits))
        except ValueError as error:
            return judging.not_asked(str(error))


def chosen(task: Task, present: Sequence[BoundTool]) -> list[BoundTool]:
    """The tools that run for a task. Raises ValueError for a name that no tool has."""
    if task.runs is None:
        return list(present)
    by_name = {bound.name: bound for bound in present}
    if missing := [name for name in task.runs if name not in by_name]:
        raise ValueError(f"task {task.id}: no tool of --tools is named '{missing[0]}' ({', '.join(by_name)})")
    return [by_name[name] for name in task.runs]


def seed_of(seed: int, task: Task, number: int) -> int:
    """The seed of an attempt: it depends on nothing else, so that a run that continues draws the same."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{task.id}:{number}".encode()).digest()[:4], "big")


def sample(
    sampler: Sampler, tasks: Sequence[Task], samples: int, seed: int, workers: int, seconds: float = float("inf")
) -> Generator[Result, None, None]:
    """`samples` attempts at each task, `workers` at a time, in the order in which tasks are done.

    Attempts at one task follow each other, so that an engine with a prefix cache computes its prompt once. After
    `seconds` no task begins. OSError, of a model or server that is gone, ends the iteration.
    """
    end, begun, lock = time.monotonic() + seconds, set[str](), threading.Lock()

    def work(task: Task, number: int) -> Attempt | None:
        with lock:
            if task.id not in begun and time.monotonic() > end:
                return None
            begun.add(task.id)
        return sampler.attempt(task, seed_of(seed, task, number))

    pool = ThreadPoolExecutor(workers, thread_name_prefix="practice")
    try:
        waiting: list[tuple[Task, list[Future[Attempt | None]]]] = [
            (task, [pool.submit(work, task, number) for number in range(samples)]) for task in tasks
        ]
        for task, futures in waiting:
            attempts = [made for future in futures if (made := future.result()) is not None]
            if len(attempts) == samples:
                yield Result(task, tuple(attempts))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
