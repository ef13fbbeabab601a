"""Sampling options -> a function from logits to a token. Knows no model and no text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from swift.engine import drawing
from swift.engine.sampling_params import SamplingParams as SamplingParams


class TooLong(ValueError):
    """The prompt, or the prompt and its reply, do not fit into the context."""


def max_new_tokens(
    tokens: Sequence[int], params: SamplingParams, context: int, vocabulary: int, whose: str = "the model's context"
) -> int:
    """The largest number of tokens of a reply to the prompt `tokens`, in a context of `context` tokens.

    `whose`: what the error calls that context. Raises TooLong if prompt and reply do not fit, ValueError for an empty
    prompt and for tokens outside the vocabulary.
    """
    if not tokens:
        raise ValueError("the prompt is empty")
    for what, ids in (("the prompt", tokens), ("logit_bias", params.logit_bias)):
        beyond = [token for token in ids if not 0 <= token < vocabulary]
        if beyond:
            raise ValueError(f"{what} contains token {beyond[0]}, but the model's vocabulary has {vocabulary} tokens")
    left = context - len(tokens)
    needed = 1 if params.max_tokens is None or params.clip else params.max_tokens
    if needed > left:
        raise TooLong(
            f"the prompt has {len(tokens)} tokens and the reply may have {needed}: "
            f"that is more than {whose} of {context}"
        )
    return left if params.max_tokens is None else min(params.max_tokens, left)


GREEDY = SamplingParams(temperature=0)


class SampledToken(NamedTuple):
    """A token and its log probability under the model, before penalties, bias, temperature and masks.

    `top`: (token, log probability) of the most probable tokens, if requested. `guided`: the log probability among the
    tokens that the grammar allows; None without a grammar, or if the confidence of calls is not requested.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    guided: float | None = None


Sampler = Callable[[Tensor, Sequence[int]], SampledToken]
"""(logits_V, reply so far) -> the next token."""
LogitsProcessor = Callable[[Tensor, Sequence[int]], Tensor]
"""(logits_V, reply so far) -> changed logits_V."""


def argmax(logits_NV: Tensor) -> list[SampledToken]:
    """The most probable token of each row."""
    return [sampled for part_NV in logits_NV.split(drawing.ROWS) for sampled in _argmax(part_NV)]


def _argmax(logits_NV: Tensor) -> list[SampledToken]:
    logits_NV = logits_NV.to(torch.float32, copy=True)
    highest_N, best_N = logits_NV.max(-1)
    logprobs_N = logits_NV.sub_(highest_N[:, None]).exp_().sum(-1).log_().neg_()
    return [SampledToken(*each) for each in zip(best_N.tolist(), logprobs_N.tolist(), strict=True)]


def draw(logits_NV: Tensor, temperatures: Sequence[float], uniforms: Sequence[float]) -> list[SampledToken]:
    """A token of each row, at its temperature; `uniforms`: a random number of [0, 1) a row.

    Raises ValueError for NaN and for rows without a finite logit.
    """
    found: list[SampledToken] = []
    for start in range(0, len(uniforms), drawing.ROWS):
        part = slice(start, start + drawing.ROWS)
        rows_NV = logits_NV[part].float()
        changed_NV = rows_NV
        if any(each != 1 for each in temperatures[part]):
            changed_NV = rows_NV / torch.tensor(temperatures[part], device=rows_NV.device)[:, None]
        tokens_N = drawing.draw(changed_NV, uniforms[part])
        logprobs_N = drawing.logprobs(rows_NV, tokens_N)
        found += [SampledToken(*each) for each in zip(tokens_N.tolist(), logprobs_N.tolist(), strict=True)]
    return found


_NO_EFFECT_ON_LOGITS = (
    "max_tokens",
    "clip",
    "seed",
    "stop",
    "include_stop",
    "ignore_eos",
    "logprobs",
    "confidence",
    "min_confidence",
)
_NO_EFFECT_ON_ARGMAX = ("top_k", "top_p", "min_p")


def is_plain_greedy(params: SamplingParams) -> bool:
    """Whether `argmax` of the unchanged logits is all that a request needs."""
    return _differ_in(params, GREEDY, *_NO_EFFECT_ON_LOGITS, *_NO_EFFECT_ON_ARGMAX)


def is_plain_draw(params: SamplingParams) -> bool:
    """Whether `draw` of the logits at a temperature is all that a request needs."""
    return params.temperature > 0 and _differ_in(params, SamplingParams(), *_NO_EFFECT_ON_LOGITS, "temperature")


def _differ_in(params: SamplingParams, other: SamplingParams, *names: str) -> bool:
    """Whether they are equal but for these options and the adapter."""
    return replace(params, **{name: getattr(other, name) for name in (*names, "adapter")}) == other


def uniforms(params: SamplingParams) -> Callable[[], float]:
    """The random numbers of a reply, one a call."""
    return partial(drawing.uniform, None if params.seed is None else torch.Generator().manual_seed(params.seed))


