"""LLaMA Pro (arXiv 2401.02415): new blocks between a decoder's own, which alone are trained. Gives a whole model."""

from __future__ import annotations

import copy
import itertools

from torch import nn
from transformers import PreTrainedModel

from swift.tuner.decoder_parts import blocks, halves


def add_blocks(model: PreTrainedModel, new: int, groups: int | None = None) -> PreTrainedModel:
    """The model with `new` copies of blocks, behind `groups` groups as equal as can be (None: as many as new
    blocks).

    A copy's halves end in zeros, so that it changes nothing until it is trained. All else is frozen. The
    configuration is told, so what is saved loads as any model does.
    """
    old = blocks(model)
    groups = groups or new
    if new < 1 or not 1 <= groups <= len(old) or new % groups:
        raise ValueError(
            f"--llamapro_num_new_blocks {new}, --llamapro_num_groups {groups}: every group needs as many new blocks, "
            f"and one or more of the model's {len(old)}"
        )
    model.requires_grad_(False)
    borders = [len(old) * group // groups for group in range(groups + 1)]
    sources: list[tuple[int, bool]] = []  # of each block: which of the old ones it is, and whether a copy
    for start, end in itertools.pairwise(borders):
        sources += [(index, False) for index in range(start, end)] + [(end - 1, True)] * (new // groups)
    grown = [_silent(old[index]) if is_new else old[index] for index, is_new in sources]
    for position, block in enumerate(grown):
        for module in block.modules():
            if "layer_idx" in vars(module):  # the place of a block's keys and values in the cache
                vars(module)["layer_idx"] = position
    del old[:]
    old.extend(grown)
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)  # most configurations have none
    config.num_hidden_layers = len(grown)
    if kinds:
        config.layer_types = [kinds[index] for index, _ in sources]
    return model


def _silent(block: nn.Module) -> nn.Module:
    """A trainable copy of a block whose halves add nothing."""
    new = copy.deepcopy(block).requires_grad_(True)
    for half in halves(new):
        linears = [module for module in half.modules() if isinstance(module, nn.Linear)]
        if not linears:
            raise ValueError(f"{type(half).__name__}: no linear layer to start from zero")
        last = linears[-1]
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)
    return new
