"""How the tokens of a reply get from an engine's thread to the caller's. Knows no model and no library."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Literal

from swift.engine.interface import TokenOutput


class ReplyQueue:
    """The engine's end of a reply. `over`: it is finished, or the caller no longer reads it.

    `max_new_tokens` None: no limit. `cached`: tokens of the prompt that the prefix cache held, once it is known.
    """

    def __init__(self, max_new_tokens: int | None, stop_tokens: frozenset[int]) -> None:
        self.over = False
        self.cached: int | None = None
        self.outputs: SimpleQueue[TokenOutput | Exception | None] = SimpleQueue()
        self._max_new_tokens, self._stop_tokens = max_new_tokens, stop_tokens
        self._count = 0

    def put(
        self, token: int, logprob: float, top: tuple[tuple[int, float], ...] = (), guided: float | None = None
    ) -> None:
        """Hands a token to the caller. A stop token, or the last of `max_new_tokens`, finishes the reply."""
        self._count += 1
        stopped = token in self._stop_tokens
        finished = stopped or self._count == self._max_new_tokens
        self.over = self.over or finished
        finish: Literal["stop", "length"] | None = "stop" if stopped else "length" if finished else None
        self.outputs.put(TokenOutput(token, logprob, finish, top, guided, self.cached))

    def end(self, error: Exception | None = None) -> None:
        """Ends the reply without a last token; the caller gets the error."""
        self.over = True
        self.outputs.put(error)


class ReplyStream:
    """The caller's end, a TokenStream. Closing or dropping it calls `cancel`, unless the reply is over."""

    def __init__(self, reply: ReplyQueue, cancel: Callable[[], object] = lambda: None) -> None:
        self._reply, self._cancel = reply, cancel
        self._over = False

    def __iter__(self) -> ReplyStream:
        return self

    def __next__(self) -> TokenOutput:
        if self._over:
            raise StopIteration
        output = self._reply.outputs.get()
        self._over = not isinstance(output, TokenOutput) or output.finish is not None
        if isinstance(output, TokenOutput):
            return output
        raise StopIteration if output is None else output

    def close(self) -> None:
        self._over = True
        if not self._reply.over:
            self._reply.over = True
            self._cancel()

    def __del__(self) -> None:
        self.close()
