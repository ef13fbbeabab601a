"""A decoder block that computes rows without padding in few large products. Knows no model and no trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from swift.model.decoder_layers import decoder_layer
from swift.native import processor
from swift.tuner.cpu import block as native_block
from swift.tuner.cpu.attention_function import Attention, Heads
from swift.tuner.cpu.dropout_masks import DropoutMasks
from swift.tuner.cpu.elementwise_functions import AddNorm, SwiGlu
from swift.tuner.cpu.joined_linear import JoinedLinear
from swift.tuner.cpu.linear_function import GradientSums
from swift.tuner.cpu.panels import SIDE

Mask = TypeVar("Mask")


class FusedBlock(GradientCheckpointingLayer):  # type: ignore[misc]
    """Replaces a decoder's block and holds its modules under their names, so that PEFT saves and merges as before.

    The last block leaves out all positions but the `wanted` ones once keys and values are computed. A call without
    `rows` goes to the original block.
    """

    def __init__(self, block: nn.Module, index: int, last: bool, dtype: torch.dtype | None) -> None:
        super().__init__()
        for name, module in block.named_children():
            self.add_module(name, module)
        self.train(block.training)
        # in tuples, so that their modules are not registered twice
        self._original = (block,)
        self._layer = layer = decoder_layer(self, block.get_submodule("self_attn").config, index)
        self._index, self._last = index, last
        self._qkv, self._out = JoinedLinear(layer.qkv, dtype), JoinedLinear(layer.out, dtype)
        self._gate_up, self._down = JoinedLinear(layer.gate_up, dtype), JoinedLinear(layer.down, dtype)
        self.linears = (self._qkv, self._out, self._gate_up, self._down)
        self._dtype = self._out.dtype
        self._heads = Heads(*layer.heads, layer.window)
        self._native: native_block.Block | None = None

    @property
    def is_native(self) -> bool:
        """Whether C++ computes the block."""
        return self._native is not None

    @property
    def takes_branches(self) -> bool:
        return self._heads.window is None

    @property
    def kernels(self) -> str:
        """The instruction set of the C++ that computes the block, or that torch's functions do."""
        return self._native.kernels if self._native else processor.TORCH

    def why_not_native(self) -> str:
        """Why C++ cannot compute the block; empty if it can."""
        adapters = {id(each) for linear in self.linears for each in linear.lora_tensors()}
        if any(each.requires_grad and id(each) not in adapters for each in self.parameters()):
            return "it is for LoRA only"
        widths = [*(each.inputs for each in self.linears), self._heads.width]
        dtypes = {each.dtype for each in self.linears}
        if len(dtypes) > 1 or not dtypes <= set(native_block.DTYPES):
            return "it is for bf16 or fp32"
        if any(each % SIDE for each in widths) or self._heads.width > native_block.MAX_HEAD_DIM:
            return f"it is for widths that are multiples of {SIDE}, and heads up to {native_block.MAX_HEAD_DIM} wide"
        return ""

    def make_native(self, memory: native_block.BlockMemory, kernels: str) -> None:
        """Lays the weights out for C++, in place of the model's own, and computes with it from now on."""
        layers = [native_block.Layer([each.weight], each.bias, each.adapter_spans) for each in self.linears]
        norms, head_norms = (
            [native_block.Norm(norm.weight, norm.variance_epsilon) for norm in each]
            for each in ((self._layer.norm, self._layer.norm_mlp), self._layer.head_norms or ())
        )
        shape = native_block.Shape(*self._heads, self._layer.residual_multiplier)
        self._native = native_block.Block(layers, norms, head_norms, shape, memory, kernels)
        for linear, panels in zip(self.linears, self._native.panels, strict=True):
            linear.keep_as_panels(panels)

    def refresh(self) -> None:
        """Copies changed parameters into what is computed with."""
        for each in self.linears:
            each.refresh()

    def forward(
        self,
        hidden_states: Tensor,
        rows: Tensor | None = None,
        wanted: Tensor | None = None,
        masks: DropoutMasks | None = None,
        sums: GradientSums | None = None,
        branches: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **others: Any,
    ) -> Tensor:
        """(1, T, hidden size) -> the same, or (1, wanted positions, hidden size) of the last block.

        `rows`: the tokens of each row. `sums`: where gradients of weights are added up. `branches` (1, T): a token does
        not see those of its row with another number, but for those with 0.
        """
        if rows is None:
            others["position_embeddings"] = position_embeddings
            answer: Tensor = self._original[0](hidden_states, **others)
            return answer
        assert position_embeddings is not None
        cos, sin = (each[0].to(self._dtype) for each in position_embeddings)
        rotary = (cos, sin) if self._layer.rotary else None
        if not self._last:
            wanted = None
        if self._native is not None and hidden_states.dtype == self._dtype:
            bits = [self._mask(DropoutMasks.bits, masks, number) for number in range(4)]
            adapters = [each.lora_tensors() for each in self.linears]
            branches_T = None if branches is None else branches[0]
            return self._native(hidden_states[0], rotary, rows, branches_T, wanted, bits, adapters)[None]
        x = hidden_states[0].to(self._dtype)
        return self._forward(x, rotary, rows.tolist(), branches, wanted, masks, sums)[None]

    def _forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        lengths: list[int],
        branches: Tensor | None,
        wanted: Tensor | None,
        masks: DropoutMasks | None,
        sums: GradientSums | None,
    ) -> Tensor:
        """The block by torch's functions."""
        mask_qkv, mask_out, mask_gate_up, mask_down = (self._mask(DropoutMasks.take, masks, n) for n in range(4))
        x, y, dropped = self._add_norm(self._layer.norm, x, None, mask_qkv)
        qkv = self._qkv(y, dropped, sums)
        if self._layer.head_norms:
            qkv = self._norm_heads(qkv, *self._layer.head_norms)
        attended, dropped = Attention.apply(  # type: ignore[no-untyped-call]
            qkv, rotary, lengths, branches, self._heads, mask_out
        )
        if wanted is not None:
            # from here on a position needs no other one
            x, attended = x[wanted], attended[wanted]
            dropped, mask_gate_up, mask_down = (
                None if each is None else each[wanted] for each in (dropped, mask_gate_up, mask_down)
            )
        x, y, dropped = self._add_norm(self._layer.norm_mlp, x, self._out(attended, dropped, sums), mask_gate_up)
        gated, dropped = SwiGlu.apply(self._gate_up(y, dropped, sums), mask_down)  # type: ignore[no-untyped-call]
        return x.add(self._down(gated, dropped, sums), alpha=self._layer.residual_multiplier)

    def _mask(
        self, take: Callable[[DropoutMasks, int, int], Mask], masks: DropoutMasks | None, number: int
    ) -> Mask | None:
        """The mask of input `number` of the block's four; None where its adapters have no dropout."""
        linear = self.linears[number]
        if masks is None or not linear.dropout:
            return None
        return take(masks, len(self.linears) * self._index + number, linear.inputs)

    def _add_norm(
        self, norm: Any, x: Tensor, delta: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        made: tuple[Tensor, Tensor, Tensor | None] = AddNorm.apply(  # type: ignore[no-untyped-call]
            x, delta, self._layer.residual_multiplier, norm.weight, norm.variance_epsilon, mask
        )
        return made

    def _norm_heads(self, qkv: Tensor, q_norm: Any, k_norm: Any) -> Tensor:
        heads = self._heads
        q, k, v = qkv.unflatten(1, (-1, heads.width)).split([heads.queries, heads.keys, heads.keys], dim=1)
        q = self._add_norm(q_norm, q.flatten(0, 1), None, None)[1]
        k = self._add_norm(k_norm, k.flatten(0, 1), None, None)[1]
        return torch.cat([q.view(len(qkv), -1), k.view(len(qkv), -1), v.flatten(1)], dim=1)
