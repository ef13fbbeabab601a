"""A GGUF file -> a plain, trainable model or a tokenizer, through transformers. Knows no names and no caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


def read_model(file: Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """The dequantised model, rebuilt: the one transformers returns is marked as GGUF and cannot be saved."""
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    model = type(read)(type(read.config)(**config, **options)).to(dtype)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    return model.eval()


def read_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


class Shape(NamedTuple):
    """A file's metadata. `plain`: no attention biases and no scaled rotary embedding."""

    architecture: str
    context: int
    vocabulary: int
    plain: bool


def shape(file: Path) -> Shape:
    """Reads a file's metadata. Raises ValueError if it is truncated or not GGUF."""
    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{file}: half-written, damaged, or no GGUF file ({error})") from None
    fields = reader.fields
    name = str(fields["general.architecture"].contents())
    odd = ("rope_freqs.weight", *(("blk.0.attn_q.bias",) if name == "llama" else ()))
    plain = f"{name}.rope.scaling.type" not in fields and all(tensor.name not in odd for tensor in reader.tensors)
    return Shape(
        name,
        int(fields[f"{name}.context_length"].contents()),
        len(fields["tokenizer.ggml.tokens"].data),
        plain,
    )
