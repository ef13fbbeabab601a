"""Merging adapters into the weights of their model, and which cannot be merged. Writes no file."""

from __future__ import annotations

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from swift.tuner.peft_models import is_quantised, without_warnings

MERGEABLE = (
    *("LORA", "ADALORA", "IA3", "VERA", "BOFT", "OFT", "FOURIERFT", "LOHA", "LOKR", "HRA", "MISS", "RANDLORA", "C3A"),
    *("SHIRA", "ROAD", "LN_TUNING", "TRAINABLE_TOKENS"),
)
"""PEFT types (in adapter_config.json) that are a change of weights."""
UNMERGEABLE = {
    "PROMPT_TUNING": "its virtual tokens are not weights of the model",
    "P_TUNING": "its virtual tokens are not weights of the model",
    "PREFIX_TUNING": "its keys and values are not weights of the model",
    "ADAPTER": "its bottlenecks are not linear",
    "REFT": "it edits hidden states, not weights",
    "BYPASS": "it is a separate network",
    "SKIP": "its bottlenecks are not linear",
}


def why_unmergeable(model: PreTrainedModel | PeftModel) -> str:
    """Why the adapter on `model` cannot be merged into its weights; empty if it can."""
    if isinstance(model, PeftModel):
        kind = str(model.active_peft_config.peft_type.value)
        if is_quantised(model.get_base_model()):
            return "the model is quantised, and rounding would change what was learned"
    else:
        kind = str(model.get_submodule("added").options["peft_type"])
    return UNMERGEABLE.get(kind, "")


def merge(model: PeftModel) -> PreTrainedModel:
    """The base model with the adapter added to its weights. `model` must not be used afterwards.

    Tied embeddings are untied if the adapter changes one side. Raises ValueError for an adapter that cannot be merged.
    """
    if reason := why_unmergeable(model):
        raise ValueError(f"this adapter cannot be merged: {reason}")
    base: PreTrainedModel = model.get_base_model()
    if base.config.tie_word_embeddings and _touches_embeddings(model):
        _untie(base)
    with without_warnings():
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return merged.requires_grad_(False)


def _touches_embeddings(model: PeftModel) -> bool:
    base = model.get_base_model()
    both = (base.get_input_embeddings(), base.get_output_embeddings())
    return any(isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)) for module in both)


def _untie(base: PreTrainedModel) -> None:
    """Gives the output head its own copy of the shared weights."""
    head = base.get_output_embeddings()
    if isinstance(head, BaseTunerLayer):
        head = head.get_base_layer()
    elif isinstance(head, ModulesToSaveWrapper):
        head = head.original_module
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False
    base.tie_weights()
