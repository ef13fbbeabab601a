"""Draws tokens from logits by inverting the cumulative distribution. Knows no sampling option but the temperature.

torch.multinomial draws as many random numbers as the vocabulary has tokens; one is enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PART = 256
"""Tokens whose probabilities are summed first, so that the cumulative sum is short."""
ROWS = 8
"""Rows of logits at a time: with more, the allocator returns their copies to the system each time."""
_BELOW_1 = 1 - 2**-52


def uniform(generator: torch.Generator | None) -> float:
    """A random number of [0, 1). It comes from the CPU, so that a seed means the same on every device."""
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def draw(logits_NV: Tensor, uniforms: Sequence[float]) -> Tensor:
    """A token (N) of each row of fp32 logits, with the probabilities of their softmax; -inf is never drawn.

    A row's token depends on its logits and its number of `uniforms` alone. Raises ValueError for NaN and for rows
    without a finite logit.
    """
    if logits_NV.device.type == "mps":  # without fp64
        logits_NV = logits_NV.cpu()
    rows, vocabulary = logits_NV.shape
    highest_N = logits_NV.amax(-1)
    if not bool(highest_N.isfinite().all()):  # amax is NaN where a logit is
        raise ValueError("the logits are not finite: nothing can be sampled from them")
    weights_NV = (logits_NV - highest_N[:, None]).exp_()
    weights_NPV = torch.nn.functional.pad(weights_NV, (0, -vocabulary % PART)).view(rows, -1, PART)
    ends_NP = weights_NPV.sum(-1, dtype=torch.float64).cumsum(-1)
    targets_N1 = torch.tensor(uniforms, dtype=torch.float64, device=logits_NV.device)[:, None] * ends_NP[:, -1:]
    part_N1 = _first_above(ends_NP, targets_N1)
    within_NV = weights_NPV[torch.arange(rows, device=part_N1.device), part_N1[:, 0]].double().cumsum(-1)
    starts_N1 = ends_NP.gather(-1, part_N1) - within_NV[:, -1:]
    return (part_N1 * PART + _first_above(within_NV, targets_N1 - starts_N1))[:, 0]


def _first_above(sums_NK: Tensor, targets_N1: Tensor) -> Tensor:
    """(N, 1): the first place at which a rising sum is above a target; rounding never gives one of probability 0."""
    return torch.searchsorted(sums_NK, torch.minimum(targets_N1, sums_NK[:, -1:] * _BELOW_1), right=True)


def logprobs(logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """The log probabilities (N) of one token a row under fp32 logits."""
    highest_N1 = logits_NV.amax(-1, keepdim=True)
    totals_N1 = (logits_NV - highest_N1).exp_().sum(-1, keepdim=True).log_()
    return (logits_NV.gather(-1, tokens_N.to(logits_NV.device)[:, None]) - highest_N1 - totals_N1)[:, 0]
