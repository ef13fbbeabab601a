"""How each tuner is applied: functions (model, settings) -> model. Names flags in errors only."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import peft
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from swift.system.nearest import closest
from swift.tuner import extra_modules, llamapro, longlora, lora, peft_models
from swift.tuner.targets import modules_to_save

Settings: TypeAlias = dict[str, Any]
Model: TypeAlias = PreTrainedModel | PeftModel
Apply: TypeAlias = Callable[[PreTrainedModel, Settings], Model]


def by_peft(config: Any, **fixed: Any) -> Apply:
    """A tuner of PEFT, by its configuration class and the settings that never change."""

    def apply(model: PreTrainedModel, settings: Settings) -> PeftModel:
        settings = {name: value for name, value in settings.items() if value is not None}
        return peft_models.wrap(model, config(task_type="CAUSAL_LM", **fixed, **settings))

    return apply


def apply_lora(model: PreTrainedModel, settings: Settings) -> Model:
    batches = settings.pop("batches", ())
    return lora.attach(model, lora.LoraOptions(**settings), batches)


def apply_longlora(model: PreTrainedModel, settings: Settings) -> Model:
    longlora.shift_attention(model, settings.pop("group_size"))
    settings["modules_to_save"] = tuple(dict.fromkeys((*settings["modules_to_save"], "EMBEDDING", "LN")))
    return apply_lora(model, settings)


def apply_full(model: PreTrainedModel, settings: Settings) -> Model:
    if model.dtype == torch.float16:
        raise ValueError(
            "full fine-tuning does not work in fp16, whose steps round to nothing: use --dtype bf16 or fp32"
        )
    model.requires_grad_(True)
    freeze(model, settings.get("freeze", 0.0), settings.get("also", ()))
    return model


def apply_adalora(model: PreTrainedModel, settings: Settings) -> Model:
    if settings["init_r"] <= settings["target_r"]:
        raise ValueError(
            f"--adalora_init_r {settings['init_r']} must be more than --adalora_target_r {settings['target_r']}"
        )
    # the smallest number of steps PEFT accepts; training sets the real one when it is known
    steps = settings["tinit"] + settings["tfinal"] + 1
    return by_peft(peft.AdaLoraConfig, total_step=steps)(model, settings)


def apply_boft(model: PreTrainedModel, settings: Settings) -> Model:
    if settings["boft_block_num"]:
        settings["boft_block_size"] = 0
    return by_peft(peft.BOFTConfig)(model, settings)


def apply_c3a(model: PreTrainedModel, settings: Settings) -> Model:
    if not settings["block_size"]:
        sides = [side for linear in _targeted(model, settings) for side in (linear.in_features, linear.out_features)]
        common = math.gcd(*sides)
        settings["block_size"] = max(size for size in range(1, min(common, 256) + 1) if common % size == 0)
    return by_peft(peft.C3AConfig)(model, settings)


def apply_trainable_tokens(model: PreTrainedModel, settings: Settings) -> Model:
    if not settings["token_indices"]:
        raise ValueError("--trainable_token_ids is empty: give the ids of the tokens to train")
    return by_peft(peft.TrainableTokensConfig)(model, {"token_indices": list(settings["token_indices"])})


def apply_norms(model: PreTrainedModel, settings: Settings) -> Model:
    return by_peft(peft.LNTuningConfig, target_modules=modules_to_save(model, ("LN",)))(model, settings)


def by_extra_modules(kind: str, **fixed: Any) -> Apply:
    return lambda model, settings: extra_modules.add(model, kind, {**settings, **fixed})


def apply_llamapro(model: PreTrainedModel, settings: Settings) -> Model:
    return llamapro.add_blocks(model, settings["new"], settings["groups"])


def freeze(model: PreTrainedModel, share: float, also: Collection[str]) -> None:
    """Freezes parameters from the embeddings up, until they are the fraction `share` of all.

    `also`: prefixes of names whose parameters stay trainable. Raises ValueError if nothing would be trained.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"--freeze_parameters {share}: must be from 0 to 1")
    names = [name for name, _ in model.named_parameters()]
    for prefix in also:
        if not any(name.startswith(prefix) for name in names):
            near = closest(prefix, names, n=1, cutoff=0.3) or names[:1]
            raise ValueError(
                f"--additional_trainable_parameters {prefix}: no parameter name begins with it; {near[0]} is one"
            )
    remaining = share * model.num_parameters()
    for name, parameter in model.named_parameters():
        remaining -= parameter.numel()
        if remaining < 0:
            break
        parameter.requires_grad_(any(name.startswith(prefix) for prefix in also))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("nothing would be trained: lower --freeze_parameters")


def _targeted(model: PreTrainedModel, settings: Settings) -> list[nn.Linear]:
    ends = tuple(f".{name}" for name in settings["target_modules"])
    return [m for name, m in model.named_modules() if f".{name}".endswith(ends) and isinstance(m, nn.Linear)]
