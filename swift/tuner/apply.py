"""A tuner's name and the values of its flags -> a model with trainable parameters. Knows no command and no data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import peft
from transformers import PreTrainedModel

from swift.tuner.methods import Model, Settings
from swift.tuner.registry import TUNERS
from swift.tuner.targets import Names, has_vision, lora_targets, modules_to_save, vision_modules


def tune(
    model: PreTrainedModel,
    name: str,
    values: Mapping[str, Any],
    default_targets: Collection[str] = (),
    batches: Iterable[Mapping[str, Any]] = (),
) -> Model:
    """The model with the tuner `name`, of which only the tuner's parameters are trainable.

    `values`: flags by name. `default_targets`: the modules that DEFAULT means for this model. `batches`: inputs of the
    model with `labels`, for initialisations computed from data. Raises ValueError for values that do not fit the model.
    """
    tuner = TUNERS[name]
    frozen = _frozen(model, values)
    settings = {setting: values[flag] for flag, setting in tuner.flags.items() if setting}
    if "target_modules" in settings:
        settings["target_modules"] = _targets(name, model, settings["target_modules"], tuple(default_targets), frozen)
    if "targets" in settings:
        settings |= {"default_targets": tuple(default_targets), "frozen": frozen, "batches": batches}
    elif "modules_to_save" in settings:
        settings["modules_to_save"] = modules_to_save(model, settings["modules_to_save"]) or None
    if "feedforward_modules" in settings:
        settings["feedforward_modules"] = _feedforward(model, settings)
    try:
        tuned = tuner.apply(model, settings)
    except AssertionError as error:  # PEFT asserts that sizes divide each other
        raise ValueError(f"--sft_type {name}: {error}") from error
    for path, parameter in tuned.named_parameters():
        if tuner.full_model and frozen(path):
            parameter.requires_grad_(False)
    return tuned


def _frozen(model: PreTrainedModel, values: Mapping[str, Any]) -> Names:
    """The parts of a vision-language model that the flags freeze."""
    vit, aligner = values.get("freeze_vit", True), values.get("freeze_aligner", True)
    if not (vit and aligner) and not has_vision(model):
        flag = "freeze_aligner" if vit else "freeze_vit"
        raise ValueError(f"--{flag} false is for vision-language models; {model.config.model_type} takes no images")
    return vision_modules(model, vit, aligner)


def refuse_ignored(name: str, changed: Collection[str]) -> None:
    """Raises ValueError for a flag among `changed` that only other tuners use."""
    for flag in sorted(changed):
        users = [other for other, tuner in TUNERS.items() if flag in tuner.flags]
        if users and name not in users:
            raise ValueError(f"--sft_type {name} ignores --{flag}, which is for {', '.join(users)}")


def _targets(
    name: str, model: PreTrainedModel, words: Collection[str], default: tuple[str, ...], frozen: Names
) -> list[str]:
    if name == "ia3" and [word.upper() for word in words] in (["DEFAULT"], ["AUTO"]):
        known = peft.utils.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(model.config.model_type)
        if known:
            return list(known)
    return lora_targets(model, list(words), default, frozen)


def _feedforward(model: PreTrainedModel, settings: Settings) -> list[str]:
    """The targets whose inputs IA3 scales; by default those that PEFT lists for the model."""
    given = settings["feedforward_modules"]
    known = peft.utils.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(model.config.model_type, ())
    unknown = sorted(set(given) - set(settings["target_modules"]))
    if unknown:
        raise ValueError(f"--ia3_feedforward_modules {unknown[0]}: must be among --ia3_target_modules")
    return list(given) or [name for name in known if name in settings["target_modules"]]
