"""A LoRA adapter as pairs of matrices for the products of a decoder's layers. Knows no runner and computes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from swift.engine.decoder import Decoder
from swift.engine.lora import Lora
from swift.model.decoder_layers import FAMILIES, PROJECTIONS

Pair = tuple[Tensor, Tensor]
"""A (rank, I) and B' (rank, O), the scale in B'."""


def joined_pairs(decoder: Decoder, adapter: Lora) -> dict[tuple[int, str], Pair]:
    """(layer, projection) -> one pair for all modules of the projection; their ranks add up.

    Raises ValueError for an adapter of another model.
    """
    pairs = adapter.pairs()
    found: dict[tuple[int, str], Pair] = {}
    for index, layer in enumerate(decoder.layers):
        modules = FAMILIES[decoder.model.config.model_type].modules
        for projection in PROJECTIONS:
            linears = getattr(layer, projection)
            sizes = {name: linear.out_features for name, linear in zip(modules[projection], linears, strict=True)}
            given = {name: pairs.pop(f"model.layers.{index}.{name}", None) for name in sizes}
            present = {name: pair for name, pair in given.items() if pair}
            if present:
                A_RI, B_RO = _joined(present, sizes, linears[0].in_features)
                found[index, projection] = (
                    A_RI.to(decoder.device, decoder.dtype),
                    B_RO.to(decoder.device, decoder.dtype),
                )
    if pairs:
        raise ValueError(f"the adapter is on {min(pairs)}, which is no product of this model's layers")
    return found


def _joined(pairs: Mapping[str, Pair], sizes: Mapping[str, int], inputs: int) -> Pair:
    """The pairs of some modules of a projection as one. `sizes`: the outputs of each of its modules."""
    A_RI = torch.cat([A for A, _ in pairs.values()])
    B_RO = torch.zeros(len(A_RI), sum(sizes.values()))
    row = column = 0
    for name, size in sizes.items():
        if name in pairs:
            a_RI, b_OR = pairs[name]
            if a_RI.shape[1] != inputs or b_OR.shape[0] != size:
                shape = f"{b_OR.shape[0]} x {a_RI.shape[1]}"
                raise ValueError(f"the adapter is of another model: {name} is {shape}, not {size} x {inputs}")
            B_RO[row : row + len(a_RI), column : column + size] = b_OR.t()
            row += len(a_RI)
        column += size
    return A_RI, B_RO


def why_not_adapter(decoder: Decoder, adapter: Lora) -> str:
    """Why a fast runner cannot add the adapter to its model; empty if it can."""
    try:
        joined_pairs(decoder, adapter)
    except ValueError as error:
        return str(error)
    return ""
