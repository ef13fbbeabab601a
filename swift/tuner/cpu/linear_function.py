"""Products of linear layers that share an input, and embeddings, with their gradients written out. Knows no model.

Tensors hold the tokens of several rows one after another, without padding: (T tokens, width). Weights that are not
trained get no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function


class AdapterSpan(NamedTuple):
    """The outputs `start` to `stop` of joined layers to which one adapter adds, times `scale`."""

    start: int
    stop: int
    scale: float


class LayerSpan(NamedTuple):
    """The rows of a joined weight that are one layer's, and whether that layer has a bias."""

    start: int
    stop: int
    has_bias: bool


class GradientSums(Protocol):
    """Where gradients of parameters are added up, in place of torch's autograd, which would keep all of a batch."""

    def of(self, parameter: Tensor) -> Tensor:
        """The sum so far, to be added to in place."""


def add_product(sum_: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a @ b, whose dtype can be another than that of the sum."""
    if sum_.dtype == a.dtype:
        sum_.addmm_(a, b)
    else:
        sum_.add_(a @ b)


class Embed(Function):
    """Rows of an embedding. Gradients are added to the rows of a batch's tokens; no dense gradient is made."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight_VI: Tensor, padding: int | None, sums: GradientSums) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.weight, ctx.padding, ctx.sums = weight_VI, padding, sums
        return weight_VI[tokens]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (tokens,) = ctx.saved_tensors
        if ctx.padding is not None:
            dy = dy.masked_fill((tokens == ctx.padding)[..., None], 0)
        sum_VI = ctx.sums.of(ctx.weight)
        sum_VI.index_add_(0, tokens.flatten(), dy.flatten(0, -2).to(sum_VI.dtype))
        return None, None, None, None


class Linear(Function):
    """x W' + b + the sum over adapters of scale x (dropped A') B', with the gradients of what is trained.

    (T, I) -> (T, O). `bias_O` and `weight_OI` have the dtype of x. `tensors` are the adapters' lora_A, their lora_B,
    and the parameters that W and b were joined from: the weight of each span, then the bias of each that has one.
    These parameters are not read; where they are trained they get gradients in their own dtype, or in `sums`, where
    given.
    `dropped_TI` is x under a dropout mask, None where there is none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        dropped_TI: Tensor | None,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        adapters: Sequence[AdapterSpan],
        spans: Sequence[LayerSpan],
        sums: GradientSums | None,
        *tensors: Tensor,
    ) -> Tensor:
        y_TO = torch.nn.functional.linear(x_TI, weight_OI, bias_O)
        count = len(adapters)
        lora_A, lora_B = tensors[:count], tensors[count : 2 * count]
        ranks = [len(A_RI) for A_RI in lora_A]
        input_TI = reduced_TR = A_RI = B_OR = None
        if adapters:
            A_RI = torch.cat(lora_A).to(x_TI.dtype)
            B_OR = x_TI.new_zeros(len(weight_OI), sum(ranks))
            for span, b_OR, columns in zip(adapters, lora_B, B_OR.split(ranks, dim=1), strict=True):
                columns[span.start : span.stop] = b_OR * span.scale
            input_TI = x_TI if dropped_TI is None else dropped_TI
            reduced_TR = input_TI @ A_RI.T
            y_TO.addmm_(reduced_TR, B_OR.T)
        trained = ctx.needs_input_grad[BEFORE_TENSORS + 2 * count :]
        ctx.save_for_backward(x_TI if any(trained) else None, weight_OI, input_TI, reduced_TR, A_RI, B_OR)
        ctx.adapters, ctx.ranks, ctx.drops = adapters, ranks, dropped_TI is not None
        ctx.spans, ctx.trained = spans, trained
        ctx.sums, ctx.tensors = sums, tensors[2 * count :]
        ctx.dtypes = [each.dtype for each in tensors]
        return y_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, weight_OI, input_TI, reduced_TR, A_RI, B_OR = ctx.saved_tensors
        dx_TI = dy_TO @ weight_OI if ctx.needs_input_grad[0] else None
        ddropped_TI, lora_gradients = None, []
        if ctx.adapters:
            dreduced_TR = dy_TO @ B_OR
            dlora_B = zip(ctx.adapters, (reduced_TR.T @ dy_TO).split(ctx.ranks), strict=True)
            lora_gradients = [
                *(dreduced_TR.T @ input_TI).split(ctx.ranks),
                *(rows[:, span.start : span.stop].T * span.scale for span, rows in dlora_B),
            ]
            if dx_TI is not None and ctx.drops:
                ddropped_TI = dreduced_TR @ A_RI
            elif dx_TI is not None:
                dx_TI.addmm_(dreduced_TR, A_RI)
        found = [*lora_gradients, *_parameter_gradients(ctx, dy_TO, x_TI)]
        gradients = [None if each is None else each.to(dtype) for each, dtype in zip(found, ctx.dtypes, strict=True)]
        return (dx_TI, ddropped_TI, None, None, None, None, None, *gradients)


BEFORE_TENSORS = 7
"""Arguments of `Linear` before its `tensors`."""


def _parameter_gradients(ctx: Any, dy_TO: Tensor, x_TI: Tensor | None) -> list[Tensor | None]:
    """Of the spans' weights, then of their biases; None where it is not trained or was added to the sums."""
    spans: Sequence[LayerSpan] = ctx.spans
    owners = [*spans, *(span for span in spans if span.has_bias)]
    found: list[Tensor | None] = []
    for index, (span, parameter, is_trained) in enumerate(zip(owners, ctx.tensors, ctx.trained, strict=True)):
        if not is_trained:
            found.append(None)
            continue
        dy, sum_ = dy_TO[:, span.start : span.stop], _sum_of(parameter, ctx.sums)
        if index < len(spans):
            assert x_TI is not None
            add_product(sum_, dy.T, x_TI)
        else:
            sum_ += dy.sum(0, dtype=torch.float32)
        found.append(sum_ if ctx.sums is None else None)
    return found


def _sum_of(parameter: Tensor, sums: GradientSums | None) -> Tensor:
    return torch.zeros_like(parameter) if sums is None else sums.of(parameter)
