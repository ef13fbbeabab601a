"""The table of tuners: the paper of each, the flags it takes, how it is laid on a model. Knows no command, no data.

A tuner is a function (model, settings) -> model; `flags` says which flag gives which setting, and a flag that is not
there is ignored by the tuner, which `refuse_ignored` makes an error.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import peft
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from swift.tuner import added, attach, llamapro, longlora
from swift.tuner.targets import Names, before_language, lora_targets, sees, whole_modules

Settings: TypeAlias = dict[str, Any]
Model: TypeAlias = PreTrainedModel | PeftModel
Apply: TypeAlias = Callable[[PreTrainedModel, Settings], Model]

PROMPTED = "no: its virtual tokens are no weights of the model"
WHOLE = "nothing to merge: the checkpoint is a whole model"


@dataclass(frozen=True)
class Tuner:
    """`merges`: `yes`, or why not. `whole`: the checkpoint is a model, not an adapter."""

    about: str
    paper: str
    """arXiv id; empty where there is none"""
    apply: Apply
    flags: Mapping[str, str] = field(default_factory=dict)
    """Flag -> setting of `apply`; empty where the flag is for the optimizer or the loop"""
    merges: str = "yes"
    whole: bool = False
    quantised: bool = False
    """Whether it works beside weights of 4 or 8 bits"""
    recomputes: bool = True
    """Whether its blocks may be run twice, as gradient checkpointing does"""


# How a tuner is laid on


def _by_peft(config: Any, **fixed: Any) -> Apply:
    """Through a configuration class of PEFT's."""

    def apply(model: PreTrainedModel, settings: Settings) -> PeftModel:
        settings = {name: value for name, value in settings.items() if value is not None}
        return attach.wrap(model, config(task_type="CAUSAL_LM", **fixed, **settings))

    return apply


def _lora(model: PreTrainedModel, settings: Settings) -> Model:
    batches = settings.pop("batches", ())
    return attach.attach(model, attach.LoraOptions(**settings), batches)


def _longlora(model: PreTrainedModel, settings: Settings) -> Model:
    longlora.shift_attention(model, settings.pop("group_size"))
    settings["modules_to_save"] = tuple(dict.fromkeys((*settings["modules_to_save"], "EMBEDDING", "LN")))
    return _lora(model, settings)


def _full(model: PreTrainedModel, settings: Settings) -> Model:
    attach.attach(model, None)
    freeze(model, settings.get("freeze", 0.0), settings.get("also", ()))
    return model


def _adalora(model: PreTrainedModel, settings: Settings) -> Model:
    if settings["init_r"] <= settings["target_r"]:
        raise ValueError(
            f"--adalora_init_r {settings['init_r']} must be more than --adalora_target_r {settings['target_r']}"
        )
    # the number of steps is known when training begins, and told then
    room = settings["tinit"] + settings["tfinal"] + 1
    return _by_peft(peft.AdaLoraConfig, total_step=room)(model, settings)


def _boft(model: PreTrainedModel, settings: Settings) -> Model:
    if settings["boft_block_num"]:
        settings["boft_block_size"] = 0
    return _by_peft(peft.BOFTConfig)(model, settings)


def _c3a(model: PreTrainedModel, settings: Settings) -> Model:
    if not settings["block_size"]:
        sides = [side for linear in _targeted(model, settings) for side in (linear.in_features, linear.out_features)]
        common = math.gcd(*sides)
        settings["block_size"] = max(size for size in range(1, min(common, 256) + 1) if common % size == 0)
    return _by_peft(peft.C3AConfig)(model, settings)


def _tokens(model: PreTrainedModel, settings: Settings) -> Model:
    if not settings["token_indices"]:
        raise ValueError("--trainable_token_ids: which tokens shall be trained? give their ids")
    return _by_peft(peft.TrainableTokensConfig)(model, {"token_indices": list(settings["token_indices"])})


def _norms(model: PreTrainedModel, settings: Settings) -> Model:
    return _by_peft(peft.LNTuningConfig, target_modules=whole_modules(model, ("LN",)))(model, settings)


