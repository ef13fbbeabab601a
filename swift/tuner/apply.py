"""A tuner's name and the values of its flags -> a model with trainable parameters. Knows no command and no data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import peft
from transformers import PreTrainedModel

from swift.tuner.methods import Model, Settings
from swift.tuner.registry import TUNERS
from swift.tuner.targets import Names, before_language, lora_targets, sees, whole_modules


def tune(
    model: PreTrainedModel,
    name: str,
    values: Mapping[str, Any],
    default_targets: Collection[str] = (),
    batches: Iterable[Mapping[str, Any]] = (),
) -> Model:
    """The model with the tuner `name`, whose new parameters alone are trained.

    `values` are flags by name. `default_targets` is what DEFAULT means for this model, `batches` are inputs of the
    model, for start values that are drawn from data.
    """
    tuner = TUNERS[name]
    frozen = _frozen(model, values)
    settings = {setting: values[flag] for flag, setting in tuner.flags.items() if setting}
    if "target_modules" in settings:
        settings["target_modules"] = _targets(name, model, settings["target_modules"], tuple(default_targets), frozen)
    if "targets" in settings:
        settings |= {"default_targets": tuple(default_targets), "frozen": frozen, "batches": batches}
    elif "modules_to_save" in settings:
        settings["modules_to_save"] = whole_modules(model, settings["modules_to_save"]) or None
    if "feedforward_modules" in settings:
        settings["feedforward_modules"] = _feedforward(model, settings)
    try:
        tuned = tuner.apply(model, settings)
    except AssertionError as error:  # PEFT's word for a size that does not divide another
        raise ValueError(f"--sft_type {name}: {error}") from error
    for path, parameter in tuned.named_parameters():
        if tuner.whole and frozen(path):
            parameter.requires_grad_(False)
    return tuned


def _frozen(model: PreTrainedModel, values: Mapping[str, Any]) -> Names:
    """The parts of an image model that the flags keep as they are."""
    vit, aligner = values.get("freeze_vit", True), values.get("freeze_aligner", True)
    if not (vit and aligner) and not sees(model):
        flag = "freeze_aligner" if vit else "freeze_vit"
        raise ValueError(f"--{flag} false is for models that see images, which {model.config.model_type} does not")
    return before_language(model, vit, aligner)


def refuse_ignored(name: str, changed: Collection[str]) -> None:
    """ValueError for a flag among `changed` that belongs to other tuners alone."""
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
    """IA3 scales the inputs of these targets; none given: what PEFT knows of the model, as far as it is a target."""
    given = settings["feedforward_modules"]
    known = peft.utils.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(model.config.model_type, ())
    strange = sorted(set(given) - set(settings["target_modules"]))
    if strange:
        raise ValueError(f"--ia3_feedforward_modules {strange[0]}: must be among --ia3_target_modules")
    return list(given) or [name for name in known if name in settings["target_modules"]]
