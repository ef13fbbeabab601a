"""The parts of any decoder: its blocks, the two branches of a block, the final norm. Changes nothing."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from swift.tuner.targets import is_norm


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's blocks in order. Raises ValueError for a model without a list of them."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(model).__name__}: this tuner needs a decoder with a list of {count} blocks")


def branches(block: nn.Module) -> list[nn.Module]:
    """What a block adds to the residual stream: attention, then the MLP. Raises ValueError for other blocks."""
    parts = [part for part in block.children() if not is_norm(part) and any(True for _ in part.parameters())]
    if len(parts) != 2:
        raise ValueError(f"{type(block).__name__}: this tuner needs blocks of attention and an MLP")
    return parts


def final_norm(model: PreTrainedModel) -> nn.Module:
    """The norm between the last block and the output head. Raises ValueError if there is none."""
    decoder: nn.Module = model.get_decoder()
    norms = [part for part in decoder.children() if is_norm(part)]
    if not norms:
        raise ValueError(f"{type(model).__name__}: this tuner needs a norm after the last block")
    return norms[-1]
