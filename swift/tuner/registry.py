"""The registry of tuners: paper, flags and method of each. Knows no command and no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import peft

from swift.tuner import methods
from swift.tuner.merge import UNMERGEABLE
from swift.tuner.methods import Apply

NOTHING_TO_MERGE = "nothing to merge: the checkpoint is a complete model"


@dataclass(frozen=True)
class Tuner:
    """`merges`: `yes`, or why not. `full_model`: the checkpoint is a model, not an adapter."""

    about: str
    paper: str
    """arXiv id; empty where there is none"""
    apply: Apply
    flags: Mapping[str, str] = field(default_factory=dict)
    """Flag -> argument of `apply`; empty where the optimizer or the training loop reads the flag"""
    merges: str = "yes"
    full_model: bool = False
    quantised: bool = False
    """Whether it works on weights of 4 or 8 bits"""
    recomputes: bool = True
    """Whether gradient checkpointing, which runs blocks twice, works with it"""


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
    "init_adapter": "start",
    "lora_lr_ratio": "",
}
WHERE = {"lora_target_modules": "target_modules", "lora_modules_to_save": "modules_to_save"}
RANK = {**WHERE, "lora_rank": "r"}
LYCORIS = {**RANK, "lora_alpha": "alpha", "lora_dropout_p": "rank_dropout"}
VIRTUAL = {"num_virtual_tokens": "num_virtual_tokens"}


def _unmergeable(peft_type: str) -> str:
    return f"no: {UNMERGEABLE[peft_type]}"


def _prefixed(prefix: str, *names: str, **renamed: str) -> dict[str, str]:
    return {f"{prefix}_{name}": name for name in names} | {f"{prefix}_{flag}": name for flag, name in renamed.items()}


_TABLE = {
    "lora": Tuner(
        "Low-rank updates of linear layers; flags select rsLoRA, DoRA, LoRA+, PiSSA, OLoRA, LoftQ, EVA, LoRA-GA",
        "2106.09685",
        methods.apply_lora,
        LORA,
        quantised=True,
    ),
    "full": Tuner(
        "All parameters, or those that --freeze_parameters leaves trainable",
        "",
        methods.apply_full,
        {
            **{"freeze_parameters": "freeze", "additional_trainable_parameters": "also"},
            **dict.fromkeys(("lisa_activated_layers", "lisa_step_interval", "use_galore", "galore_rank"), ""),
            **dict.fromkeys(("galore_target_modules", "galore_update_proj_gap", "galore_scale"), ""),
            **dict.fromkeys(("galore_proj_type", "galore_optim_per_parameter"), ""),
        },
        NOTHING_TO_MERGE,
        full_model=True,
    ),
    "longlora": Tuner(
        "LoRA with embeddings and norms, and shifted sparse attention during training",
        "2309.12307",
        methods.apply_longlora,
        {**LORA, "longlora_group_size": "group_size"},
        quantised=True,
    ),
    "adalora": Tuner(
        "LoRA as a singular value decomposition; ranks are allocated by importance",
        "2303.10512",
        methods.apply_adalora,
        {**WHERE, "lora_alpha": "lora_alpha", "lora_dropout_p": "lora_dropout"}
        | _prefixed("adalora", "target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"),
        quantised=True,
    ),
    "ia3": Tuner(
        "A scale for each output of keys, values and the feed-forward layer",
        "2205.05638",
        methods.by_peft(peft.IA3Config),
        _prefixed("ia3", "target_modules", "feedforward_modules", "modules_to_save"),
        quantised=True,
    ),
    "vera": Tuner(
        "LoRA with fixed random matrices shared by all layers, and trained vectors",
        "2310.11454",
        methods.by_peft(peft.VeraConfig),
        _prefixed("vera", "target_modules", "modules_to_save", "projection_prng_key", "d_initial")
        | {"vera_rank": "r", "vera_dropout": "vera_dropout"},
        quantised=True,
    ),
    "boft": Tuner(
        "Rotations of the weights, as products of butterfly factors",
        "2311.06243",
        methods.apply_boft,
        _prefixed("boft", "target_modules", "modules_to_save")
        | {f"boft_{name}": f"boft_{name}" for name in ("block_size", "block_num", "n_butterfly_factor", "dropout")},
    ),
    "oft": Tuner(
        "Rotations of the weights, in blocks",
        "2306.07280",
        methods.by_peft(peft.OFTConfig),
        {**WHERE, "oft_block_size": "oft_block_size"},
        quantised=True,
    ),
    "fourierft": Tuner(
        "Weight updates given by a few Fourier coefficients",
        "2405.03003",
        methods.by_peft(peft.FourierFTConfig),
        {**WHERE, **_prefixed("fourier", "n_frequency", "scaling")},
    ),
    "loha": Tuner(
        "A Hadamard product of two low-rank matrices", "2108.06098", methods.by_peft(peft.LoHaConfig), LYCORIS
    ),
    "lokr": Tuner("A Kronecker product of small matrices", "2309.14859", methods.by_peft(peft.LoKrConfig), LYCORIS),
    "hra": Tuner("A chain of Householder reflections", "2405.17484", methods.by_peft(peft.HRAConfig), RANK),
    "miss": Tuner(
        "One small matrix shared by the shards of a weight (formerly bone)",
        "2409.15371",
        methods.by_peft(peft.MissConfig),
        {**RANK, "lora_dropout_p": "miss_dropout"},
    ),
    "randlora": Tuner(
        "A full-rank sum of fixed random matrices, scaled by trained vectors",
        "2502.00987",
        methods.by_peft(peft.RandLoraConfig),
        {**RANK, "lora_alpha": "randlora_alpha", "lora_dropout_p": "randlora_dropout"},
        quantised=True,
    ),
    "c3a": Tuner(
        "A circular convolution, in blocks",
        "2407.19342",
        methods.apply_c3a,
        {**WHERE, "c3a_block_size": "block_size"},
    ),
    "shira": Tuner(
        "A sparse subset of the weights, as many as LoRA of the same rank trains",
        "2406.13175",
        methods.by_peft(peft.ShiraConfig, random_seed=0),
        RANK,
    ),
    "road": Tuner(
        "Rotations of pairs of a layer's outputs",
        "2409.00119",
        methods.by_peft(peft.RoadConfig),
        {**WHERE, "road_group_size": "group_size"},
        quantised=True,
    ),
    "ln": Tuner(
        "The weights of the norms",
        "2312.11420",
        methods.apply_norms,
        {"lora_modules_to_save": "modules_to_save"},
        quantised=True,
    ),
    "part": Tuner(
        "The weights of the named layers, as copies in addition to the frozen model",
        "",
        methods.by_peft(peft.LNTuningConfig),
        WHERE,
    ),
    "trainable_tokens": Tuner(
        "The embeddings of a few tokens",
        "",
        methods.apply_trainable_tokens,
        {"trainable_token_ids": "token_indices"},
        quantised=True,
    ),
    "prompt": Tuner(
        "Embeddings of virtual tokens before the row",
        "2104.08691",
        methods.by_peft(peft.PromptTuningConfig),
        VIRTUAL,
        _unmergeable("PROMPT_TUNING"),
        quantised=True,
    ),
    "prefix": Tuner(
        "Keys and values of virtual tokens before the row, in every layer",
        "2101.00190",
        methods.by_peft(peft.PrefixTuningConfig),
        VIRTUAL,
        _unmergeable("PREFIX_TUNING"),
        recomputes=False,
        quantised=True,
    ),
    "ptuning": Tuner(
        "Virtual tokens before the row, generated by a small network",
        "2103.10385",
        methods.by_peft(peft.PromptEncoderConfig),
        {**VIRTUAL, "prompt_encoder_hidden_size": "encoder_hidden_size"},
        _unmergeable("P_TUNING"),
        quantised=True,
    ),
    "adapter": Tuner(
        "Bottlenecks after attention and the feed-forward layer",
        "1902.00751",
        methods.by_extra_modules("ADAPTER"),
        _prefixed("adapter", "act", "length"),
        _unmergeable("ADAPTER"),
    ),
    "scetuning": Tuner(
        "Bottlenecks on the skip connections around every block (SCEdit's SC-Tuner)",
        "2312.11392",
        methods.by_extra_modules("SKIP"),
        _prefixed("adapter", "act", "length"),
        _unmergeable("SKIP"),
    ),
    "reft": Tuner(
        "LoReFT: edits of every block's output in a small subspace, at every position",
        "2404.03592",
        methods.by_extra_modules("REFT"),
        {"reft_rank": "rank"},
        _unmergeable("REFT"),
    ),
    "side": Tuner(
        "A narrow side network that reads the embeddings",
        "1912.13503",
        methods.by_extra_modules("BYPASS", ladder=False),
        {"adapter_act": "act", "adapter_length": "width"},
        _unmergeable("BYPASS"),
        recomputes=False,
    ),
    "restuning": Tuner(
        "A narrow side network that reads every block's output (the bypass variant)",
        "2310.19859",
        methods.by_extra_modules("BYPASS", ladder=True),
        {"adapter_act": "act", "adapter_length": "width"},
        _unmergeable("BYPASS"),
        recomputes=False,
    ),
    "llamapro": Tuner(
        "New blocks between the existing ones, initialised as identity",
        "2401.02415",
        methods.apply_llamapro,
        {"llamapro_num_new_blocks": "new", "llamapro_num_groups": "groups"},
        NOTHING_TO_MERGE,
        full_model=True,
    ),
}


TUNERS: Mapping[str, Tuner] = MappingProxyType(_TABLE)


@dataclass(frozen=True)
class Variant:
    """A method that flags select within the tuner `of`."""

    about: str
    paper: str
    flags: Mapping[str, Any]
    of: str = "lora"


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "qlora": Variant("LoRA on weights quantised to 4 or 8 bits", "2305.14314", {"quantization_bit": 4}),
        "rslora": Variant("LoRA scaled by alpha / sqrt(r)", "2312.03732", {"use_rslora": True}),
        "dora": Variant(
            "LoRA for the direction of the weights, a vector for their magnitude", "2402.09353", {"use_dora": True}
        ),
        "lora+": Variant("LoRA with a higher learning rate for B than for A", "2402.12354", {"lora_lr_ratio": 16}),
        "pissa": Variant(
            "LoRA initialised with the principal singular vectors of the weights",
            "2404.02948",
            {"init_lora_weights": "pissa"},
        ),
        "olora": Variant(
            "LoRA initialised with the QR decomposition of the weights", "2406.01775", {"init_lora_weights": "olora"}
        ),
        "loftq": Variant(
            "LoRA initialised with the error of 4-bit quantisation, computed on a GPU",
            "2310.08659",
            {"init_lora_weights": "loftq"},
        ),
        "eva": Variant(
            "LoRA initialised with the principal components of the training activations",
            "2410.07170",
            {"init_lora_weights": "eva"},
        ),
        "lora-ga": Variant(
            "LoRA initialised along the gradient of the first rows", "2407.05000", {"init_lora_weights": "lora_ga"}
        ),
        "neftune": Variant("Noise on the embeddings, with any tuner", "2310.05914", {"neftune_noise_alpha": 5}),
        "galore": Variant(
            "All parameters, with gradients projected to a low rank",
            "2403.03507",
            {"sft_type": "full", "use_galore": True},
            "full",
        ),
        "lisa": Variant(
            "A few randomly selected blocks at a time",
            "2403.17919",
            {"sft_type": "full", "lisa_activated_layers": 2},
            "full",
        ),
    }
)


LEFT_OUT: Mapping[str, str] = MappingProxyType(
    {
        "q-galore": "its package q-galore-torch needs CUDA kernels for 8-bit weights; use galore or qlora",
        "unsloth": "it needs its own package and a GPU",
    }
)
