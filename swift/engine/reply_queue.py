"""What engines of other libraries share: how a reply gets to the thread that asked for it."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

from swift.engine.interface import TokenOutput


class Reply:
    """A reply on its way, as the engine's thread holds it. `cancelled` is called when the asking thread gives up."""

    def __init__(self, length: int, stops: frozenset[int]) -> None:
        self.over = False
        self.queue: SimpleQueue[TokenOutput | Exception | None] = SimpleQueue()
        self.cancelled: Callable[[], object] = lambda: None
        self._length, self._stops = length, stops
        self._taken = 0

    def put(self, token: int, logprob: float, top: tuple[tuple[int, float], ...] = ()) -> None:
        """Hands on a token. The reply is over with a stop token, or when it is as long as it may be."""
        self._taken += 1
        stopped = token in self._stops
        self.over = stopped or self._taken == self._length
        self.queue.put(TokenOutput(token, logprob, "stop" if stopped else "length" if self.over else None, top))

    def end(self, error: Exception | None = None) -> None:
        self.over = True
        self.queue.put(error)


class ReplyStream:
    """The same reply as the asking thread holds it: closing or dropping it cancels the request."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._over = False

    def __iter__(self) -> ReplyStream:
        return self

    def __next__(self) -> TokenOutput:
        if self._over:
            raise StopIteration
        step = self._reply.queue.get()
        self._over = not isinstance(step, TokenOutput) or step.finish is not None
        if isinstance(step, TokenOutput):
            return step
        raise StopIteration if step is None else step

    def close(self) -> None:
        self._over = True
        if not self._reply.over:
            self._reply.over = True
            self._reply.cancelled()

    def __del__(self) -> None:
        self.close()
