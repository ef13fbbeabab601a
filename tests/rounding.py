"""What it costs to multiply with numbers of few bits: errors that follow from the bits, whatever the processor.

A number rounded to multiples of `step` errs by at most step / 2, evenly, so its root mean square (RMS) error is
step / sqrt(12). Errors of different numbers are independent: a row x @ W' whose inputs err by an RMS of e errs, as a
row, by an RMS of e * |W|, and one whose weights do by e * |x|.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swift.engine.cpu.products import GROUP

MOST = 1.5
"""The error of one row over its RMS: over 64 outputs or more the standard deviation is 0.12, and this four of them."""


def activation_bits() -> int:
    """8 bits leave seven for what is multiplied with them where the processor has no VNNI."""
    return 8 if torch.cpu._is_vnni_supported() else 7


def of_activations(x_NI: Tensor) -> Tensor:
    """RMS error of each row's numbers where 8-bit weights multiply them: steps over at most twice their largest."""
    return 2 * x_NI.abs().amax(1) / (2 ** activation_bits() - 1) / 12**0.5


def of_products(bits: int, weight_OI: Tensor, x_NI: Tensor) -> Tensor:
    """RMS error of each row of x @ W' by `bits` of the weights, and by what they make of x."""
    if bits == 8:
        step_O = weight_OI.abs().amax(1) / 127
        by_weights = x_NI.norm(dim=1) * step_O.norm() / 12**0.5
        return (by_weights**2 + (of_activations(x_NI) * weight_OI.norm()) ** 2).sqrt()
    step_OG = _steps_of_groups(weight_OI)
    groups_NG = x_NI.unflatten(1, (-1, GROUP)).norm(dim=2)
    return (groups_NG**2 @ step_OG.T**2).sum(1).sqrt() / 12**0.5


def of_dtype(dtype: torch.dtype, bits: int, weight_OI: Tensor, x_NI: Tensor, y_NO: Tensor) -> Tensor:
    """RMS error of each row, at most, by numbers being kept in `dtype` on the way.

    A number of it errs by eps / 2 of itself at most. Rounded are x, W, and y three times (product, scale, bias); 4-bit
    weights as numbers are a product, a zero and their sum, none larger than the 15 steps of a group. Sums are of fp32,
    in any order.
    """
    one = torch.finfo(dtype).eps / 2 / 3**0.5
    both = weight_OI.norm() * x_NI.norm(dim=1)
    sums = x_NI.shape[1] * torch.finfo(torch.float32).eps / 2 * both
    total = 2 * (one * both) ** 2 + 3 * (one * y_NO.norm(dim=1)) ** 2 + sums**2
    if bits == 4:
        steps = 15 * _steps_of_groups(weight_OI).norm() * GROUP**0.5
        total += 3 * (one * steps / x_NI.shape[1] ** 0.5 * x_NI.norm(dim=1)) ** 2
    return total.sqrt()


def between(bits: int, weight_OI: Tensor, x_NI: Tensor, kept_N: Tensor) -> Tensor:
    """RMS of the difference of two products with one rounded weight, when x was rounded afresh for each; `kept_N`: what
    `of_dtype` says of either."""
    apart_N = of_activations(x_NI) * weight_OI.norm() if bits == 8 else torch.zeros(len(x_NI))
    return (2 * (apart_N**2 + kept_N**2)).sqrt()


def _steps_of_groups(weight_OI: Tensor) -> Tensor:
    groups = weight_OI.unflatten(1, (-1, GROUP))
    return (groups.amax(-1) - groups.amin(-1)) / 15
