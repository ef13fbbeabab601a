"""Losses of preference training as functions of log-likelihoods. Knows no model, no batch and no trainer.

Arguments are log-likelihoods of completions in nats, one entry for each pair or completion; results are the loss of
each. Rewards are `beta` times the log-likelihood ratio of model and reference.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

DpoLoss = Literal["sigmoid", "ipo", "hinge"]


class Pairs(NamedTuple):
    """Log-likelihoods of the completions of P pairs, (P) each, and their tokens (the sums of their weights)."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        return self.rejected - self.reference_rejected

    @property
    def chosen_mean(self) -> Tensor:
        """The log-likelihood per token."""
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> Tensor:
        return self.rejected / self.rejected_tokens


def dpo(pairs: Pairs, beta: float, label_smoothing: float = 0.0, kind: DpoLoss = "sigmoid") -> Tensor:
    """Direct preference optimisation, (P).

    sigmoid: DPO, arXiv 2305.18290, equation 7; `label_smoothing` is the probability that a label is wrong (conservative
    DPO; Mitchell, "A note on DPO with noisy preferences"). hinge: SLiC, arXiv 2305.10425. ipo: arXiv 2310.12036,
    equation 17, of log-likelihoods per token; `beta` is its tau.
    """
    margin = pairs.chosen_ratio - pairs.rejected_ratio
    if kind == "sigmoid":
        right, wrong = -logsigmoid(beta * margin), -logsigmoid(-beta * margin)
        return (1 - label_smoothing) * right + label_smoothing * wrong
    if kind == "hinge":
        return torch.relu(1 - beta * margin)
    assert kind == "ipo", kind
    mean_margin = pairs.chosen_ratio / pairs.chosen_tokens - pairs.rejected_ratio / pairs.rejected_tokens
    return (mean_margin - 1 / (2 * beta)) ** 2


def log_odds_ratio(pairs: Pairs) -> Tensor:
    """log(odds of the chosen completion / odds of the rejected), by their likelihoods per token, (P).

    arXiv 2403.07691, equations 4 and 7, in fp32.
    """
    chosen, rejected = pairs.chosen_mean.float(), pairs.rejected_mean.float()
    return (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))


def orpo(pairs: Pairs, beta: float) -> Tensor:
    """The odds ratio term of ORPO, (P); the likelihood of the chosen completions is added to it (`lambda` is beta)."""
    return -beta * logsigmoid(log_odds_ratio(pairs))


def kto(
    ratio_N: Tensor,
    desirable_N: Tensor,
    divergence: Tensor | float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimisation, (N): arXiv 2402.01306.

    `ratio_N`: log-likelihood ratios of model and reference. `desirable_N`: booleans. `divergence`: the estimate of the
    KL divergence of the model from the reference, 0 or more, which gets no gradient.
    """
    sign_N = torch.where(desirable_N, 1.0, -1.0)
    weight_N = torch.where(desirable_N, desirable_weight, undesirable_weight)
    return weight_N * (1 - torch.sigmoid(beta * sign_N * (ratio_N - divergence)))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of x < 0, exact near 0 and far below it (Maechler, "Accurately computing log(1 - exp(-|a|))")."""
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    near = x > -0.6931471805599453
    # both branches are differentiable everywhere, so the one that is not taken gives no NaN
    by_expm1 = torch.log(-torch.expm1(torch.where(near, x, -1.0)))
    by_log1p = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, by_expm1, by_log1p)
