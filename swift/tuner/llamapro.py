"""LLaMA Pro (arXiv 2401.02415): new blocks between a decoder's own, which alone are trained. Makes a full model."""

from __future__ import annotations

import copy
import itertools

from torch import nn
from transformers import PreTrainedModel

from swift.tuner.decoder_parts import blocks, branches


def add_blocks(model: PreTrainedModel, new: int, groups: int | None = None) -> PreTrainedModel:
    """The model with `new` copies of blocks, spread over `groups` groups of blocks (None: one group for each).

    The last layer of a copy's branches is zero, so it is the identity until it is trained. Everything else is frozen.
    The configuration is updated, so a saved model loads like any other.
    """
    old = blocks(model)
    groups = groups or new
    if new < 1 or not 1 <= groups <= len(old) or new % groups:
        raise ValueError(
            f"--llamapro_num_new_blocks {new}, --llamapro_num_groups {groups}: new blocks must divide evenly "
            f"among groups, and each group needs one of the model's {len(old)} blocks"
        )
    model.requires_grad_(False)
    borders = [len(old) * group // groups for group in range(groups + 1)]
    sources: list[tuple[int, bool]] = []  # of each block: the index of the original, and whether it is a copy
    for start, end in itertools.pairwise(borders):
        sources += [(index, False) for index in range(start, end)] + [(end - 1, True)] * (new // groups)
    grown = [_identity_copy(old[index]) if is_new else old[index] for index, is_new in sources]
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


def _identity_copy(block: nn.Module) -> nn.Module:
    """A trainable copy of a block whose branches add zero."""
    new = copy.deepcopy(block).requires_grad_(True)
    for branch in branches(new):
        linears = [module for module in branch.modules() if isinstance(module, nn.Linear)]
        if not linears:
            raise ValueError(f"{type(branch).__name__}: no linear layer to initialise with zeros")
        last = linears[-1]
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)
    return new
