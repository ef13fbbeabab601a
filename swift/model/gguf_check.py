"""Verifies a GGUF file against the model it was written from. Writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from swift.model import gguf as reading
from swift.model.gguf_write import ARCHITECTURES, check, heads_of, tensors_of

PROBE = "What will the weather in Paris be like tomorrow? 明天巴黎的天气怎么样？"
TOLERANCE = 1e-4
"""The largest difference of logits that fp32 rounding explains, relative to the largest logit."""

_KIND = GGMLQuantizationType
ROUNDING = {
    _KIND.F32: (1, 0.0),
    _KIND.F16: (1, 2.0**-11),
    _KIND.BF16: (1, 2.0**-8),
    _KIND.Q8_0: (32, 1 / 200),
    _KIND.Q6_K: (256, 1 / 31),
    _KIND.Q5_0: (32, 1 / 15),
    _KIND.Q5_1: (32, 2 / 31),
    _KIND.Q5_K: (256, 2 / 31),
    _KIND.Q4_0: (32, 1 / 7),
    _KIND.Q4_1: (32, 2 / 15),
    _KIND.Q4_K: (256, 2 / 15),
}
"""Format -> (block size, largest error relative to the largest number of a block): half a quantisation step, or one
step where the scales themselves are rounded or fitted."""
LEAST = 2.0**-24
"""Half the spacing of the smallest numbers of F16, which also holds the scales of blocks."""


def read_back(file: Path, config: Any) -> PreTrainedModel:
    """The model in the file, through transformers' own reader, with the settings of `config`."""
    fields = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures")}
    # transformers does not read the scaling of rotary embedding from a file
    shape = AutoConfig.for_model(ARCHITECTURES[config.model_type].name, **fields)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, config=shape
    )
    return model.eval()


def verify(file: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """The largest change of the logits after `PROBE`, relative to the largest logit, from the model to the file.

    `model` is in fp32; afterwards it holds the file's rounded weights. Raises ValueError if a weight differs by more
    than its format's rounding, if the file computes something else than the rounded weights, or if its tokenizer
    differs.
    """
    tokens = tokenizer(PROBE, add_special_tokens=False).input_ids
    again = reading.read_tokenizer(file)
    if again(PROBE, add_special_tokens=False).input_ids != tokens:
        raise ValueError(f"{file}: the tokenizer, read back, splits a text into other tokens")
    if again.chat_template != tokenizer.chat_template:
        raise ValueError(f"{file}: the chat template, read back, differs")
    original = _logits(model, tokens)
    _round_as(file, model)
    rounded = _logits(model, tokens)
    found = _logits(read_back(file, model.config), tokens)
    away = _difference(found, rounded)
    if not away <= TOLERANCE:  # NaN fails too
        raise ValueError(
            f"{file}: the file, read back, computes something else: logits differ by {away:.1e} of the largest "
            f"({TOLERANCE:.0e} is rounding)"
        )
    return _difference(found, original)


def _logits(model: PreTrainedModel, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(torch.tensor([tokens], device=model.device)).logits.float().cpu()
    return found


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _round_as(file: Path, model: PreTrainedModel) -> None:
    """Copies the file's weights into the model, after comparing each with the one it was written from."""
    architecture = check(model.config)
    kept = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    for name, tensor in tensors_of(model, architecture):
        if name not in kept:
            raise ValueError(f"{file}: the weight {name} is missing")
        numbers = _numbers(kept[name], heads_of(name, architecture, model.config))
        own = tensor.detach().float().cpu().numpy()
        if numbers.shape != own.shape:
            raise ValueError(f"{file}: the weight {name}, read back, has a different shape")
        kind = kept[name].tensor_type
        if kind not in ROUNDING:
            raise ValueError(f"{file}: the weight {name} has the format {kind.name}, whose rounding is unknown")
        block, share = ROUNDING[kind]
        allowed = share * np.abs(own).reshape(-1, block).max(-1) * (1 + 1e-5) + LEAST
        off = np.abs(numbers - own).reshape(-1, block).max(-1)
        if not (off <= allowed).all():  # NaN fails too
            raise ValueError(
                f"{file}: the file, read back, computes something else: {name} is off by up to {off.max():.1e}, "
                f"which is more than rounding to {kind.name}"
            )
        tensor.copy_(torch.from_numpy(numbers))


def _numbers(tensor: ReaderTensor, heads: int) -> np.ndarray[Any, Any]:
    """A file's tensor in fp32, its rows in transformers' order."""
    numbers: np.ndarray[Any, Any] = gguf.dequantize(tensor.data, tensor.tensor_type)
    if heads:
        pairs = numbers.reshape(heads, -1, 2, *numbers.shape[1:])
        numbers = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(numbers.shape)
    return np.array(numbers, dtype=np.float32)
