"""Replies are made on threads and read on the event loop, which never waits for a model. Knows no HTTP, no shape."""

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
    """Counts replies under way: those that wait for their first delta, at most `most_waiting`, and those that speak."""

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self.waiting = 0
        self.speaking = 0

    def admit(self, replies: int) -> None:
        """Raises Busy where not all of them may wait."""
        if self.waiting + replies > self.most_waiting:
            raise Busy(f"{self.waiting} replies wait already, and {self.most_waiting} may")
        self.waiting += replies


class ReplyThreads:
    """The choices of one request, each made on a thread of its own.

    `read` gives what was made since it was last called, with the number of the choice. Made and used on the event loop.
    """

    def __init__(self, starts: Sequence[Start], counter: ReplyCounter) -> None:
        counter.admit(len(starts))
        self._counter = counter
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._made: deque[tuple[int, Delta | Exception | None]] = deque()
        self._open: dict[int, Deltas] = {}
        self._waiting = set(range(len(starts)))
        self._speaking: set[int] = set()
        self._making = set(range(len(starts)))
        self.stopped = False
        self.first_delta: float | None = None
        """When the first delta was read, on the clock of time.perf_counter."""
        for index, start in enumerate(starts):
            # A thread sleeps nearly always, in the queue of its reply: hundreds of them cost little.
            threading.Thread(target=self._make, args=(index, start), name="swift-reply", daemon=True).start()

    async def read(self) -> list[tuple[int, Delta]]:
        """At least one delta; none when every choice is over, or stopped. Raises what making one raised."""
        while not self.stopped and (self._waiting or self._speaking):
            self._arrived.clear()
            if deltas := self._take():
                return deltas
            if self._waiting or self._speaking:
                await self._arrived.wait()
        return []

    def stop(self) -> None:
        """Nobody reads on: every choice that is still made ends with its model's next step."""
        if self.stopped:
            return
        self.stopped = True
        for index in [*self._waiting, *self._speaking]:
            self._leave(index)
        self._arrived.set()
        for deltas in list(self._open.values()):
            _close(deltas)

    async def rest(self, patience: float) -> list[tuple[int, Delta]]:
        """What was made between the last `read` and the end of what `stop` ended, within `patience` seconds."""
        deltas: list[tuple[int, Delta]] = []
        with move_on_after(patience):
            while True:
                self._arrived.clear()
                while self._made:
                    index, made = self._made.popleft()
                    if isinstance(made, Delta):
                        deltas.append((index, made))
                    else:
                        self._making.discard(index)
                if not self._making:
                    break
                await self._arrived.wait()
        return deltas

    def _take(self) -> list[tuple[int, Delta]]:
        deltas: list[tuple[int, Delta]] = []
        while self._made:
            index, made = self._made.popleft()
            if isinstance(made, Delta):
                self.first_delta = self.first_delta or time.perf_counter()
                if index in self._waiting:
                    self._waiting.remove(index)
                    self._speaking.add(index)
                    self._counter.waiting -= 1
                    self._counter.speaking += 1
                deltas.append((index, made))
                continue
            if made is not None and deltas:  # what came before it is read first
                self._made.appendleft((index, made))
                return deltas
            self._leave(index)
            self._making.discard(index)
            if made is not None:
                raise made
        return deltas

    def _leave(self, index: int) -> None:
        if index in self._waiting:
            self._waiting.remove(index)
            self._counter.waiting -= 1
        elif index in self._speaking:
            self._speaking.remove(index)
            self._counter.speaking -= 1

    def _make(self, index: int, start: Start) -> None:
        """On the reply's own thread."""
        end: Exception | None = None
        try:
            deltas = start()
            self._open[index] = deltas
            if self.stopped:  # before `stop` could see it
                _close(deltas)
            for delta in deltas:
                self._tell(index, delta)
                if self.stopped:  # a model of ours says now what it cost
                    _close(deltas)
        except Exception as error:  # whatever it is, it is told where the reply is read
            end = error
        self._tell(index, end)

    def _tell(self, index: int, made: Delta | Exception | None) -> None:
        self._made.append((index, made))
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._arrived.set)


def _close(deltas: Deltas) -> None:
    with suppress(ValueError):  # a generator at work: its own thread closes it after this delta
        deltas.close()