def sampler(params: SamplingParams, prompt: Sequence[int] = (), stop_tokens: frozenset[int] = frozenset()) -> Sampler:
    """The function that samples a reply to `prompt`, token by token. With a seed, every reply is the same."""
    processors = _logits_processors(params, prompt)
    greedy = params.temperature == 0
    uniform = uniforms(params)
    constraint = params.guide.begin() if params.guide else None

    def sample(logits_V: Tensor, reply: Sequence[int]) -> SampledToken:
        logits_V = logits_V.float()
        allowed_V = changed_V = constraint.mask(logits_V) if constraint else logits_V
        for process in processors:
            changed_V = process(changed_V, reply)
        token = int(changed_V.argmax() if greedy else drawing.draw(changed_V[None], [uniform()]))
        if constraint:
            constraint.accept(token)
        total = logits_V.logsumexp(-1)
        top = _top(logits_V - total, params.top_logprobs) if params.top_logprobs else ()
        guided = float(allowed_V[token] - allowed_V.logsumexp(-1)) if constraint and params.confidence else None
        return SampledToken(token, float(logits_V[token] - total), top, guided)

    return _with_min_tokens(sample, params.min_tokens, stop_tokens) if params.min_tokens and stop_tokens else sample


def _with_min_tokens(sample: Sampler, min_tokens: int, stop_tokens: frozenset[int]) -> Sampler:
    """Samples no stop token while the reply has fewer than `min_tokens` tokens."""

    def sample_no_stop(logits_V: Tensor, reply: Sequence[int]) -> SampledToken:
        if len(reply) >= min_tokens:
            return sample(logits_V, reply)
        logits_V = logits_V.float()
        stops = torch.tensor(sorted(stop_tokens), device=logits_V.device)
        sampled = sample(logits_V.index_fill(0, stops, -torch.inf), reply)
        return sampled._replace(logprob=float(logits_V[sampled.token] - logits_V.logsumexp(-1)))

    return sample_no_stop


def _top(logprobs_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    values, tokens = logprobs_V.topk(min(count, len(logprobs_V)))
    return tuple(zip(tokens.tolist(), values.tolist(), strict=True))


def _logits_processors(params: SamplingParams, prompt: Sequence[int]) -> list[LogitsProcessor]:
    processors: list[LogitsProcessor] = []
    if params.logit_bias:
        processors.append(_bias(params.logit_bias))
    if params.repetition_penalty != 1:
        processors.append(_repetition(params.repetition_penalty, prompt))
    if params.presence_penalty or params.frequency_penalty:
        processors.append(_occurrence(params.presence_penalty, params.frequency_penalty))
    if params.temperature == 0:
        return processors  # the others never move the argmax
    if params.temperature != 1:
        processors.append(lambda logits_V, _: logits_V / params.temperature)
    if params.top_k:
        processors.append(_top_k(params.top_k))
    if params.top_p < 1:
        processors.append(_top_p(params.top_p))
    if params.min_p:
        processors.append(_min_p(params.min_p))
    return processors


def _bias(bias: Mapping[int, float]) -> LogitsProcessor:
    tokens, values = torch.tensor(list(bias)), torch.tensor(list(bias.values()), dtype=torch.float32)

    def process(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        return logits_V.index_add(0, tokens.to(logits_V.device), values.to(logits_V.device))

    return process


def _repetition(penalty: float, prompt: Sequence[int]) -> LogitsProcessor:
    """The penalty of CTRL (arXiv 1909.05858): a positive logit is divided by it, a negative one multiplied."""

    def process(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        seen = torch.tensor(sorted({*prompt, *reply}), device=logits_V.device)
        logits = logits_V[seen]
        return logits_V.index_copy(0, seen, torch.where(logits > 0, logits / penalty, logits * penalty))

    return process


def _occurrence(presence: float, frequency: float) -> LogitsProcessor:
    """OpenAI's penalties: `presence` once, and `frequency` for each time, that the reply contains a token."""

    def process(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        counts_V = torch.bincount(torch.tensor(reply, dtype=torch.long), minlength=len(logits_V)).to(logits_V.device)
        return logits_V - presence * (counts_V > 0) - frequency * counts_V

    return process


def _top_k(k: int) -> LogitsProcessor:
    def process(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        lowest = logits_V.topk(min(k, len(logits_V))).values[-1]
        return logits_V.masked_fill(logits_V < lowest, -torch.inf)

    return process


HEAD = 256
"""Tokens among which top-p is looked for first: finding them takes a thirtieth of the time of sorting all."""


def _top_p(p: float) -> LogitsProcessor:
    """Keeps the smallest set of most probable tokens with a total probability of `p` (arXiv 1904.09751)."""

    def process(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        probabilities_V = logits_V.softmax(-1)
        probabilities, order = probabilities_V.topk(min(HEAD, len(logits_V)))
        if float(probabilities.sum()) < p:
            probabilities, order = probabilities_V.sort(descending=True)
        kept = order[probabilities.cumsum(-1) - probabilities < p]
        return torch.full_like(logits_V, -torch.inf).index_copy(0, kept, logits_V[kept])

    return process


def _min_p(p: float) -> LogitsProcessor:
    """Drops tokens less than `p` times as probable as the argmax (arXiv 2407.01082)."""

    def process(logits_V: Tensor, reply: Sequence[int]) -> Tensor:
        return logits_V.masked_fill(logits_V < logits_V.max() + math.log(p), -torch.inf)

    return process
