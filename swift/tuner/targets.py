"""Which modules of a model a target word means: DEFAULT, ALL, EMBEDDING, LN or names. Changes no module."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

Names = Callable[[str], bool]
"""Whether the module or parameter of a name is meant."""

QUANTISED = ("QuantLinear", "QuantizedLinear", "WQLinear", "HQQLinear", "EetqLinear")
"""In the class names of quantised layers, or of what they derive from, that are no `nn.Linear` (bitsandbytes' are)."""


def no_names(_: str) -> bool:
    return False


def lora_targets(
    model: PreTrainedModel, words: Sequence[str], default: Sequence[str] = (), frozen: Names = no_names
) -> list[str]:
    """The names PEFT looks for, each a suffix of module names. `default` is what DEFAULT means, where that is known.

    Modules whose names are `frozen` are no targets. Raises ValueError for a word that fits no layer LoRA
    can adapt.
    """
    modules = dict(model.named_modules())
    kinds = {name: module for name, module in modules.items() if _adaptable(module)}
    found: list[str] = []
    for word in _split(words):
        match word.upper():
            case "DEFAULT" | "AUTO":
                found += _default(model, kinds, default)
            case "ALL" | "ALL-LINEAR":
                head = model.get_output_embeddings()
                linear = {name for name, module in kinds.items() if _is_linear(module) and module is not head}
                found += _suffixes(linear, modules)
            case "EMBEDDING":
                found += _suffixes(
                    {name for name, module in kinds.items() if isinstance(module, nn.Embedding)}, modules
                )
            case _:
                found += _named(word, kinds, "no layer that LoRA can adapt", "ALL, EMBEDDING, DEFAULT")
    if not found:
        raise ValueError("no target modules: give names, ALL, EMBEDDING or DEFAULT")
    return _outside(frozen, list(dict.fromkeys(found)), kinds, modules)


def sees(model: PreTrainedModel) -> bool:
    """Whether the model has a part that makes features of pixels."""
    return model.get_encoder(modality="image") is not model


def before_language(model: PreTrainedModel, vit: bool = True, aligner: bool = True) -> Names:
    """Whether a name is of what stands before an image model's language model. Of no other model there is such a name.

    `vit`: what makes features of pixels. `aligner`: what makes embeddings of these, beside it or, as a merger, in it.
    """
    if not sees(model):
        return no_names
    names = {module: f"{name}." for name, module in model.named_modules()}
    tower = names[model.get_encoder(modality="image")]
    language = (names[model.get_decoder()], names[model.get_output_embeddings()])

    def stands_before(name: str) -> bool:
        if f"{name}.".startswith(language):
            return False
        return vit if f"{name}.".startswith(tower) and "merger" not in name else aligner

    return stands_before


def _outside(frozen: Names, words: Sequence[str], kinds: Iterable[str], modules: Iterable[str]) -> list[str]:
    """The words, or where they also mean frozen modules, names that do not."""
    ends = tuple(f".{word}" for word in words)
    meant = {name for name in kinds if f".{name}".endswith(ends)}
    kept = {name for name in meant if not frozen(name)}
    if meant and not kept:
        raise ValueError(f"{', '.join(words)}: only in parts that see: --freeze_vit false and --freeze_aligner false")
    return list(words) if kept == meant else _suffixes(kept, modules)


def whole_modules(model: PreTrainedModel, words: Sequence[str]) -> list[str]:
    """The names of modules to train whole: names, EMBEDDING (every `nn.Embedding`) and LN (every norm)."""
    modules = {name: module for name, module in model.named_modules() if name}
    found: list[str] = []
    for word in _split(words):
        match word.upper():
            case "EMBEDDING":
                found += _suffixes({name for name, m in modules.items() if isinstance(m, nn.Embedding)}, modules)
            case "LN":
                found += _suffixes({name for name, m in modules.items() if is_norm(m)}, modules)
            case _:
                found += _named(word, modules, "no module of this model", "EMBEDDING, LN")
    return list(dict.fromkeys(found))


def _split(words: Sequence[str]) -> list[str]:
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def _named(word: str, modules: Iterable[str], problem: str, words: str) -> list[str]:
    if any(name == word or name.endswith(f".{word}") for name in modules):
        return [word]
    known = sorted({name.rsplit(".", 1)[-1] for name in modules})
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.4) or known
    raise ValueError(f"target module {word!r} is {problem}: {', '.join(near)} are (or {words})")


def _default(model: PreTrainedModel, kinds: dict[str, nn.Module], default: Sequence[str]) -> list[str]:
    """The table's choice, else PEFT's for this kind of model, else every linear layer of the attention."""
    for choice in (default, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type, ())):
        if choice and all(any(name.endswith(f".{word}") for name in kinds) for word in choice):
            return list(choice)
    attention = {name for name, m in kinds.items() if _is_linear(m) and "att" in name.rpartition(".")[0].lower()}
    if not attention:
        raise ValueError(f"no DEFAULT target modules are known for {model.config.model_type}: give ALL or names")
    return _suffixes(attention, dict(model.named_modules()))


def _suffixes(wanted: set[str], everything: Iterable[str]) -> list[str]:
    """The shortest suffixes that mean the wanted modules and no other."""
    unwanted = {suffix for name in everything if name not in wanted for suffix in _ends(name)}
    # a name that is itself the end of an unwanted one cannot be told apart by suffix; it stays whole
    return list(dict.fromkeys(next((end for end in _ends(name) if end not in unwanted), name) for name in wanted))


def _ends(name: str) -> list[str]:
    """`a.b.c` -> `c`, `b.c`, `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def _adaptable(module: nn.Module) -> bool:
    return _is_linear(module) or isinstance(module, (nn.Embedding, nn.Conv1d, nn.Conv2d))


def _is_linear(module: nn.Module) -> bool:
    kinds = " ".join(kind.__name__ for kind in type(module).__mro__)
    return isinstance(module, (nn.Linear, Conv1D)) or any(part in kinds for part in QUANTISED)


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__
