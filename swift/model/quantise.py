"""Weights of 4 or 8 bits: quantised while a model is loaded (QLoRA, arXiv 2305.14314), or read from its checkpoint.

Knows no tuner. Imports a quantisation library only when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

PACKAGES = {"bnb": "bitsandbytes", "hqq": "hqq", "torchao": "torchao"}
READERS = {
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
    "aqlm": ("aqlm",),
    "bitsandbytes": ("bitsandbytes",),
    "hqq": ("hqq",),
    "torchao": ("torchao",),
    "compressed-tensors": ("compressed_tensors",),
}
"""`quant_method` of a checkpoint -> the packages transformers reads it with."""
GROUP = 32
"""Weights that share a scale in HQQ; divides the widths of all common layers."""


@dataclass(frozen=True)
class Quantisation:
    """How to quantise. `compute`: the dtype in which bitsandbytes' 4-bit layers compute; None: the model's.

    `sharded`: FSDP shards the weights, so they are stored in the model's dtype.
    """

    bits: int
    method: str = "bnb"
    compute: torch.dtype | None = None
    kind: str = "nf4"
    double: bool = True
    axis: int = 0
    sharded: bool = False


def check(how: Quantisation) -> None:
    """Raises ValueError if a package is missing or the method does not support it."""
    if how.method == "torch":
        raise ValueError("--quant_method torch quantises weights for serving only: use bnb or torchao")
    if how.method not in PACKAGES:
        raise ValueError(
            f"--quant_method {how.method} needs calibration examples and does not work while loading: write the "
            f"model with swift export --quant_bits {how.bits} --quant_method {how.method}, or use bnb, torchao or hqq"
        )
    package = PACKAGES[how.method]
    if find_spec(package) is None:
        raise ValueError(
            f"--quant_method {how.method} needs the package {package}: pip install 'swift-agents[quant]', "
            "or leave --quantization_bit and --quant_bits out"
        )
    if how.method == "torchao" and how.bits != 8:
        raise ValueError("--quant_method torchao trains with 8 bits only: use --quantization_bit 8, or bnb")


def config(how: Quantisation, dtype: torch.dtype) -> Any:
    """The `quantization_config` for transformers; None for HQQ, which `with_hqq` applies after loading."""
    if how.method == "hqq":
        return None
    if how.method == "bnb":
        return _bnb(how, dtype)
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _bnb(how: Quantisation, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if how.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=how.kind,
        bnb_4bit_use_double_quant=how.double,
        bnb_4bit_compute_dtype=how.compute or dtype,
        bnb_4bit_quant_storage=dtype if how.sharded else None,
    )


def recorded(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `quantization_config` of a config.json, if any. Raises ValueError if a package to read it is missing."""
    how = checkpoint.get("quantization_config")
    if not isinstance(how, dict):
        return None
    method = str(how.get("quant_method"))
    needed = READERS.get(method, ())
    if missing := [package for package in needed if find_spec(package) is None]:
        packages = " ".join(missing).replace("_", "-")
        raise ValueError(f"its {method.upper()} weights are read by {' and '.join(needed)}: pip install {packages}")
    if "gptqmodel" in needed:  # its fastest kernel has no gradient
        return how | {"backend": "auto_trainable"}
    if method == "aqlm":  # published with names of weights; transformers compares names of modules
        unquantised = how.get("linear_weights_not_to_quantize") or ()
        return how | {"linear_weights_not_to_quantize": [str(name).removesuffix(".weight") for name in unquantised]}
    return how


def with_hqq(model: PreTrainedModel, how: Quantisation, device: torch.device) -> None:
    """Quantises every linear layer but the head in place, on `device` (HQQ, mobiusml.github.io/hqq_blog)."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    settings = BaseQuantizeConfig(nbits=how.bits, group_size=GROUP, axis=how.axis)
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not head:
            made = HQQLinear(layer, settings, compute_dtype=model.dtype, device=str(device))
            model.set_submodule(name, made)
