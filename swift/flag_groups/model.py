"""Flags that name a model and say how its weights are loaded. Does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.flags import flag

DTYPES = {"auto": "AUTO", "bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
Dtype = Literal["AUTO", "bf16", "fp16", "fp32"]


@dataclass(frozen=True)
class QuantFlags:
    """Quantisation"""

    quantization_bit: Literal["0", "4", "8"] = "0"
    """Quantise the frozen weights to this many bits while loading (QLoRA); 0 does not quantise"""
    quant_method: Literal["bnb", "hqq", "torchao", "gptq", "awq", "torch"] = flag(
        "bnb", alias=("quantization_method",), values={"bitsandbytes": "bnb"}
    )
    """Quantisation library: bitsandbytes, HQQ or torchao (pip install 'swift-agents[quant]'); torch: inference on
    CPUs"""
    bnb_4bit_comp_dtype: Dtype = flag("AUTO", alias=("bnb_4bit_compute_dtype",), values=DTYPES)
    """Compute dtype of bitsandbytes' 4-bit weights; AUTO uses --dtype"""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """4-bit data type of bitsandbytes"""
    bnb_4bit_use_double_quant: bool = True
    """Also quantise the scales of bitsandbytes' 4-bit weights"""
    hqq_axis: Literal["0", "1"] = "0"
    """Axis along which HQQ groups weights"""

    @property
    def bits(self) -> int:
        return int(self.quantization_bit)


@dataclass(frozen=True)
class ModelFlags:
    """Model"""

    model_type: str | None = None
    """Registered short name of a model; sets its hub id, template and LoRA targets"""
    model_id_or_path: str | None = flag(None, alias=("model",))
    """Folder, hub id or registered name of the model"""
    model_revision: str = "master"
    """Revision to download from the hub"""
    dtype: Dtype = flag("AUTO", alias=("torch_dtype",), values=DTYPES)
    """Precision of the weights; AUTO chooses by model and hardware"""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps; auto selects the fastest available"""
    trust_remote_code: bool = False
    """Run Python code from the model's repository"""
    use_hf: bool = False
    """Download from Hugging Face instead of ModelScope"""
    registry: tuple[str, ...] = ()
    """TOML files that register your own models and data sets: [models.NAME], [datasets.NAME]"""
    quant: QuantFlags = QuantFlags()
