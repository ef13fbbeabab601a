"""A GGUF file, read back and held against the model that it was written from. Writes nothing."""

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
from swift.model.gguf_write import FAMILIES, check, heads_of, tensors_of

PROBE = "What will the weather in Paris be like tomorrow? 明天巴黎的天气怎么样？"
TOLERANCE = 1e-4
"""What the order of sums in fp32 can change in the logits, relative to the greatest of them."""

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
"""How far a number may move, relative to the greatest of so many neighbours: half a step, or a whole one where the
steps themselves are rounded or chosen for the least error of all."""
LEAST = 2.0**-24
"""Half the distance of the smallest numbers of F16, which scales of blocks are kept in too."""


def read_back(file: Path, config: Any) -> PreTrainedModel:
    """The file's weights in a model of `config`, through transformers' own reader."""
    fields = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures")}
    # What transformers reads of a file's own settings leaves out how rotary embedding is stretched.
    shape = AutoConfig.for_model(FAMILIES[config.model_type].architecture, **fields)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, config=shape
    )
    return model.eval()


def verify(file: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """How far the file, read back, moves the logits after a golden prompt, by the greatest of them.

    `model` is in fp32, and holds the file's rounded weights afterwards. Raises ValueError if a weight is off by more
    than its format's rounding, if the file computes something else than the rounded weights, or if its tokenizer is
    another.
    """
    tokens = tokenizer(PROBE, add_special_tokens=False).input_ids
    again = reading.read_tokenizer(file)
    if again(PROBE, add_special_tokens=False).input_ids != tokens:
        raise ValueError(f"{file}: the tokenizer, read back, cuts a text into other tokens")
    if again.chat_template != tokenizer.chat_template:
        raise ValueError(f"{file}: the chat template, read back, is another")
    whole = _logits(model, tokens)
    _round_as(file, model)
    rounded = _logits(model, tokens)
    found = _logits(read_back(file, model.config), tokens)
    away = _difference(found, rounded)
    if not away <= TOLERANCE:  # a NaN is no agreement
        raise ValueError(
            f"{file}: the file, read back, computes something else: logits differ by {away:.1e} of the greatest "
            f"({TOLERANCE:.0e} is rounding)"
        )
    return _difference(found, whole)


def _logits(model: PreTrainedModel, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(torch.tensor([tokens], device=model.device)).logits.float().cpu()
    return found


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _round_as(file: Path, model: PreTrainedModel) -> None:
    """Puts the file's weights into the model, each held against the one it was made from."""
    family = check(model.config)
    kept = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    for name, tensor in tensors_of(model, family):
        if name not in kept:
            raise ValueError(f"{file}: the weight {name} is missing")
        numbers = _numbers(kept[name], heads_of(name, family, model.config))
        own = tensor.detach().float().cpu().numpy()
        if numbers.shape != own.shape:
            raise ValueError(f"{file}: the weight {name}, read back, has another shape")
        kind = kept[name].tensor_type
        if kind not in ROUNDING:
            raise ValueError(f"{file}: the weight {name} is kept as {kind.name}, whose rounding is not known here")
        block, share = ROUNDING[kind]
        room = share * np.abs(own).reshape(-1, block).max(-1) * (1 + 1e-5) + LEAST
        off = np.abs(numbers - own).reshape(-1, block).max(-1)
        if not (off <= room).all():  # a NaN is no agreement
            raise ValueError(
                f"{file}: the file, read back, computes something else: {name} is off by up to {off.max():.1e}, "
                f"which is more than rounding to {kind.name}"
            )
        tensor.copy_(torch.from_numpy(numbers))


def _numbers(tensor: ReaderTensor, heads: int) -> np.ndarray[Any, Any]:
    """A file's tensor, its rows in the order of transformers."""
    numbers: np.ndarray[Any, Any] = gguf.dequantize(tensor.data, tensor.tensor_type)
    if heads:
        pairs = numbers.reshape(heads, -1, 2, *numbers.shape[1:])
        numbers = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(numbers.shape)
    return np.array(numbers, dtype=np.float32)
