"""Weights of 4 or 8 bits: made while a model is loaded (QLoRA, arXiv 2305.14314), or found in its checkpoint.

Knows no tuner; only names libraries.
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
"""Packages that transformers reads a checkpoint with, by how its weights are quantised."""
GROUP = 32
"""Neighbouring weights that share a scale in HQQ; it divides the sides of every usual layer."""


@dataclass(frozen=True)
class Quantisation:
    """How to quantise. `compute`: the dtype bitsandbytes' 4-bit layers compute in, None for the model's.

    `sharded`: an engine cuts the weights to pieces, which have to look like numbers of the model's own dtype for that.
    """

    bits: int
    method: str = "bnb"
    compute: torch.dtype | None = None
    kind: str = "nf4"
    double: bool = True
    axis: int = 0
    sharded: bool = False


def check(how: Quantisation) -> None:
    """ValueError where a package is missing, or the library cannot do it."""
    if how.method == "torch":
        raise ValueError(
            "--quant_method torch rounds weights while a model answers, and writes none: take bnb or torchao"
        )
    if how.method not in PACKAGES:
        raise ValueError(
            f"--quant_method {how.method} rounds weights by examples, not while they are loaded: swift export "
            f"--quant_bits {how.bits} --quant_method {how.method} writes such a model; or take bnb, torchao or hqq"
        )
    package = PACKAGES[how.method]
    if find_spec(package) is None:
        raise ValueError(
            f"--quant_method {how.method} needs the package {package}: pip install -e '.[quant]', "
            "or leave --quantization_bit and --quant_bits out"
        )
    if how.method == "torchao" and how.bits != 8:
        raise ValueError("--quant_method torchao trains beside 8 bits alone: --quantization_bit 8, or take bnb")


def config(how: Quantisation, dtype: torch.dtype) -> Any:
    """What transformers' loader wants to be told; None for HQQ, which it does not know how to do (see `with_hqq`)."""
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


def found(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a config.json says that its weights are quantised; ValueError where a package to read them is missing."""
    how = checkpoint.get("quantization_config")
    if not isinstance(how, dict):
        return None
    method = str(how.get("quant_method"))
    needed = READERS.get(method, ())
    if missing := [package for package in needed if find_spec(package) is None]:
        packages = " ".join(missing).replace("_", "-")
        raise ValueError(f"its {method.upper()} weights are read by {' and '.join(needed)}: pip install {packages}")
    if "gptqmodel" in needed:  # the quickest of its kernels cannot be trained beside
        return how | {"backend": "auto_trainable"}
    if method == "aqlm":  # published with names of weights, where transformers compares names of modules
        whole = how.get("linear_weights_not_to_quantize") or ()
        return how | {"linear_weights_not_to_quantize": [str(name).removesuffix(".weight") for name in whole]}
    return how


def with_hqq(model: PreTrainedModel, how: Quantisation, device: torch.device) -> None:
    """Gives every linear layer but the head fewer bits, on `device` (HQQ, mobiusml.github.io/hqq_blog)."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    settings = BaseQuantizeConfig(nbits=how.bits, group_size=GROUP, axis=how.axis)
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not head:
            made = HQQLinear(layer, settings, compute_dtype=model.dtype, device=str(device))
            model.set_submodule(name, made)