def _added(kind: str, **fixed: Any) -> Apply:
    return lambda model, settings: added.add(model, kind, {**settings, **fixed})


def _llamapro(model: PreTrainedModel, settings: Settings) -> Model:
    return llamapro.add_blocks(model, settings["new"], settings["groups"])


def freeze(model: PreTrainedModel, share: float, also: Collection[str]) -> None:
    """Freezes the first parameters, from the embeddings up, as far as they make `share` of all; not those in `also`.

    `also` are prefixes of parameter names. A parameter is frozen whole or not at all.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"--freeze_parameters {share}: must be from 0 to 1")
    names = [name for name, _ in model.named_parameters()]
    for prefix in also:
        if not any(name.startswith(prefix) for name in names):
            near = difflib.get_close_matches(prefix, names, n=1, cutoff=0.3) or names[:1]
            raise ValueError(f"--additional_trainable_parameters {prefix}: no parameter begins so; {near[0]} is one")
    room = share * model.num_parameters()
    for name, parameter in model.named_parameters():
        room -= parameter.numel()
        if room < 0:
            break
        parameter.requires_grad_(any(name.startswith(prefix) for prefix in also))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("nothing would be trained: lower --freeze_parameters")


def _targeted(model: PreTrainedModel, settings: Settings) -> list[nn.Linear]:
    ends = tuple(f".{name}" for name in settings["target_modules"])
    return [m for name, m in model.named_modules() if f".{name}".endswith(ends) and isinstance(m, nn.Linear)]


# The table

LORA = {
    "lora_target_modules": "targets",
    "lora_modules_to_save": "modules_to_save",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout_p": "dropout",
    "lora_bias_trainable": "bias",
    "lora_dtype": "dtype",
    "use_rslora": "rslora",
    "use_dora": "dora",
    "init_lora_weights": "init",
    "lora_lr_ratio": "",
}
WHERE = {"lora_target_modules": "target_modules", "lora_modules_to_save": "modules_to_save"}
RANK = {**WHERE, "lora_rank": "r"}
LYCORIS = {**RANK, "lora_alpha": "alpha", "lora_dropout_p": "rank_dropout"}
VIRTUAL = {"num_virtual_tokens": "num_virtual_tokens"}


def _prefixed(prefix: str, *names: str, **renamed: str) -> dict[str, str]:
    return {f"{prefix}_{name}": name for name in names} | {f"{prefix}_{flag}": name for flag, name in renamed.items()}


_TABLE = {
    "lora": Tuner(
        "Low-rank matrices beside linear layers; flags make it rsLoRA, DoRA, LoRA+, PiSSA, OLoRA, LoftQ, EVA, LoRA-GA",
        "2106.09685",
        _lora,
        LORA,
        quantised=True,
    ),
    "full": Tuner(
        "Every parameter, or those that --freeze_parameters leaves",
        "",
        _full,
        {
            **{"freeze_parameters": "freeze", "additional_trainable_parameters": "also"},
            **dict.fromkeys(("lisa_activated_layers", "lisa_step_interval", "use_galore", "galore_rank"), ""),
            **dict.fromkeys(("galore_target_modules", "galore_update_proj_gap", "galore_scale"), ""),
            **dict.fromkeys(("galore_proj_type", "galore_optim_per_parameter"), ""),
        },
        WHOLE,
        whole=True,
    ),
    "longlora": Tuner(
        "LoRA with embeddings and norms, and shifted sparse attention while it trains",
        "2309.12307",
        _longlora,
        {**LORA, "longlora_group_size": "group_size"},
        quantised=True,
    ),
    "adalora": Tuner(
        "LoRA as a singular value decomposition, whose ranks go where they matter",
        "2303.10512",
        _adalora,
        {**WHERE, "lora_alpha": "lora_alpha", "lora_dropout_p": "lora_dropout"}
        | _prefixed("adalora", "target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"),
        quantised=True,
    ),
    "ia3": Tuner(
        "A factor for every output of keys, values and the feed-forward part",
        "2205.05638",
        _by_peft(peft.IA3Config),
        _prefixed("ia3", "target_modules", "feedforward_modules", "modules_to_save"),
        quantised=True,
    ),
    "vera": Tuner(
        "LoRA with fixed random matrices that all layers share, and trained vectors",
        "2310.11454",
        _by_peft(peft.VeraConfig),
        _prefixed("vera", "target_modules", "modules_to_save", "projection_prng_key", "d_initial")
        | {"vera_rank": "r", "vera_dropout": "vera_dropout"},
        quantised=True,
    ),
    "boft": Tuner(
        "Rotations of the weights made of butterfly factors",
        "2311.06243",
        _boft,
        _prefixed("boft", "target_modules", "modules_to_save")
        | {f"boft_{name}": f"boft_{name}" for name in ("block_size", "block_num", "n_butterfly_factor", "dropout")},
    ),
    "oft": Tuner(
        "Rotations of the weights, in blocks",
        "2306.07280",
        _by_peft(peft.OFTConfig),
        {**WHERE, "oft_block_size": "oft_block_size"},
        quantised=True,
    ),
    "fourierft": Tuner(
        "A change of weights by a few coefficients of its Fourier transform",
        "2405.03003",
        _by_peft(peft.FourierFTConfig),
        {**WHERE, **_prefixed("fourier", "n_frequency", "scaling")},
    ),
    "loha": Tuner("A Hadamard product of two low-rank matrices", "2108.06098", _by_peft(peft.LoHaConfig), LYCORIS),
    "lokr": Tuner("A Kronecker product of small matrices", "2309.14859", _by_peft(peft.LoKrConfig), LYCORIS),
    "hra": Tuner("A chain of Householder reflections", "2405.17484", _by_peft(peft.HRAConfig), RANK),
    "miss": Tuner(
        "One small matrix shared by the shards of a weight (bone is its older name)",
        "2409.15371",
        _by_peft(peft.MissConfig),
        {**RANK, "lora_dropout_p": "miss_dropout"},
    ),
    "randlora": Tuner(
        "A full-rank sum of fixed random matrices, scaled by trained vectors",
        "2502.00987",
        _by_peft(peft.RandLoraConfig),
        {**RANK, "lora_alpha": "randlora_alpha", "lora_dropout_p": "randlora_dropout"},
        quantised=True,
    ),
    "c3a": Tuner(
        "A circular convolution, in blocks",
        "2407.19342",
        _c3a,
        {**WHERE, "c3a_block_size": "block_size"},
    ),
    "shira": Tuner(
        "A sparse set of the weights themselves, as many as LoRA of that rank has",
        "2406.13175",
        _by_peft(peft.ShiraConfig, random_seed=0),
        RANK,
    ),
    "road": Tuner(
        "Rotations of pairs of a layer's outputs",
        "2409.00119",
        _by_peft(peft.RoadConfig),
        {**WHERE, "road_group_size": "group_size"},
        quantised=True,
    ),
    "ln": Tuner(
        "The norms' own weights", "2312.11420", _norms, {"lora_modules_to_save": "modules_to_save"}, quantised=True
    ),
    "part": Tuner(
        "The named layers' own weights, as copies beside a frozen model",
        "",
        _by_peft(peft.LNTuningConfig),
        WHERE,
    ),
    "trainable_tokens": Tuner(
        "The embeddings of a few tokens",
        "",
        _tokens,
        {"trainable_token_ids": "token_indices"},
        quantised=True,
    ),
    "prompt": Tuner(
        "Virtual tokens before the row, as embeddings",
        "2104.08691",
        _by_peft(peft.PromptTuningConfig),
        VIRTUAL,
        PROMPTED,
        quantised=True,
    ),
    "prefix": Tuner(
        "Virtual keys and values before the row, in every layer",
        "2101.00190",
        _by_peft(peft.PrefixTuningConfig),
        VIRTUAL,
        "no: its keys and values are no weights of the model",
        recomputes=False,
        quantised=True,
    ),
    "ptuning": Tuner(
        "Virtual tokens before the row, made by a small network",
        "2103.10385",
        _by_peft(peft.PromptEncoderConfig),
        {**VIRTUAL, "prompt_encoder_hidden_size": "encoder_hidden_size"},
        PROMPTED,
        quantised=True,
    ),
    "adapter": Tuner(
        "Bottlenecks behind attention and the feed-forward part",
        "1902.00751",
        _added("ADAPTER"),
        _prefixed("adapter", "act", "length"),
        "no: its bottlenecks are not linear",
    ),
    "scetuning": Tuner(
        "Bottlenecks on the skip connections past every block (SCEdit's SC-Tuner)",
        "2312.11392",
        _added("SKIP"),
        _prefixed("adapter", "act", "length"),
        "no: its bottlenecks are not linear",
    ),
    "reft": Tuner(
        "LoReFT: edits of every block's output in a small subspace, at every position",
        "2404.03592",
        _added("REFT"),
        {"reft_rank": "rank"},
        "no: it edits hidden states, not weights",
    ),
    "side": Tuner(
        "A narrow network beside the model, which reads the embeddings",
        "1912.13503",
        _added("BYPASS", ladder=False),
        {"adapter_act": "act", "adapter_length": "width"},
        "no: it is a network beside the model",
        recomputes=False,
    ),
    "restuning": Tuner(
        "A narrow network beside the model, which reads every block's output (the bypass form)",
        "2310.19859",
        _added("BYPASS", ladder=True),
        {"adapter_act": "act", "adapter_length": "width"},
        "no: it is a network beside the model",
        recomputes=False,
    ),
    "llamapro": Tuner(
        "New blocks between the model's own, which start as doing nothing",
        "2401.02415",
        _llamapro,
        {"llamapro_num_new_blocks": "new", "llamapro_num_groups": "groups"},
        WHOLE,
        whole=True,
    ),
}
TUNERS: Mapping[str, Tuner] = MappingProxyType(_TABLE)


@dataclass(frozen=True)
class Variant:
    """What flags make of the tuner `of`."""

    about: str
    paper: str
    flags: Mapping[str, Any]
    of: str = "lora"


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "qlora": Variant("LoRA beside weights of 4 or 8 bits", "2305.14314", {"quantization_bit": 4}),
        "rslora": Variant("LoRA scaled by alpha / sqrt(r)", "2312.03732", {"use_rslora": True}),
        "dora": Variant("LoRA for the weights' direction, a vector for their length", "2402.09353", {"use_dora": True}),
        "lora+": Variant("LoRA whose B learns faster than A", "2402.12354", {"lora_lr_ratio": 16}),
        "pissa": Variant(
            "LoRA that starts as the weights' greatest singular vectors", "2404.02948", {"init_lora_weights": "pissa"}
        ),
        "olora": Variant("LoRA that starts as the weights' QR", "2406.01775", {"init_lora_weights": "olora"}),
        "loftq": Variant(
            "LoRA that starts as what 4 bits lose, computed on a GPU", "2310.08659", {"init_lora_weights": "loftq"}
        ),
        "eva": Variant(
            "LoRA that starts as what the training rows vary in", "2410.07170", {"init_lora_weights": "eva"}
        ),
        "lora-ga": Variant(
            "LoRA that starts along the first rows' gradient", "2407.05000", {"init_lora_weights": "lora_ga"}
        ),
        "neftune": Variant("Noise on the embeddings, with any tuner", "2310.05914", {"neftune_noise_alpha": 5}),
        "galore": Variant(
            "Every parameter, with gradients of low rank",
            "2403.03507",
            {"sft_type": "full", "use_galore": True},
            "full",
        ),
        "lisa": Variant(
            "A few blocks at a time, drawn anew", "2403.17919", {"sft_type": "full", "lisa_activated_layers": 2}, "full"
        ),
    }
)
LEFT_OUT: Mapping[str, str] = MappingProxyType(
    {
        "q-galore": "its package q-galore-torch needs CUDA kernels for 8-bit weights; galore and qlora save memory too",
        "unsloth": "it needs its own package and a GPU",
    }
)


# The front door


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
