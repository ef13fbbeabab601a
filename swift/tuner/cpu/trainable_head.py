"""An output head that is trained, with the negative log-likelihood of words. Knows hidden states and targets.

Logits are there for a stretch of words at a time, forwards and once more backwards, where the gradient of a stretch's
weights is one product over all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from swift.tuner.cpu.linear_function import GradientSums, add_product
from swift.tuner.cpu.master_weights import MasterWeights

LOGITS = 2**20
"""Logits at a time: few enough to stay in a processor's cache, as many as keep products large."""
FEWEST = 256
"""Words at a time, at least."""


def why_not(head: nn.Module) -> str:
    """Why this head is computed by itself instead; empty where it need not."""
    if type(head) is not nn.Linear or not head.weight.requires_grad:
        return "it is no trained linear layer"
    return "" if head.bias is None else "it has a bias"


class TrainableHead(nn.Linear):
    """Stands for an `nn.Linear` that `why_not` has nothing against, and holds its weight; computes in `dtype`."""

    def __init__(self, head: nn.Linear, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight, self.bias = head.weight, head.bias
        self._computed = MasterWeights([self.weight], dtype)

    def refresh(self) -> None:
        self._computed.refresh()

    def nll(
        self, hidden_NI: Tensor, scale: float, targets_N: Tensor, hits: bool, sums: GradientSums | None = None
    ) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood of each target, its logits times `scale`, and whether it is the first choice."""
        weight_VI = self._computed.tensor
        hidden_NI = hidden_NI.to(weight_VI.dtype)
        found: tuple[Tensor, Tensor] = _Nll.apply(hidden_NI, self.weight, weight_VI, scale, targets_N, hits, sums)  # type: ignore[no-untyped-call]
        return found


class _Nll(Function):
    """`weight_VI` is computed with, `parameter_VI` gets its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NI: Tensor,
        parameter_VI: Tensor,
        weight_VI: Tensor,
        scale: float,
        targets_N: Tensor,
        hits: bool,
        sums: GradientSums | None,
    ) -> tuple[Tensor, Tensor]:
        count = len(targets_N)
        most_N = hidden_NI.new_full((count,), -torch.inf, dtype=torch.float32)
        total_N, right_N = (torch.zeros_like(most_N) for _ in range(2))
        choice_N = torch.zeros_like(targets_N)
        for first, words in _stretches(weight_VI, count):
            logits = torch.nn.functional.linear(hidden_NI, words).float().mul_(scale)
            most, choice = logits.max(-1)
            if hits:
                choice_N = torch.where(most > most_N, choice + first, choice_N)
            here = (targets_N >= first) & (targets_N < first + len(words))
            right_N[here] = logits[here, targets_N[here] - first]
            higher = torch.maximum(most_N, most)
            total_N = total_N * (most_N - higher).exp_() + logits.sub_(higher[:, None]).exp_().sum(-1)
            most_N = higher
        scale_N = most_N + total_N.log()
        ctx.save_for_backward(hidden_NI, weight_VI, targets_N, scale_N)
        ctx.scale, ctx.parameter, ctx.sums = scale, parameter_VI, sums
        hit_N = choice_N == targets_N if hits else torch.empty(0, dtype=torch.bool)
        ctx.mark_non_differentiable(hit_N)
        return scale_N - right_N, hit_N

    @staticmethod
    def backward(ctx: Any, dnll_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NI, weight_VI, targets_N, scale_N = ctx.saved_tensors
        dhidden_NI = torch.zeros_like(hidden_NI, dtype=torch.float32)
        parameter_VI = ctx.parameter
        dweight_VI = torch.zeros_like(parameter_VI) if ctx.sums is None else ctx.sums.of(parameter_VI)
        factor_N1 = (dnll_N * ctx.scale)[:, None]
        for first, words in _stretches(weight_VI, len(targets_N)):
            logits = torch.nn.functional.linear(hidden_NI, words).float().mul_(ctx.scale)
            shares = logits.sub_(scale_N[:, None]).exp_()
            here = ((targets_N >= first) & (targets_N < first + len(words))).nonzero()[:, 0]
            shares[here, targets_N[here] - first] -= 1
            gradient = shares.mul_(factor_N1).to(hidden_NI.dtype)
            dhidden_NI += gradient @ words
            add_product(dweight_VI[first : first + len(words)], gradient.T, hidden_NI)
        dhidden_NI = dhidden_NI.to(hidden_NI.dtype)
        return dhidden_NI, dweight_VI if ctx.sums is None else None, None, None, None, None, None


def _stretches(weight_VI: Tensor, tokens: int) -> Iterator[tuple[int, Tensor]]:
    """Stretches of words, and the first word of each."""
    size = max(FEWEST, LOGITS // max(tokens, 1))
    return ((first, weight_VI[first : first + size]) for first in range(0, len(weight_VI), size))
