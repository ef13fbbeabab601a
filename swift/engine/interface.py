"""The interface of all engines: token ids in, sampled tokens out. Knows no text, no model and no library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:  # it imports torch, which a scheduler does without
    from swift.engine.sampling import SamplingParams


class Busy(RuntimeError):
    """The queue is full: the caller may try again later."""


class TokenOutput(NamedTuple):
    """One sampled token of a reply.

    `logprob`: its log probability under the model, before temperature, penalties and masks; NaN if the engine does not
    know it. `finish` is None for all tokens but the last, which has `stop` (it is a stop token)
    or `length`. `top`: (token, log probability) of the `top_logprobs` most probable tokens, if requested. `guided`:
    the log probability among the tokens that the grammar allows, if the confidence of calls is requested; else None.
    `cached`: tokens of the prompt that the prefix cache held; None if the engine does not know.
    """

    token: int
    logprob: float
    finish: Literal["stop", "length"] | None = None
    top: tuple[tuple[int, float], ...] = ()
    guided: float | None = None
    cached: int | None = None


class EngineFigures(NamedTuple):
    """What an engine does now, and what it has done since it started.

    `running`, `waiting`: replies. `cache_usage`: from 0 to 1, of the memory for keys and values. `prefix_queries`:
    tokens of prompts that were looked up in the prefix cache, `prefix_hits`: tokens found there. `preemptions`:
    replies that gave their memory to older ones and began again.
    """

    running: int
    waiting: int
    cache_usage: float
    prefix_queries: int
    prefix_hits: int
    preemptions: int


class TokenStream(Iterator[TokenOutput], Protocol):
    """The tokens of a reply as they are sampled. Closing or dropping the stream cancels the request."""

    def close(self) -> None: ...


class Engine(Protocol):
    @property
    def context(self) -> int | None:
        """The largest number of tokens of a prompt and its reply together; None: limited by memory alone."""
        ...

    def submit(
        self, tokens: Sequence[int], params: SamplingParams, inputs: Mapping[str, Any] | None = None
    ) -> TokenStream:
        """Starts a reply to the prompt `tokens`. Safe to call from many threads.

        `inputs`: further tensors of a vision-language model, such as pixel values.
        Raises ValueError for a request that cannot be served, Busy if the queue is full.
        """
        ...

    def close(self) -> None: ...
