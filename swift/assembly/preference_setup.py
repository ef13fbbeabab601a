"""Flags of preference training -> what `training.run` needs: rows, their reference log-likelihoods, the objective."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from swift import flags
from swift.assembly import pipeline, training_data
from swift.assembly.training import Method, Start
from swift.assembly.training_config import TrainingConfig
from swift.assembly.training_data import Data, RowTokenizer, Say
from swift.flag_groups import PreferenceFlags
from swift.system import gc_tuning

if TYPE_CHECKING:
    from swift.chat import Sample
    from swift.template import Renderer
    from swift.train.objective import Objective
    from swift.train.ranks import Ranks
    from swift.train.sample_cache import CompactSamples

ADAPTER_RATE, FULL_RATE = 5e-5, 1e-6
"""Default learning rates of adapters and of full fine-tuning."""
MOST_EPOCHS = 3
"""Passes over a small data set, at most, where no number is given: pairs are soon known by heart."""
ONLY_FOR = {
    "loss_type": "dpo",
    "label_smoothing": "dpo",
    "rpo_alpha": "dpo",
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
}
"""Flag -> the only method that reads it."""
CHANGED_BASE = ("pissa", "olora", "loftq", "lora_ga")
"""Initialisations of LoRA that subtract from the base weights what the adapter adds."""


def method(preferences: PreferenceFlags) -> Method:
    """Preference training as a method of `training.run`."""
    return Method(
        "rlhf",
        (ADAPTER_RATE, FULL_RATE),
        MOST_EPOCHS,
        partial(check, preferences),
        partial(read, preferences),
        partial(objective, preferences),
    )


def check(preferences: PreferenceFlags, cfg: TrainingConfig) -> None:
    """Raises ValueError for flags that are out of range, contradict each other or would be ignored. Reads nothing."""
    from swift.data import self_cognition

    given, default, kind = flags.values(preferences), flags.values(PreferenceFlags()), preferences.rlhf_type
    for name, only in ONLY_FOR.items():
        if given[name] != default[name] and kind != only:
            raise ValueError(f"--{name} is for --rlhf_type {only} and does nothing for {kind}: leave it out")
    if not preferences.beta > 0:
        raise ValueError(f"--beta {preferences.beta:g}: must be more than 0")
    if not 0 <= preferences.label_smoothing < 0.5:
        raise ValueError(f"--label_smoothing {preferences.label_smoothing:g}: must be 0 or more and below 0.5")
    if preferences.label_smoothing and preferences.loss_type != "sigmoid":
        raise ValueError(f"--label_smoothing is for --loss_type sigmoid, not for {preferences.loss_type}: leave it out")
    if preferences.rpo_alpha is not None and not preferences.rpo_alpha > 0:
        raise ValueError(f"--rpo_alpha {preferences.rpo_alpha:g}: must be more than 0; leave it out to add nothing")
    for name in ("desirable_weight", "undesirable_weight"):
        if not given[name] > 0:
            raise ValueError(f"--{name} {given[name]:g}: must be more than 0")
    for name in ("streaming", "lazy_tokenize", "token_cache"):
        if getattr(cfg.loader, name):
            raise ValueError(f"--{name} does not work with swift rlhf, which reads all rows first: leave it out")
    if cfg.loader.group_by_prefix:
        raise ValueError("--group_by_prefix has no effect with swift rlhf: leave it out")
    for name in ("fsdp", "deepspeed"):
        if getattr(cfg.parallel, name):
            raise ValueError(f"--{name} does not work with swift rlhf yet: leave it out (DDP), or use --device_map")
    named = [name.partition("#")[0] for value in cfg.data.dataset for name in value.split(",")]
    if cfg.data.self_cognition_sample or self_cognition.NAME in named:
        raise ValueError("self-cognition rows are dialogues without preferences: use swift sft for them")


@gc_tuning.infrequent()  # also for the tokenising processes, which are forked within
def read(preferences: PreferenceFlags, cfg: TrainingConfig, renderer: Renderer, say: Say, ranks: Ranks) -> Data:
    """The judged rows of the flags as samples. Raises ValueError where no row is left, or no token is trained."""
    from swift.data import preference_rows
    from swift.template import judged_samples
    from swift.train.preference import with_mismatched
    from swift.train.sample_cache import CompactSamples

    is_kto, limits = preferences.rlhf_type == "kto", cfg.template
    wanted = replace(pipeline.plan(cfg), row_format=preference_rows.JUDGED if is_kto else preference_rows.PAIRS)
    tokenizer = RowTokenizer(renderer, limits.max_length, limits.truncation_strategy, judged_samples.truncate)
    data = training_data.tokenised(wanted, tokenizer, say, cfg.loader.preprocess_num_proc)
    pipeline.check_trained(data, cfg)
    pipeline.warn_unmatched(data, renderer, say)
    if not is_kto:
        return data
    if len(data.train) < 2:
        raise ValueError("kto needs at least 2 rows: it compares each completion with another row's")
    labels = [sample.judged.label for sample in data.train if sample.judged]
    say(f"labels: {sum(labels):,} desirable, {len(labels) - sum(labels):,} undesirable completions")
    if len(set(labels)) == 1:
        say("warning: all completions have the same label, so the model learns only to raise or to lower them")
    train, val = (
        CompactSamples.in_memory(with_mismatched(samples, limits.max_length)) for samples in (data.train, data.val)
    )
    return data._replace(train=train, val=val)


def objective(preferences: PreferenceFlags, cfg: TrainingConfig, data: Data, start: Start) -> tuple[Data, Objective]:
    """What is minimised, and the data with their log-likelihoods under the reference model.

    The reference is the model before its first step: with a new adapter its base model, with --init_adapter the model
    with that adapter.
    """
    from swift.train import preference
    from swift.train.objective import Sources

    beta, kind = preferences.beta, preferences.rlhf_type
    if kind == "orpo":
        return data, preference.orpo(beta, data.sources)
    began = time.perf_counter()
    # as the rows are computed later, so that what bf16 rounds cancels out: evaluations compute each row alone
    train = _with_references(data.train, cfg, start, share_prefixes=kind != "kto" and start.ranks.world == 1)
    val = _with_references(data.val, cfg, start, share_prefixes=False)
    start.say(f"reference: log-likelihoods of {len(train) + len(val):,} rows in {time.perf_counter() - began:.1f} s")
    data = data._replace(train=train, val=val)
    if kind == "kto":
        weights = preferences.desirable_weight, preferences.undesirable_weight
        return data, preference.Kto(beta, *weights, Sources(data.sources))
    more = preferences.label_smoothing, preferences.loss_type, preferences.rpo_alpha
    return data, preference.dpo(beta, *more, data.sources)


def _starts_elsewhere(cfg: TrainingConfig) -> bool:
    """Whether the adapter computes something at the first step, or belongs to base weights that were changed for it."""
    return cfg.train.sft_type in ("lora", "longlora") and (
        cfg.lora.init_adapter is not None or cfg.lora.init_lora_weights in CHANGED_BASE
    )


def _with_references(
    samples: Sequence[Sample], cfg: TrainingConfig, start: Start, share_prefixes: bool
) -> CompactSamples:
    from swift.train import reference
    from swift.train.sample_cache import CompactSamples
    from swift.tuner.cpu import fused

    assert isinstance(samples, CompactSamples), type(samples)
    if start.packed:
        fused.refresh(start.model)
    found = reference.of_samples(
        start.model,
        samples,
        packed=start.packed,
        share_prefixes=share_prefixes and start.packed and fused.takes_branches(start.model),
        adapter=_starts_elsewhere(cfg),
        ranks=start.ranks,
    )
    return samples.with_references(found.tolist())
