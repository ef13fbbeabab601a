"""Sampling options -> a function from logits to a token. Knows no model and no text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from swift.guided.guide import Guide


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a reply is drawn and where it ends. The defaults change nothing: plain sampling up to the model's context.

    `max_tokens` None: what the context leaves. `clip`: a `max_tokens` that the context cannot hold is cut to what
    it leaves; otherwise it is an error. `temperature` 0: the likeliest token, always. `top_k` 0, `top_p` 1 and
    `min_p` 0 are off. `repetition_penalty` counts the prompt too; `presence_penalty` and `frequency_penalty` count
    the reply alone, as OpenAI's do. `stop`: texts that end the reply. `include_stop` None: a stop text stays in the
    reply when it is an agent mark, and is cut otherwise. `logprobs`: report each token's log probability, and those
    of the `top_logprobs` likeliest. `min_tokens`: no stop token comes before so many. `guide`: what the reply must be;
    nothing else lets a token through that it forbids. `adapter`: the name of the adapter to answer with.
    """

    max_tokens: int | None = None
    clip: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    include_stop: bool | None = None
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    min_tokens: int = 0
    guide: Guide | None = None
    adapter: str = ""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("temperature", self.temperature, 0, math.inf),
            ("top_k", self.top_k, 0, math.inf),
            ("min_p", self.min_p, 0, 1),
            ("min_tokens", self.min_tokens, 0, math.inf),
            ("presence_penalty", self.presence_penalty, -2, 2),
            ("frequency_penalty", self.frequency_penalty, -2, 2),
            ("top_logprobs", self.top_logprobs, 0, 20),
        ):
            if not low <= value <= high or value == math.inf:
                bounds = f"{low} or more" if high == math.inf else f"from {low} to {high}"
                raise ValueError(f"{name} must be {bounds}, not {value}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, not {self.max_tokens}")
        if self.guide and self.ignore_eos:
            raise ValueError("ignore_eos: a reply that is held to a grammar ends where the grammar does")
        if not all(self.stop):
            raise ValueError("stop must not hold an empty text")
        for token, bias in self.logit_bias.items():
            if not -100 <= bias <= 100:
                raise ValueError(f"logit_bias of token {token} must be from -100 to 100, not {bias}")


class TooLong(ValueError):
    """A prompt, or a prompt and its reply, that the context does not hold."""


def max_new_tokens(
    tokens: Sequence[int], params: SamplingParams, context: int, vocabulary: int, whose: str = "the model's context"
) -> int:
    """How many tokens the reply may have in `whose` context.

    Raises ValueError for a request that cannot be taken, TooLong for one that is too long.
    """
    if not tokens:
        raise ValueError("the prompt is empty")
    for what, ids in (("the prompt", tokens), ("logit_bias", params.logit_bias)):
        beyond = [token for token in ids if not 0 <= token < vocabulary]
        if beyond:
            raise ValueError(f"{what} holds token {beyond[0]}, but the model knows {vocabulary} tokens")
    left = context - len(tokens)
    asked = 1 if params.max_tokens is None or params.clip else params.max_tokens
    if asked > left:
        raise TooLong(
            f"the prompt has {len(tokens)} tokens and the reply may have {asked}: "
            f"that is more than {whose} of {context}"
        )
    return left if params.max_tokens is None else min(params.max_tokens, left)


GREEDY = SamplingParams(temperature=0)
FEW = 8
"""Rows of logits that are looked at together: more are as much memory as the allocator gets anew each time."""


