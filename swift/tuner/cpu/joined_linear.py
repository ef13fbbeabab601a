"""Linear layers with one input, with LoRA or without, computed as one product. Knows no block and no model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from swift.tuner.cpu.linear_function import AdapterSpan, GradientSums, LayerSpan, Linear
from swift.tuner.cpu.master_weights import MasterWeights
from swift.tuner.cpu.panels import Panels, free_packed

ADAPTER = "default"
"""The name under which PEFT keeps the adapter that is trained."""


class JoinedLinear:
    """The layers' weights become views of one weight, (outputs of all layers, inputs), kept in `dtype`."""

    def __init__(self, linears: Sequence[Any], dtype: torch.dtype | None) -> None:
        """`dtype` None: the weights' own."""
        self._layers = layers = [each.base_layer if isinstance(each, LoraLinear) else each for each in linears]
        sizes = [each.out_features for each in layers]
        self.inputs, self.dtype = layers[0].in_features, dtype or layers[0].weight.dtype
        stops = list(accumulate(sizes))
        self._spans = [
            LayerSpan(stop - size, stop, each.bias is not None)
            for each, stop, size in zip(layers, stops, sizes, strict=True)
        ]
        self._biases = [each.bias for each in layers if each.bias is not None]
        self._weight: MasterWeights | None = MasterWeights([each.weight for each in layers], self.dtype)
        self._bias = MasterWeights(self._biases, self.dtype) if self._biases else None
        adapted = [
            (each, span) for each, span in zip(linears, self._spans, strict=True) if isinstance(each, LoraLinear)
        ]
        self.adapters: list[Any] = [each for each, _ in adapted]
        self.adapter_spans = [AdapterSpan(span.start, span.stop, each.scaling[ADAPTER]) for each, span in adapted]
        dropouts = [each.lora_dropout[ADAPTER] for each in self.adapters]
        self.dropout = max((each.p for each in dropouts if isinstance(each, nn.Dropout)), default=0.0)

    @property
    def weight(self) -> Tensor:
        """(outputs of all layers, inputs), in `dtype`."""
        if self._weight is None:
            self._weight = MasterWeights([each.weight for each in self._layers], self.dtype)
        return self._weight.tensor

    @property
    def bias(self) -> Tensor | None:
        """(outputs of all layers), in `dtype`, zeros for layers without one; None if no layer has one."""
        if self._bias is None:
            return None
        if all(span.has_bias for span in self._spans):
            return self._bias.tensor
        biases = iter(self._bias.tensor.split([span.stop - span.start for span in self._spans if span.has_bias]))
        zeros = self._bias.tensor.new_zeros
        return torch.cat([next(biases) if span.has_bias else zeros(span.stop - span.start) for span in self._spans])

    @property
    def _parameters(self) -> list[Tensor]:
        return [each.weight for each in self._layers] + self._biases

    def keep_as_panels(self, panels: Panels) -> None:
        """Frees the frozen weights, which `panels` holds in another layout."""
        free_packed(self._layers, panels)
        self._weight = None

    def refresh(self) -> None:
        """Copies changed parameters into what is computed with."""
        if self._weight is not None:
            self._weight.refresh()
        if self._bias is not None:
            self._bias.refresh()

    def is_trained(self) -> bool:
        """Whether a weight or a bias of the layers themselves is trained."""
        return any(each.requires_grad for each in self._parameters)

    def lora_tensors(self) -> list[Tensor]:
        """The lora_A of all adapters, then their lora_B; none while adapters are disabled."""
        if not self.adapters or self.adapters[0].disable_adapters:
            return []
        tensors = [each.lora_A[ADAPTER].weight for each in self.adapters]
        return tensors + [each.lora_B[ADAPTER].weight for each in self.adapters]

    def __call__(self, x: Tensor, dropped: Tensor | None, sums: GradientSums | None = None) -> Tensor:
        """(T, inputs) -> (T, outputs of all layers). `dropped`: x under the adapters' dropout mask."""
        tensors = self.lora_tensors()
        if not tensors and not self.is_trained():
            return nn.functional.linear(x, self.weight, self.bias)
        adapters = self.adapter_spans if tensors else []
        y: Tensor = Linear.apply(  # type: ignore[no-untyped-call]
            x, dropped, self.weight, self.bias, adapters, self._spans, sums, *tensors, *self._parameters
        )
        return y
