"""Converters: checkpoints whose own Python code transformers no longer runs -> classes it ships. Knows no hub.

One module of this folder per family; the module's name is the family's (a leading underscore marks what families
share). Each has the names of `Family`:

`TARGETS`                     original module name -> the modules that replace it: `{"c_attn": ("q_proj", ...)}`
`SAVES`                       one sentence: which layout `save_pretrained` writes, and who reads it
`matches(original)`           whether a config.json is this family's; no two families may match the same one
`config(original)`            the configuration of a causal model that transformers ships (or that the family
                              registers with `AutoConfig` and `AutoModelForCausalLM`); a feature it cannot express
                              raises ValueError in one line
`weights(name, tensor, original)`  a tensor of the original checkpoint -> the (name, tensor) pairs it becomes: views
                              where possible, as files are memory-mapped; `[]` for buffers that are computed
`tokenizer(folder)`           a fast tokenizer made of the folder's own files, ids as the original's

A family that must combine several tensors into one has `fold(tensors, original)` too, which gets them all.

`original` is the checkpoint's config.json.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, cast, runtime_checkable

import torch
from safetensors import safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from swift.model import quantise

Original = Mapping[str, Any]
Tensors = list[tuple[str, torch.Tensor]]


class Family(Protocol):
    """What each module of this folder offers; see above."""

    TARGETS: Mapping[str, tuple[str, ...]]
    SAVES: str
    matches: Callable[[Original], bool]
    config: Callable[[Original], PretrainedConfig]
    weights: Callable[[str, torch.Tensor, Original], Tensors]
    tokenizer: Callable[[Path], PreTrainedTokenizerBase]


@runtime_checkable
class Folds(Protocol):
    """A family that combines tensors."""

    fold: Callable[[dict[str, torch.Tensor], Original], dict[str, torch.Tensor]]


@cache
def families() -> dict[str, Family]:
    """Every family by its name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return {name: cast(Family, importlib.import_module(f"{__name__}.{name}")) for name in names}


def find(original: Original) -> Family | None:
    """The family that a config.json belongs to."""
    return next((family for family in families().values() if family.matches(original)), None)


def named(original: Original, *architectures: str) -> bool:
    """Whether a config.json names one of these classes; a family's `matches` is often no more than that."""
    return any(name in architectures for name in original.get("architectures") or ())


def model(family: Family, original: Original, folder: Path, files: Sequence[Path], **options: Any) -> PreTrainedModel:
    """The converted model of `files`. `options` (dtype, device_map, quantization_config, ...) are `from_pretrained`'s.

    The files are memory-mapped, so no more than what a family has to rearrange is held twice.
    Raises ValueError for a weight that is missing, unexpected, or of another shape.
    """
    config = family.config(original)
    quantised = quantise.recorded(original)
    if quantised:  # transformers hands these layers to the quantiser's own library
        config.quantization_config = quantised
    tensors = {
        new: part
        for file in files
        for name, tensor in read(file)
        for new, part in family.weights(name, tensor, original)
    }
    if isinstance(family, Folds):
        tensors = family.fold(tensors, original)
    loaded, info = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
        # mismatches raise one line below
        None,
        config=config,
        state_dict=tensors,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    for problem in ("missing", "unexpected", "mismatched"):
        names = sorted(map(str, info[f"{problem}_keys"]))
        if problem == "unexpected" and quantised:
            # AutoGPTQ wrote a bias of zeros for layers that have none
            names = [name for name in names if not name.endswith(".bias") or tensors[name].any()]
        if names:
            raise ValueError(f"{folder}: {len(names)} {problem} weights, such as {names[0]}")
    if (folder / "generation_config.json").is_file():
        loaded.generation_config = GenerationConfig.from_pretrained(folder)
    loaded.name_or_path = loaded.config.name_or_path = str(folder)  # PEFT records it with an adapter
    return cast(PreTrainedModel, loaded)


def read(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor of a .safetensors or .bin file, memory-mapped where its format allows it."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                yield name, opened.get_tensor(name)
        return
    for mapped in (True, False):  # torch's format from before 1.6 cannot be mapped
        try:
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
            break
        except (RuntimeError, EOFError, UnpicklingError) as error:
            if not mapped:
                raise ValueError(f"{file}: damaged, or it holds more than weights ({_first_line(error)})") from None
    yield from tensors.items()


def targets(family: Family, names: Sequence[str]) -> tuple[str, ...]:
    """Module names of the original code -> those of the converted model; other names stay as they are."""
    return tuple(dict.fromkeys(new for name in names for new in family.TARGETS.get(name, (name,))))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