class SampledToken(NamedTuple):
    """A token and its log probability under the model, before any option changed it; `top`: the likeliest tokens."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


Change = Callable[[Tensor, Sequence[int]], Tensor]


def argmax(logits_NV: Tensor) -> list[SampledToken]:
    """The likeliest token of each row."""
    return [choice for part_NV in logits_NV.split(FEW) for choice in _argmax(part_NV)]


def _argmax(logits_NV: Tensor) -> list[SampledToken]:
    """Of each row."""
    wide_NV = logits_NV.to(torch.float32, copy=True)
    highest_N, best_N = wide_NV.max(-1)
    logprobs_N = wide_NV.sub_(highest_N[:, None]).exp_().sum(-1).log_().neg_()
    return [SampledToken(*each) for each in zip(best_N.tolist(), logprobs_N.tolist(), strict=True)]


def is_plain_greedy(params: SamplingParams) -> bool:
    """Whether a request takes the likeliest token and wants to know no more than that."""
    told = (
        "max_tokens",
        "clip",
        "top_k",
        "top_p",
        "min_p",
        "seed",
        "stop",
        "include_stop",
        "ignore_eos",
        "logprobs",
        "adapter",
    )
    return replace(params, **{name: getattr(GREEDY, name) for name in told}) == GREEDY


def sampler(params: SamplingParams, prompt: Sequence[int] = ()) -> Callable[[Tensor, Sequence[int]], SampledToken]:
    """The function (logits_V, reply so far) -> SampledToken that samples one reply to `prompt`. A seed repeats it."""
    changes = _changes(params, prompt)
    greedy = params.temperature == 0
    generator = None if params.seed is None else torch.Generator().manual_seed(params.seed)
    constraint = params.guide.begin() if params.guide else None

    def sample(logits_V: Tensor, reply: Sequence[int]) -> SampledToken:
        logits_V = logits_V.float()
        changed_V = constraint.mask(logits_V) if constraint else logits_V
        for change in changes:
            changed_V = change(changed_V, reply)
        if greedy:
            token = int(changed_V.argmax())
        else:
            # Drawn on the CPU, so that a seed means the same on every device.
            token = int(torch.multinomial(changed_V.softmax(-1).cpu(), 1, generator=generator))
        if constraint:
            constraint.accept(token)
        total = logits_V.logsumexp(-1)
        return SampledToken(token, float(logits_V[token] - total), _top(logits_V - total, params.top_logprobs))

    return sample


def _top(logprobs_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    values, tokens = logprobs_V.topk(min(count, len(logprobs_V)))
    return tuple(zip(tokens.tolist(), values.tolist(), strict=True))


def _changes(params: SamplingParams, prompt: Sequence[int]) -> list[Change]:
    changes: list[Change] = []
    if params.logit_bias:
        changes.append(_bias(params.logit_bias))
    if params.repetition_penalty != 1:
        changes.append(_repetition(params.repetition_penalty, prompt))
    if params.presence_penalty or params.frequency_penalty:
        changes.append(_occurrence(params.presence_penalty, params.frequency_penalty))
    if params.temperature == 0:
        return changes  # what follows never moves the likeliest token
    if params.temperature != 1:
        changes.append(lambda logits_V, _: logits_V / params.temperature)
    if params.top_k:
        changes.append(_top_k(params.top_k))
    if params.top_p < 1:
        changes.append(_top_p(params.top_p))
    if params.min_p:
        changes.append(_min_p(params.min_p))
    return changes


def _bias(bias: Mapping[int, float]) -> Change:
    tokens, values = torch.tensor(list(bias)), torch.tensor(list(bias.values()), dtype=torch.float32)

    def change(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        return logits_V.index_add(0, tokens.to(logits_V.device), values.to(logits_V.device))

    return change


def _repetition(penalty: float, prompt: Sequence[int]) -> Change:
    """The penalty of CTRL (arXiv 1909.05858): a positive logit is divided by it, a negative one multiplied."""

    def change(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        seen = torch.tensor(sorted({*prompt, *reply}), device=logits_V.device)
        logits = logits_V[seen]
        return logits_V.index_copy(0, seen, torch.where(logits > 0, logits / penalty, logits * penalty))

    return change


def _occurrence(presence: float, frequency: float) -> Change:
    def change(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        counts_V = torch.bincount(torch.tensor(reply, dtype=torch.long), minlength=len(logits_V)).to(logits_V.device)
        return logits_V - presence * (counts_V > 0) - frequency * counts_V

    return change


def _top_k(k: int) -> Change:
    def change(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        least = logits_V.topk(min(k, len(logits_V))).values[-1]
        return logits_V.masked_fill(logits_V < least, -torch.inf)

    return change


def _top_p(p: float) -> Change:
    """Keeps the fewest likeliest tokens whose probabilities add up to `p` (arXiv 1904.09751)."""

    def change(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        # After top-k most logits are -inf: only the finite ones need sorting.
        finite = logits_V.isfinite().nonzero().squeeze(-1)
        probabilities, order = logits_V[finite].softmax(-1).sort(descending=True)
        before = probabilities.cumsum(-1) - probabilities
        return logits_V.index_fill(0, finite[order[before >= p]], -torch.inf)

    return change


def _min_p(p: float) -> Change:
    """Drops tokens less than `p` times as likely as the likeliest (arXiv 2407.01082)."""

    def change(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        return logits_V.masked_fill(logits_V < logits_V.max() + math.log(p), -torch.inf)

    return change
