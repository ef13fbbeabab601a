"""A trainable output head with the negative log-likelihood, in chunks of the vocabulary. Knows hidden states only.

Logits exist for one chunk at a time, in the forward pass and again in the backward pass, where the gradient of a
chunk's weights is one product over all tokens.
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
"""Logits of a chunk: few enough for a processor's cache, enough for large products."""
FEWEST = 256
"""Tokens of the vocabulary in a chunk, at least."""


def why_not(head: nn.Module) -> str:
    """Why this head is not replaced; empty if it is."""
    if type(head) is not nn.Linear or not head.weight.requires_grad:
        return "it is not a trainable linear layer"
    return "" if head.bias is None else "it has a bias"


class TrainableHead(nn.Linear):
    """Replaces an `nn.Linear` that `why_not` does not object to, and holds its weight; computes in `dtype`."""

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
        """The negative log-likelihood of each target under logits times `scale`, and whether it is the argmax.

        `hits` False: the second is empty. `sums`: where the gradient of the weight is added up.
        """
        weight_VI = self._computed.tensor
        hidden_NI = hidden_NI.to(weight_VI.dtype)
        found: tuple[Tensor, Tensor] = _Nll.apply(hidden_NI, self.weight, weight_VI, scale, targets_N, hits, sums)  # type: ignore[no-untyped-call]
        return found


class _Nll(Function):
    """`weight_VI` is `parameter_VI` in the dtype of products; the latter gets the gradient."""

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
        max_N = hidden_NI.new_full((count,), -torch.inf, dtype=torch.float32)
        total_N, target_N = (torch.zeros_like(max_N) for _ in range(2))
        argmax_N = torch.zeros_like(targets_N)
        for first, chunk_VI in _chunks(weight_VI, count):
            logits = torch.nn.functional.linear(hidden_NI, chunk_VI).float().mul_(scale)
            highest, choice = logits.max(-1)
            if hits:
                argmax_N = torch.where(highest > max_N, choice + first, argmax_N)
            here = (targets_N >= first) & (targets_N < first + len(chunk_VI))
            target_N[here] = logits[here, targets_N[here] - first]
            higher = torch.maximum(max_N, highest)
            total_N = total_N * (max_N - higher).exp_() + logits.sub_(higher[:, None]).exp_().sum(-1)
            max_N = higher
        scale_N = max_N + total_N.log()
        ctx.save_for_backward(hidden_NI, weight_VI, targets_N, scale_N)
        ctx.scale, ctx.parameter, ctx.sums = scale, parameter_VI, sums
        hit_N = argmax_N == targets_N if hits else torch.empty(0, dtype=torch.bool)
        ctx.mark_non_differentiable(hit_N)
        return scale_N - target_N, hit_N

    @staticmethod
    def backward(ctx: Any, dnll_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NI, weight_VI, targets_N, scale_N = ctx.saved_tensors
        dhidden_NI = torch.zeros_like(hidden_NI, dtype=torch.float32)
        parameter_VI = ctx.parameter
        dweight_VI = torch.zeros_like(parameter_VI) if ctx.sums is None else ctx.sums.of(parameter_VI)
        factor_N1 = (dnll_N * ctx.scale)[:, None]
        for first, chunk_VI in _chunks(weight_VI, len(targets_N)):
            logits = torch.nn.functional.linear(hidden_NI, chunk_VI).float().mul_(ctx.scale)
            probabilities = logits.sub_(scale_N[:, None]).exp_()
            here = ((targets_N >= first) & (targets_N < first + len(chunk_VI))).nonzero()[:, 0]
            probabilities[here, targets_N[here] - first] -= 1
            gradient = probabilities.mul_(factor_N1).to(hidden_NI.dtype)
            dhidden_NI += gradient @ chunk_VI
            add_product(dweight_VI[first : first + len(chunk_VI)], gradient.T, hidden_NI)
        dhidden_NI = dhidden_NI.to(hidden_NI.dtype)
        return dhidden_NI, dweight_VI if ctx.sums is None else None, None, None, None, None, None


def _chunks(weight_VI: Tensor, tokens: int) -> Iterator[tuple[int, Tensor]]:
    """The first token and the weights of each chunk of the vocabulary."""
    size = max(FEWEST, LOGITS // max(tokens, 1))
    return ((first, weight_VI[first : first + size]) for first in range(0, len(weight_VI), size))
