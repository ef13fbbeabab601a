"""The fast path of training on CPUs: a decoder's blocks and head replaced by ones with fewer and larger products.

For LoRA and for full fine-tuning. The new blocks keep PEFT's and transformers' modules under their names, so what is
trained and saved stays the same. They compute rows without padding; see `fused_block`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swift.model.decoder_layers import FAMILIES
from swift.native import processor
from swift.tuner.cpu import block as native_block
from swift.tuner.cpu import head as native_head
from swift.tuner.cpu import trainable_head
from swift.tuner.cpu.dropout_masks import DropoutMasks
from swift.tuner.cpu.fused_block import FusedBlock
from swift.tuner.cpu.joined_linear import ADAPTER
from swift.tuner.cpu.linear_function import Embed
from swift.tuner.decoder_parts import blocks

ATTENTIONS = ("grouped", "eager", "sdpa")
"""transformers' attention implementations that compute what the fast path computes."""


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
    # optional in these configurations; each is a dropout that the fast path does not have
    if any(getattr(config, name, 0) for name in ("attention_dropout", "resid_pdrop", "embd_pdrop")):
        return "the model itself has dropout"
    return next(filter(None, map(_why_not_block, blocks(base))), "")


def fuse(model: Any, kernels: str = "", dtype: torch.dtype | None = None) -> str:
    """Replaces the blocks and the head of a model that `why_not` does not object to.

    They compute in `dtype`, None: in that of their weights. Where the two differ, call `refresh` whenever weights have
    changed. `kernels`: an instruction set (see native.load). Returns why torch's functions compute the blocks instead
    of C++; empty if C++ does.
    """
    base = _base(model)
    found = blocks(base)
    made = [FusedBlock(block, index, index == len(found) - 1, dtype) for index, block in enumerate(found)]
    for index, block in enumerate(made):
        found[index] = block
    linears = [each for block in made for each in block.linears]
    dropout = max(each.dropout for each in linears)
    if dropout:
        width = max(each.inputs for each in linears)
        base.get_decoder().register_forward_pre_hook(partial(_with_masks, width, dropout), with_kwargs=True)
    if type(base.get_input_embeddings()) is nn.Embedding:
        hook = partial(_embedded, base.get_input_embeddings())
        base.get_decoder().register_forward_pre_hook(hook, with_kwargs=True)
    head = base.get_output_embeddings()
    if not trainable_head.why_not(head):
        base.set_output_embeddings(trainable_head.TrainableHead(head, dtype or head.weight.dtype))
    reason = next(filter(None, (each.why_not_native() for each in made)), "")
    reason = reason or native_block.why_not(linears[0].dtype, kernels)
    has_native_head = not native_head.why_not(head, kernels)
    copied = [head.weight] if has_native_head else []
    reason = reason or native_block.why_not_memory([each.weight for each in linears], copied, kernels)
    if not reason:
        if has_native_head:
            base.set_output_embeddings(native_head.Head(head, kernels))
        memory = native_block.BlockMemory(native_block.Memory(), native_block.Memory())
        for block in made:
            block.make_native(memory, kernels)
        in_panels = [name for name, each in model.named_parameters() if each.is_meta]
        # every rank has read them from the same files
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, in_panels)
    return reason


def refresh(model: Any) -> None:
    """Copies the changed weights of a fused model into what its blocks and head compute with."""
    base = _base(model)
    for each in (*blocks(base), base.get_output_embeddings()):
        if isinstance(each, (FusedBlock, trainable_head.TrainableHead)):
            each.refresh()


def takes_any_length(model: Any) -> bool:
    """Whether batches of many different lengths cost no speed, as where C++ computes all blocks."""
    found = list(blocks(model.get_base_model())) if isinstance(model, PeftModel) else []
    return bool(found) and all(isinstance(each, FusedBlock) and each.is_native for each in found)


def takes_branches(model: Any) -> bool:
    """Whether rows that begin alike may be computed as one (`FusedBlock`). Not with a sliding window, whose distances
    are those of the row."""
    return all(isinstance(each, FusedBlock) and each.takes_branches for each in blocks(_base(model)))


def kernels(model: Any) -> str:
    """What computes the blocks of a model: an instruction set of this project's C++, or torch's functions."""
    return next((each.kernels for each in model.modules() if isinstance(each, FusedBlock)), processor.TORCH)


def _base(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _with_masks(
    width: int, dropout: float, decoder: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A hook that makes the dropout masks of a batch. `seed`, where it is among the inputs, decides on them."""
    seed = inputs.pop("seed", None)
    if "rows" in inputs and decoder.training:
        seed = int(torch.randint(2**62, ()) if seed is None else seed)
        dtype = next(decoder.parameters()).dtype
        inputs["masks"] = DropoutMasks(int(inputs["rows"].sum()), width, dropout, dtype, seed)
    return args, inputs


def _embedded(
    embeddings: nn.Embedding, decoder: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A hook that looks up the tokens of a batch with `sums`, to which the embeddings' gradient is added."""
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
                return f"{name} is not plain LoRA on a plain linear layer"
            if module.lora_variant or module.active_adapters != [ADAPTER] or module.lora_bias[ADAPTER]:
                return f"{name} has a variant of LoRA"
    return ""
