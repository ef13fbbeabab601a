"""The fast path: a decoder's blocks exchanged for ones that compute the same with fewer and larger products.

For LoRA and for weights themselves. The blocks keep the modules under their names, PEFT's among them, so what is
trained and saved is the same; `functions` has the sums.
They take rows without padding (`rows`: the lengths) and, in the last block, leave out all positions but the `wanted`
ones once keys and values are made. A call without `rows` is answered by the block that was there before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from swift.model.decoder_layers import FAMILIES, decoder_layer
from swift.native import processor
from swift.tuner.cpu import block as whole
from swift.tuner.cpu import head as head_of_words
from swift.tuner.cpu import trainable_head
from swift.tuner.cpu.functions import AddNorm, Attention, Embed, Heads, Linear, Part, Span, Sums, SwiGlu
from swift.tuner.cpu.master_weights import MasterWeights
from swift.tuner.cpu.panels import SIDE, Panels, give_up
from swift.tuner.decoder_parts import blocks

ATTENTIONS = ("grouped", "eager", "sdpa")
ADAPTER = "default"
Kind = TypeVar("Kind")


def why_not(model: Any) -> str:
    """Why this model cannot take the fast path; empty if it can."""
    if isinstance(model, PeftModel) and model.peft_type != "LORA":
        return "it is for LoRA and for full fine-tuning"
    base = _base(model)
    config = base.config
    if config.model_type not in FAMILIES:
        return f"it has no layers of model type {config.model_type}"
    if base.device.type != "cpu":
        return "it is for CPUs"
    if config._attn_implementation not in ATTENTIONS:
        return f"attention is {config._attn_implementation}"
    if config.hidden_act != "silu":
        return f"the activation is {config.hidden_act}"
    # optional in these configurations; each is a dropout that the fast path has not
    if any(getattr(config, name, 0) for name in ("attention_dropout", "resid_pdrop", "embd_pdrop")):
        return "the model itself has dropout"
    return next(filter(None, map(_why_not_block, blocks(base))), "")


def fuse(model: Any, kernels: str = "", dtype: torch.dtype | None = None) -> str:
    """Exchanges the model's blocks, where `why_not` has nothing against it.

    Blocks and head compute in `dtype`; None: in that of their weights. Where these differ, `refresh` has to be called
    whenever weights have changed. `kernels`: an instruction set (see native.load). Gives why blocks are computed by
    torch's functions rather than as a whole in C++; empty where they are not.
    """
    base = _base(model)
    found = blocks(base)
    made = [FusedBlock(block, index, index == len(found) - 1, dtype) for index, block in enumerate(found)]
    for index, block in enumerate(made):
        found[index] = block
    joined = [each for block in made for each in block.joined]
    probability = max(each.probability for each in joined)
    if probability:
        width = max(each.inputs for each in joined)
        base.get_decoder().register_forward_pre_hook(partial(_with_masks, width, probability), with_kwargs=True)
    if type(base.get_input_embeddings()) is nn.Embedding:
        hook = partial(_embedded, base.get_input_embeddings())
        base.get_decoder().register_forward_pre_hook(hook, with_kwargs=True)
    head = base.get_output_embeddings()
    if not trainable_head.why_not(head):
        base.set_output_embeddings(trainable_head.TrainableHead(head, dtype or head.weight.dtype))
    reason = next(filter(None, (each.why_not_whole() for each in made)), "")
    reason = reason or whole.why_not(joined[0].dtype, kernels)
    fast_head = not head_of_words.why_not(head, kernels)
    copied = [head.weight] if fast_head else []
    reason = reason or whole.why_not_room([each.weight for each in joined], copied, kernels)
    if not reason:
        if fast_head:
            base.set_output_embeddings(head_of_words.Head(head, kernels))
        memory = whole.Both(whole.Memory(), whole.Memory())
        for block in made:
            block.make_whole(memory, kernels)
        kept = [name for name, each in model.named_parameters() if each.is_meta]
        # every rank has read them from the same files
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, kept)
    return reason


def refresh(model: Any) -> None:
    """Tells blocks and head of a model that was fused that their weights have changed."""
    base = _base(model)
    for each in (*blocks(base), base.get_output_embeddings()):
        if isinstance(each, (FusedBlock, trainable_head.TrainableHead)):
            each.refresh()


def takes_any_length(model: Any) -> bool:
    """Whether the model is not quicker where the lengths of batches are few: its blocks are computed in C++."""
    found = list(blocks(model.get_base_model())) if isinstance(model, PeftModel) else []
    return bool(found) and all(isinstance(each, FusedBlock) and each.is_whole for each in found)


def kernels(model: Any) -> str:
    """What computes the blocks of a model: an instruction set of C++ of ours, or torch's functions."""
    return next((each.kernels for each in model.modules() if isinstance(each, FusedBlock)), processor.TORCH)


