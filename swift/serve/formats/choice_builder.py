"""What the builders of chat completions and completions share: usage and frames. Knows no JSON shape of a choice."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import NamedTuple

from openai.types import CompletionUsage
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails
from pydantic import BaseModel

from swift.chat import Delta, Draft, Logprob, Usage
from swift.serve.error_bodies import openai_error
from swift.serve.response_builder import as_json


class ResponseOptions(NamedTuple):
    """The parts of a request that shape its response. `n`: choices of each prompt, which come prompt by prompt.

    `top_logprobs`: alternatives listed for each token; None: no log probabilities at all. `confidence`: calls have an
    `x_confidence`, null if it is unknown.
    """

    model: str
    include_usage: bool = False
    n: int = 1
    prompts: int = 1
    top_logprobs: int | None = None
    confidence: bool = False


class ChoiceBuilder:
    """What both kinds of responses share."""

    def __init__(self, kind: str, options: ResponseOptions) -> None:
        self.id = f"{kind}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.options = options
        self.drafts = [Draft() for _ in range(options.n * options.prompts)]
        self.logprobs: list[list[Logprob]] = [[] for _ in self.drafts]

    @property
    def usage(self) -> Usage:
        """Each prompt is counted once, whatever the number of choices."""
        prompt = sum(draft.usage.prompt_tokens for draft in self.drafts[:: self.options.n])
        return Usage(prompt, sum(draft.usage.completion_tokens for draft in self.drafts))

    def _collect(self, index: int, delta: Delta) -> None:
        self.drafts[index].add(delta)
        self.logprobs[index] += delta.logprobs

    def _usage(self) -> CompletionUsage:
        prompt, completion = self.usage
        usage = CompletionUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
        cached = [draft.details.cached_tokens for draft in self.drafts[:: self.options.n]]
        known = [tokens for tokens in cached if tokens is not None]
        if len(known) == len(cached):
            usage.prompt_tokens_details = PromptTokensDetails(cached_tokens=sum(known))
        if reasoning := sum(draft.details.reasoning_tokens for draft in self.drafts):
            usage.completion_tokens_details = CompletionTokensDetails(reasoning_tokens=reasoning)
        return usage

    def _last(self) -> Iterable[BaseModel]:
        """The events after those of the last delta."""
        return ()

    def frame(self, event: BaseModel) -> str:
        return _frame(as_json(event))

    def failed(self, message: str) -> str:
        return _frame(openai_error(message, 500))

    def end(self) -> str:
        return "".join(map(self.frame, self._last())) + _frame("[DONE]")


def _frame(data: str) -> str:
    return f"data: {data}\n\n"


def token_text(logprob: Logprob) -> str:
    return logprob.data.decode(errors="replace")
