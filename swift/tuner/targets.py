"""Target words (DEFAULT, ALL, EMBEDDING, LN, names) -> names of a model's modules. Changes no module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from swift.system.nearest import closest

Names = Callable[[str], bool]
"""Whether a module's or parameter's name belongs to a set."""

QUANTISED = ("QuantLinear", "QuantizedLinear", "WQLinear", "HQQLinear", "EetqLinear")
"""Parts of class names of quantised layers, or of their bases, that do not derive from `nn.Linear`."""


def no_names(_: str) -> bool:
    return False


def lora_targets(
    model: PreTrainedModel, words: Sequence[str], default: Sequence[str] = (), frozen: Names = no_names
) -> list[str]:
    """Target names for PEFT, each a suffix of module names. `default`: what DEFAULT means, where that is known.

    `frozen` modules are no targets. Raises ValueError for a word that matches no layer LoRA can adapt.
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


def has_vision(model: PreTrainedModel) -> bool:
    """Whether the model has a vision tower."""
    return model.get_encoder(modality="image") is not model


def vision_modules(model: PreTrainedModel, vit: bool = True, aligner: bool = True) -> Names:
    """The modules of a vision-language model outside its language model; no names for other models.

    `vit`: the vision tower. `aligner`: the projector to embeddings, next to the tower or, as a merger, inside it.
    """
    if not has_vision(model):
        return no_names
    names = {module: f"{name}." for name, module in model.named_modules()}
    tower = names[model.get_encoder(modality="image")]
    language = (names[model.get_decoder()], names[model.get_output_embeddings()])

    def is_vision(name: str) -> bool:
        if f"{name}.".startswith(language):
            return False
        return vit if f"{name}.".startswith(tower) and "merger" not in name else aligner

    return is_vision


def _outside(frozen: Names, words: Sequence[str], kinds: Iterable[str], modules: Iterable[str]) -> list[str]:
    """The words or, if they also match frozen modules, longer names that do not."""
    ends = tuple(f".{word}" for word in words)
    meant = {name for name in kinds if f".{name}".endswith(ends)}
    kept = {name for name in meant if not frozen(name)}
    if meant and not kept:
        raise ValueError(
            f"{', '.join(words)}: only in the vision tower or projector: --freeze_vit false and --freeze_aligner false"
        )
    return list(words) if kept == meant else _suffixes(kept, modules)


def modules_to_save(model: PreTrainedModel, words: Sequence[str]) -> list[str]:
    """The names of modules to train in full: names, EMBEDDING (every `nn.Embedding`) and LN (every norm)."""
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
    near = closest(word, known, n=3, cutoff=0.4) or known
    raise ValueError(f"target module {word!r} is {problem}: {', '.join(near)} are (or {words})")


def _default(model: PreTrainedModel, kinds: dict[str, nn.Module], default: Sequence[str]) -> list[str]:
    """The catalog's choice, else PEFT's for this model type, else every linear layer of the attention."""
    for choice in (default, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type, ())):
        if choice and all(any(name.endswith(f".{word}") for name in kinds) for word in choice):
            return list(choice)
    attention = {name for name, m in kinds.items() if _is_linear(m) and "att" in name.rpartition(".")[0].lower()}
    if not attention:
        raise ValueError(f"no DEFAULT target modules are known for {model.config.model_type}: give ALL or names")
    return _suffixes(attention, dict(model.named_modules()))


def _suffixes(wanted: set[str], everything: Iterable[str]) -> list[str]:
    """The shortest suffixes that match the wanted modules and no others."""
    unwanted = {suffix for name in everything if name not in wanted for suffix in _ends(name)}
    # a full name that is the suffix of an unwanted one cannot be told apart; it stays as it is
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
