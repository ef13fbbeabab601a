"""Where a decoder's parts are: its blocks, the halves of a block, its last norm. Changes nothing."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from swift.tuner.targets import is_norm


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's blocks, first to last. Raises ValueError for a model that is not made so."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(model).__name__}: this tuner needs a decoder with a list of {count} blocks")


def halves(block: nn.Module) -> list[nn.Module]:
    """The parts of a block that are added to its residual stream: attention, then the feed-forward part."""
    parts = [part for part in block.children() if not is_norm(part) and any(True for _ in part.parameters())]
    if len(parts) != 2:
        raise ValueError(f"{type(block).__name__}: this tuner needs blocks of attention and a feed-forward part")
    return parts


def final_norm(model: PreTrainedModel) -> nn.Module:
    """The norm between the last block and the output head."""
    decoder: nn.Module = model.get_decoder()
    norms = [part for part in decoder.children() if is_norm(part)]
    if not norms:
        raise ValueError(f"{type(model).__name__}: this tuner needs a norm behind the last block")
    return norms[-1]
