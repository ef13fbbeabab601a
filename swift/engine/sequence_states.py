"""The keys and values of requests in a runner, begun with what the prefix cache holds. Knows no queue."""

from __future__ import annotations

from swift.engine.prefix_cache import BLOCK_SIZE, PrefixCache
from swift.engine.request import Request
from swift.engine.runner import Runner


class SequenceStates:
    """The scheduler's States. `memory`: bytes for running sequences, and as many for the prefix cache.

    `unsplit`: a cached prefix of no more tokens is computed again (see Scheduler).
    """

    def __init__(self, runner: Runner, memory: int, unsplit: int = 0) -> None:
        self._runner, self._memory, self._unsplit = runner, memory, unsplit
        self.prefixes = PrefixCache(memory)
        self.prefix_queries = self.prefix_hits = 0
        """Tokens that were looked up in the prefix cache, and that were found."""

    @property
    def capacity(self) -> int:
        return self._memory // max(self._runner.position_bytes, 1)

    def open(self, request: Request) -> bool:
        # The last token is always computed: its logits are needed.
        blocks = self.prefixes.match(request.adapter, request.tokens[:-1]) if request.shares_prefix else []
        length = len(blocks) * BLOCK_SIZE
        try:
            request.state = self._runner.open(blocks, length) if length > self._unsplit else self._runner.open()
        except Exception as error:  # such as memory: it belongs to this request's caller
            request.reply.end(error)
            return False
        request.computed = request.state.length
        if request.shares_prefix:
            self.prefix_queries += len(request.tokens)
            self.prefix_hits += request.computed
        if request.reply.cached is None:  # not again after a preemption, when the cache holds what it computed itself
            request.reply.cached = request.computed
        return True

    def store(self, request: Request) -> None:
        """Puts the blocks that are computed so far into the prefix cache."""
        state = request.state
        if request.shares_prefix and state is not None:
            tokens = request.tokens[: state.length]
            self.prefixes.insert(request.adapter, tokens, lambda start, end: self._runner.read(state, start, end))

    def close(self, request: Request, store: bool) -> None:
        if store:
            self.store(request)
        assert request.state is not None
        self._runner.close(request.state)
        request.state = None
