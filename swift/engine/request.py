"""One request of TorchEngine: its sequence, how it is sampled, and the queue that its caller reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from swift.engine.adapters import Adapter
from swift.engine.reply_queue import ReplyQueue
from swift.engine.runner import Chunk, SequenceState
from swift.engine.sampling import SampledToken, SamplingParams, is_plain_draw, is_plain_greedy, sampler, uniforms
from swift.engine.scheduler import Sequence


class Request(Sequence):
    """`state`: its keys and values in the runner, while it is started. `inputs`: tensors of an image model, or None.

    `greedy`: the argmax of the unchanged logits is all that it needs. `drawn`: a draw at its temperature is.
    """

    adapter: Adapter

    def __init__(
        self,
        prompt: list[int],
        params: SamplingParams,
        max_new_tokens: int | None,
        stop_tokens: frozenset[int],
        adapter: Adapter,
        inputs: Mapping[str, Any] | None,
        shares_prefix: bool,
    ) -> None:
        # The tokens of an image are the same for every image.
        super().__init__(prompt, adapter, shares_prefix=shares_prefix and inputs is None, splittable=inputs is None)
        self.inputs = inputs
        self.state: SequenceState | None = None
        self.greedy, self.drawn = is_plain_greedy(params), is_plain_draw(params)
        self.temperature, self.uniform = params.temperature, uniforms(params)
        self.reply = ReplyQueue(max_new_tokens, stop_tokens)
        self._new_tokens: list[int] = []
        self._sample = sampler(params, prompt, stop_tokens)

    def chunk(self, count: int) -> Chunk:
        """The next `count` tokens for the runner."""
        assert self.state is not None
        tokens = self.tokens[self.computed : self.computed + count]
        inputs = None if self.computed else self.inputs
        return Chunk(self.state, tokens, count == self.remaining, self.adapter.key, inputs)

    def sample(self, logits_V: Tensor) -> SampledToken:
        return self._sample(logits_V, self._new_tokens)

    def append(self, sampled: SampledToken) -> bool:
        """Hands the sampled token to the caller; True if the reply is over with it."""
        self._new_tokens.append(sampled.token)
        self.tokens.append(sampled.token)
        self.reply.put(*sampled)
        return self.reply.over
