"""Generates replies on threads and hands their deltas to the event loop. Knows no HTTP and no JSON shape."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from anyio import move_on_after

from swift.chat import Delta
from swift.engine.interface import Busy
from swift.infer.chat import Deltas

Start = Callable[[], Deltas]


class ReplyCounter:
    """Counts the replies that wait for their first delta, at most `max_waiting`, and those that have begun."""

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self.waiting = 0
        self.running = 0
        self.on_gap: Callable[[float], None] = lambda seconds: None
        """Called with the seconds between two deltas of a reply, on the reply's thread."""

    def admit(self, replies: int) -> None:
        """Adds replies to the queue. Raises Busy if it cannot hold all of them."""
        if self.waiting + replies > self.max_waiting:
            raise Busy(f"{self.waiting} of {self.max_waiting} places of the queue are taken")
        self.waiting += replies


class ReplyThreads:
    """The choices of one request, each generated on its own thread.

    Create it and call its public methods on the event loop. Deltas come with the index of their choice.
    """

    def __init__(self, starts: Sequence[Start], counter: ReplyCounter) -> None:
        counter.admit(len(starts))
        self._counter = counter
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._deltas: deque[tuple[int, Delta | Exception | None]] = deque()
        self._open: dict[int, Deltas] = {}
        self._waiting = set(range(len(starts)))
        self._running: set[int] = set()
        self._unfinished = set(range(len(starts)))
        self.stopped = False
        self.first_delta: float | None = None
        """When the first delta was read, on the clock of time.perf_counter."""
        for index, start in enumerate(starts):
            # A thread mostly sleeps, waiting for the next token: hundreds of them cost little.
            threading.Thread(target=self._generate, args=(index, start), name="swift-reply", daemon=True).start()

    async def read(self) -> list[tuple[int, Delta]]:
        """The deltas since the last call, at least one; none when all choices are finished or stopped.

        Raises what the generation of a choice raised.
        """
        while not self.stopped and (self._waiting or self._running):
            self._arrived.clear()
            if deltas := self._take():
                return deltas
            if self._waiting or self._running:
                await self._arrived.wait()
        return []

    def stop(self) -> None:
        """Cancels all unfinished choices; each ends with the model's next step."""
        if self.stopped:
            return
        self.stopped = True
        for index in [*self._waiting, *self._running]:
            self._uncount(index)
        self._arrived.set()
        for deltas in list(self._open.values()):
            _close(deltas)

    async def rest(self, timeout: float) -> list[tuple[int, Delta]]:
        """The deltas from the last `read` to the end of the choices that `stop` cancelled, within `timeout` seconds."""
        deltas: list[tuple[int, Delta]] = []
        with move_on_after(timeout):
            while True:
                self._arrived.clear()
                while self._deltas:
                    index, made = self._deltas.popleft()
                    if isinstance(made, Delta):
                        deltas.append((index, made))
                    else:
                        self._unfinished.discard(index)
                if not self._unfinished:
                    break
                await self._arrived.wait()
        return deltas

    def _take(self) -> list[tuple[int, Delta]]:
        deltas: list[tuple[int, Delta]] = []
        while self._deltas:
            index, made = self._deltas.popleft()
            if isinstance(made, Delta):
                self.first_delta = self.first_delta or time.perf_counter()
                if index in self._waiting:
                    self._waiting.remove(index)
                    self._running.add(index)
                    self._counter.waiting -= 1
                    self._counter.running += 1
                deltas.append((index, made))
                continue
            if made is not None and deltas:  # an error: first return the deltas before it
                self._deltas.appendleft((index, made))
                return deltas
            self._uncount(index)
            self._unfinished.discard(index)
            if made is not None:
                raise made
        return deltas

    def _uncount(self, index: int) -> None:
        if index in self._waiting:
            self._waiting.remove(index)
            self._counter.waiting -= 1
        elif index in self._running:
            self._running.remove(index)
            self._counter.running -= 1

    def _generate(self, index: int, start: Start) -> None:
        """Runs on the choice's thread."""
        end: Exception | None = None
        try:
            deltas = start()
            self._open[index] = deltas
            if self.stopped:  # `stop` ran before `deltas` was in `_open`
                _close(deltas)
            last: float | None = None
            for delta in deltas:
                now = time.perf_counter()
                if last is not None and delta.finish is None:
                    self._counter.on_gap(now - last)
                last = now
                self._put(index, delta)
                if self.stopped:  # a LocalChat still yields its usage
                    _close(deltas)
        except Exception as error:  # raised again by `read`
            end = error
        self._put(index, end)

    def _put(self, index: int, made: Delta | Exception | None) -> None:
        self._deltas.append((index, made))
        with suppress(RuntimeError):  # the event loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._arrived.set)


def _close(deltas: Deltas) -> None:
    with suppress(ValueError):  # the generator is running: its own thread closes it after this delta
        deltas.close()
