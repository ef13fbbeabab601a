"""Parameters joined into one tensor, and a copy of it in the dtype of products. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class MasterWeights:
    """Parameters concatenated along the first dimension: they become views of one tensor, updated in place.

    `tensor` holds the values in `dtype`. If that is not the parameters' own (mixed precision, arXiv 1710.03740), it is
    a copy; call `refresh` after each optimizer step and after loading a checkpoint.
    """

    def __init__(self, parameters: Sequence[Tensor], dtype: torch.dtype) -> None:
        self._parameters = parameters
        self._trained = any(each.requires_grad for each in parameters)
        self._joined = parameters[0].detach()
        if len(parameters) > 1:
            self._joined = torch.cat([each.detach() for each in parameters])
            for each, part in zip(parameters, self._parts(), strict=True):
                each.data = part
        self.tensor = self._joined.to(dtype)

    def refresh(self) -> None:
        if not self._trained:
            return
        for each, part in zip(self._parameters, self._parts(), strict=True):
            if each.data_ptr() != part.data_ptr():  # a wrapper of the model may have moved the parameter
                part.copy_(each.detach())
                each.data = part
        if self.tensor.dtype != self._joined.dtype:
            self.tensor.copy_(self._joined)

    def _parts(self) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = self._joined.split([len(each) for each in self._parameters])
        return parts
