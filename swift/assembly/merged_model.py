"""A base model with its adapter merged into it, in memory: what export and OpenVINO write files of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from swift.assembly import checkpoints, merging

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from swift.model.catalog import ModelSpec
    from swift.template.template import Template


class MergedModel(NamedTuple):
    """A model without adapter, in fp32. The tokenizer has its chat template; `template` is the registered template
    that it comes from, None for the tokenizer's own. `stops`: the stop tokens."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template | None
    stops: list[int]
    name: str
    spec: ModelSpec | None


def load_merged(choice: checkpoints.Choice) -> MergedModel:
    """Loads the model in fp32, merges its adapter in memory, and rounds the weights to --dtype.

    Raises ValueError for quantised weights and for an adapter that cannot be merged.
    """
    from swift.model import devices, load, location
    from swift.template import template
    from swift.tuner import adapter_files, merge

    path = location.locate(choice.source, choice.model.model_revision, choice.model.use_hf, choice.model.registry)
    spec = checkpoints.spec(choice, path)
    tokenizer = load.load_tokenizer(path, choice.model.trust_remote_code, spec)
    requested, system = choice.template.template_type, choice.template.system
    named = requested if requested != "AUTO" else spec.template if spec else None
    table = template(named) if named else None
    if table and system is not None:
        table = replace(table, default_system=system)
    stops = merging.set_chat_template(tokenizer, table, path)
    # always fp32, so that weights are rounded only once, after merging
    model: Any = load.load_model(path, "fp32", choice.model.device, choice.model.trust_remote_code, spec=spec)
    if "quantization_config" in model.config.to_dict():
        raise ValueError(f"{path}: the weights are quantised: export the original model")
    if choice.adapter:
        adapter_files.check(choice.adapter)
        checkpoints.warn_of_another_base(choice.model, choice.adapter, path)
        model = adapter_files.load(model, choice.adapter).float()
        if reason := merge.why_unmergeable(model):
            raise ValueError(f"{choice.adapter}: this adapter cannot be merged: {reason}")
        model = merge.merge(model)
    if choice.model.dtype != "AUTO":
        merging.round_weights(model, devices.DTYPES[choice.model.dtype])
    stops += [each for each in eos_tokens(model) if each not in stops]
    return MergedModel(model, tokenizer, table, stops, checkpoints.name(choice), spec)


def eos_tokens(model: PreTrainedModel) -> list[int]:
    """The ids at which the model's generation config ends a reply."""
    own = model.generation_config.eos_token_id
    return [each for each in (own if isinstance(own, list) else [own]) if each is not None]