def _base(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _with_masks(
    width: int, probability: float, decoder: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Makes the masks of a batch of rows. `seed`, where it is among the inputs, decides on them."""
    seed = inputs.pop("seed", None)
    if "rows" in inputs and decoder.training:
        seed = int(torch.randint(2**62, ()) if seed is None else seed)
        dtype = next(decoder.parameters()).dtype
        inputs["masks"] = Masks(int(inputs["rows"].sum()), width, probability, dtype, seed)
    return args, inputs


def _embedded(
    embeddings: nn.Embedding, decoder: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Looks up the tokens of a batch with sums, which get the gradient of what is looked up."""
    if "sums" in inputs and embeddings.weight.requires_grad:
        tokens = inputs.pop("input_ids")
        inputs["inputs_embeds"] = Embed.apply(  # type: ignore[no-untyped-call]
            tokens, embeddings.weight, embeddings.padding_idx, inputs["sums"]
        )
    return args, inputs


def _why_not_block(block: nn.Module) -> str:
    for name, module in block.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return f"{name} is trained as a copy"
        if isinstance(module, BaseTunerLayer):
            if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear:
                return f"{name} is no plain LoRA on a plain linear layer"
            if module.lora_variant or module.active_adapters != [ADAPTER] or module.lora_bias[ADAPTER]:
                return f"{name} has a variant of LoRA"
    return ""


class Masks:
    """Dropout masks of one batch, cheap: a stretch of one random sequence for every input, from a place of its own.

    Within a mask the elements are independent; two masks can share a stretch, at places that differ. The probability
    is rounded to 1/256, and the masks' scale goes with the rounded one. The same `seed` gives the same masks.
    """

    LENGTH = 2  # in masks of the widest input

    def __init__(self, tokens: int, width: int, probability: float, dtype: torch.dtype, seed: int) -> None:
        self._tokens, self._dtype, self._seed = tokens, dtype, seed
        steps = -(-tokens * width * self.LENGTH // SIDE) * SIDE // 8
        chance = torch.Generator().manual_seed(seed)
        noise = torch.empty(steps, dtype=torch.int64).random_(-(2**63), None, generator=chance).view(torch.uint8)
        dropped = max(1, round(probability * 256))
        self._kept = noise >= dropped
        self._scale = 256 / (256 - dropped)

    def take(self, number: int, width: int) -> Tensor:
        """The mask of an input of so many features; `number` tells the batch's inputs apart."""
        start, stop = self._place(number, width)
        return self._sequence[start:stop].view(self._tokens, width)

    def bits(self, number: int, width: int) -> whole.Mask:
        """The same for a width that is a multiple of SIDE."""
        start, stop = self._place(number, width)
        return whole.Mask(self._words[start // SIDE : stop // SIDE], self._scale)

    def _place(self, number: int, width: int) -> tuple[int, int]:
        size = self._tokens * width
        start = random.Random(self._seed + number).randrange((len(self._kept) - size) // SIDE + 1) * SIDE
        return start, start + size

    @cached_property
    def _sequence(self) -> Tensor:
        return self._kept.to(self._dtype).mul_(self._scale)

    @cached_property
    def _words(self) -> Tensor:
        return torch.from_numpy(np.packbits(self._kept.numpy(), bitorder="little")).view(torch.int32)


class Joined:
    """Linear layers, with LoRA or without, that share an input: one product. Their weights become views of one."""

    def __init__(self, linears: Sequence[Any], dtype: torch.dtype | None) -> None:
        self._layers = layers = [each.base_layer if isinstance(each, LoraLinear) else each for each in linears]
        sizes = [each.out_features for each in layers]
        self.inputs, self.dtype = layers[0].in_features, dtype or layers[0].weight.dtype
        stops = list(accumulate(sizes))
        self._spans = [
            Span(stop - size, stop, each.bias is not None)
            for each, stop, size in zip(layers, stops, sizes, strict=True)
        ]
        self._biases = [each.bias for each in layers if each.bias is not None]
        self._weight: MasterWeights | None = MasterWeights([each.weight for each in layers], self.dtype)
        self._bias = MasterWeights(self._biases, self.dtype) if self._biases else None
        adapted = [
            (each, span) for each, span in zip(linears, self._spans, strict=True) if isinstance(each, LoraLinear)
        ]
        self.adapters: list[Any] = [each for each, _ in adapted]
        self.parts = [Part(span.start, span.stop, each.scaling[ADAPTER]) for each, span in adapted]
        drops = [each.lora_dropout[ADAPTER] for each in self.adapters]
        self.probability = max((each.p for each in drops if isinstance(each, nn.Dropout)), default=0.0)

    @property
    def weight(self) -> Tensor:
        """What is computed with, as `bias` is: (outputs of all, inputs)."""
        if self._weight is None:
            self._weight = MasterWeights([each.weight for each in self._layers], self.dtype)
        return self._weight.tensor

    @property
    def _own(self) -> list[Tensor]:
        return [each.weight for each in self._layers] + self._biases

    def give_up(self, kept: Panels) -> None:
        """Lets go of the frozen weights, which are kept as panels."""
        give_up(self._layers, kept)
        self._weight = None

    @property
    def bias(self) -> Tensor | None:
        if self._bias is None:
            return None
        if all(span.biased for span in self._spans):
            return self._bias.tensor
        parts = iter(self._bias.tensor.split([span.stop - span.start for span in self._spans if span.biased]))
        zeros = self._bias.tensor.new_zeros
        return torch.cat([next(parts) if span.biased else zeros(span.stop - span.start) for span in self._spans])

    def refresh(self) -> None:
        if self._weight is not None:
            self._weight.refresh()
        if self._bias is not None:
            self._bias.refresh()

    def is_trained(self) -> bool:
        """Whether a weight or a bias is trained itself."""
        return any(each.requires_grad for each in self._own)

    def tensors(self) -> list[Tensor]:
        """The adapters' A and then their B; none while they are switched off."""
        if not self.adapters or self.adapters[0].disable_adapters:
            return []
        tensors = [each.lora_A[ADAPTER].weight for each in self.adapters]
        return tensors + [each.lora_B[ADAPTER].weight for each in self.adapters]

    def __call__(self, x: Tensor, dropped: Tensor | None, sums: Sums | None = None) -> Tensor:
        tensors = self.tensors()
        if not tensors and not self.is_trained():
            return nn.functional.linear(x, self.weight, self.bias)
        parts = self.parts if tensors else []
        y: Tensor = Linear.apply(x, dropped, self.weight, self.bias, parts, self._spans, sums, *tensors, *self._own)  # type: ignore[no-untyped-call]
        return y


class FusedBlock(GradientCheckpointingLayer):  # type: ignore[misc]
    """Stands for a decoder's block and holds its modules under their names."""

    def __init__(self, block: nn.Module, index: int, last: bool, dtype: torch.dtype | None) -> None:
        super().__init__()
        for name, module in block.named_children():
            self.add_module(name, module)
        self.train(block.training)
        self._before = (block,)  # in a tuple, so that its modules are not found twice
        self._index, self._last = index, last
        layer = decoder_layer(self, block.get_submodule("self_attn").config, index)
        self._qkv, self._o = Joined(layer.qkv, dtype), Joined(layer.out, dtype)
        self._gate_up, self._down = Joined(layer.gate_up, dtype), Joined(layer.down, dtype)
        self.joined = (self._qkv, self._o, self._gate_up, self._down)
        self._dtype = self._o.dtype
        self._layer = layer  # a tuple, so that its modules are not found twice
        self._heads = Heads(*layer.heads, layer.window)
        self._factor = layer.residual_multiplier
        self._whole: whole.Block | None = None

    @property
    def is_whole(self) -> bool:
        return self._whole is not None

    @property
    def kernels(self) -> str:
        return self._whole.kernels if self._whole else processor.TORCH

    def why_not_whole(self) -> str:
        """Why the block is not computed as a whole; empty if nothing speaks against it."""
        adapters = {id(each) for joined in self.joined for each in joined.tensors()}
        if any(each.requires_grad and id(each) not in adapters for each in self.parameters()):
            return "it is for LoRA alone"
        widths = [*(each.inputs for each in self.joined), self._heads.width]
        dtypes = {each.dtype for each in self.joined}
        if len(dtypes) > 1 or not dtypes <= set(whole.DTYPES):
            return "it is for bf16 or fp32"
        if any(each % SIDE for each in widths) or self._heads.width > whole.WIDEST:
            return f"it is for widths that are multiples of {SIDE}, heads' up to {whole.WIDEST}"
        return ""

    def make_whole(self, memory: whole.Both, kernels: str) -> None:
        layers = [whole.Layer([each.weight], each.bias, each.parts) for each in self.joined]
        norms, head_norms = (
            [whole.Norm(norm.weight, norm.variance_epsilon) for norm in each]
            for each in ((self._layer.norm, self._layer.norm_mlp), self._layer.head_norms or ())
        )
        shape = whole.Shape(*self._heads, self._factor)
        self._whole = whole.Block(layers, norms, head_norms, shape, memory, kernels)
        for joined, panels in zip(self.joined, self._whole.panels, strict=True):
            joined.give_up(panels)

    def refresh(self) -> None:
        for each in self.joined:
            each.refresh()

    def forward(
        self,
        hidden_states: Tensor,
        rows: Tensor | None = None,
        wanted: Tensor | None = None,
        masks: Masks | None = None,
        sums: Sums | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **others: Any,
    ) -> Tensor:
        if rows is None:
            others["position_embeddings"] = position_embeddings
            answer: Tensor = self._before[0](hidden_states, **others)
            return answer
        assert position_embeddings is not None
        cos, sin = (each[0].to(self._dtype) for each in position_embeddings)
        turn = (cos, sin) if self._layer.rotary else None
        if self._whole is not None and hidden_states.dtype == self._o.dtype:
            places = wanted if self._last else None
            bits = [self._mask(Masks.bits, masks, number) for number in range(4)]
            adapters = [each.tensors() for each in self.joined]
            return self._whole(hidden_states[0], turn, rows, places, bits, adapters)[None]
        of_qkv, of_o, of_gate_up, of_down = (self._mask(Masks.take, masks, number) for number in range(4))
        x, y, dropped = self._add_norm(self._layer.norm, hidden_states[0].to(self._dtype), None, of_qkv)
        qkv = self._qkv(y, dropped, sums)
        if self._layer.head_norms:
            qkv = self._norm_heads(qkv, *self._layer.head_norms)
        attended, dropped = Attention.apply(qkv, turn, rows.tolist(), self._heads, of_o)  # type: ignore[no-untyped-call]
        if self._last and wanted is not None:
            # from here on a position needs no other one
            x, attended = x[wanted], attended[wanted]
            dropped, of_gate_up, of_down = (
                None if each is None else each[wanted] for each in (dropped, of_gate_up, of_down)
            )
        x, y, dropped = self._add_norm(self._layer.norm_mlp, x, self._o(attended, dropped, sums), of_gate_up)
        inner, dropped = SwiGlu.apply(self._gate_up(y, dropped, sums), of_down)  # type: ignore[no-untyped-call]
        return x.add(self._down(inner, dropped, sums), alpha=self._factor)[None]

    def _mask(self, take: Callable[[Masks, int, int], Kind], masks: Masks | None, number: int) -> Kind | None:
        joined = self.joined[number]
        if masks is None or not joined.probability:
            return None
        return take(masks, len(self.joined) * self._index + number, joined.inputs)

    def _norm(self, norm: Any, x: Tensor) -> Tensor:
        return self._add_norm(norm, x, None, None)[1]

    def _add_norm(
        self, norm: Any, x: Tensor, delta: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        made: tuple[Tensor, Tensor, Tensor | None] = AddNorm.apply(  # type: ignore[no-untyped-call]
            x, delta, self._factor, norm.weight, norm.variance_epsilon, mask
        )
        return made

    def _norm_heads(self, qkv: Tensor, q_norm: Any, k_norm: Any) -> Tensor:
        heads = self._heads
        q, k, v = qkv.unflatten(1, (-1, heads.width)).split([heads.queries, heads.keys, heads.keys], dim=1)
        q = self._norm(q_norm, q.flatten(0, 1))
        k = self._norm(k_norm, k.flatten(0, 1))
        return torch.cat([q.view(len(qkv), -1), k.view(len(qkv), -1), v.flatten(1)], dim=1)
