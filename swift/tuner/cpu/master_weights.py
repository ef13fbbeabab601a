"""Parameters joined to one tensor, and that tensor in the dtype that products are made in. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class MasterWeights:
    """Parameters below each other: their values become views of one tensor, so what changes them in place changes it.

    `tensor` has the values in `dtype`. Where that is not the parameters' own (mixed precision, arXiv 1710.03740), it is
    a copy that `refresh` makes again: after each step of an optimizer, after a checkpoint is read.
    """

    def __init__(self, parameters: Sequence[Tensor], dtype: torch.dtype) -> None:
        self._parameters = parameters
        self._trained = any(each.requires_grad for each in parameters)
        self._whole = parameters[0].detach()
        if len(parameters) > 1:
            self._whole = torch.cat([each.detach() for each in parameters])
            for each, part in zip(parameters, self._parts(), strict=True):
                each.data = part
        self.tensor = self._whole.to(dtype)

    def refresh(self) -> None:
        if not self._trained:
            return
        for each, part in zip(self._parameters, self._parts(), strict=True):
            if each.data_ptr() != part.data_ptr():  # what wraps a model can give its parameters other memory
                part.copy_(each.detach())
                each.data = part
        if self.tensor.dtype != self._whole.dtype:
            self.tensor.copy_(self._whole)

    def _parts(self) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = self._whole.split([len(each) for each in self._parameters])
        return parts
