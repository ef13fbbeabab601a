"""Flags of the fine-tuning methods. Does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.flag_groups.model import DTYPES, Dtype
from swift.flags import flag

SftType = Literal[
    "lora", "full", "longlora", "adalora", "ia3", "vera", "boft", "oft", "fourierft", "loha", "lokr", "hra", "miss",
    "randlora", "c3a", "shira", "road", "ln", "part", "trainable_tokens", "prompt", "prefix", "ptuning",
    "adapter", "scetuning", "reft", "side", "restuning", "llamapro",
]  # fmt: skip


@dataclass(frozen=True)
class LoraFlags:
    """LoRA"""

    lora_rank: int = 8
    """LoRA rank r"""
    lora_alpha: int = 32
    """LoRA alpha: updates are scaled by alpha / r"""
    lora_dropout_p: float = flag(0.05, alias=("lora_dropout",))
    """Dropout on the input of LoRA"""
    lora_target_modules: tuple[str, ...] = flag(
        ("DEFAULT",), alias=("target_modules",), commas=True, values={"all-linear": "ALL", "AUTO": "DEFAULT"}
    )
    """Target modules: DEFAULT (the model's usual), ALL (every linear layer but the head), EMBEDDING, names"""
    lora_modules_to_save: tuple[str, ...] = flag((), alias=("modules_to_save",), commas=True)
    """Modules to train fully besides LoRA: names, EMBEDDING, LN"""
    lora_bias_trainable: Literal["none", "all"] = flag("none", alias=("lora_bias",))
    """Biases to train"""
    lora_dtype: Dtype = flag("AUTO", values=DTYPES)
    """Precision of lora_A and lora_B; AUTO uses fp32, since bf16 loses small updates"""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r)"""
    use_dora: bool = False
    """Weight-decomposed LoRA"""
    init_lora_weights: str = flag("true", alias=("init_weights",))
    """Initialisation: true, false, gaussian, orthogonal, pissa, olora, loftq; from training rows: eva, lora_ga"""
    init_adapter: str | None = None
    """Checkpoint whose adapter is trained further instead of a new one; rank, alpha, dropout and modules are its own"""
    lora_lr_ratio: float | None = None
    """LoRA+: learning rate of B as a multiple of that of A (usually 10 to 16)"""


@dataclass(frozen=True)
class TrainableFlags:
    """Trainable parameters"""

    freeze_parameters: float = 0.0
    """full: share of the parameters to freeze, from the embeddings up"""
    additional_trainable_parameters: tuple[str, ...] = ()
    """full: name prefixes of parameters to train nevertheless"""
    freeze_vit: bool = True
    """Vision-language models: freeze the vision tower; false lets the tuner train it"""
    freeze_aligner: bool = True
    """Vision-language models: freeze the projector; false lets the tuner train it"""
    trainable_token_ids: tuple[int, ...] = ()
    """trainable_tokens: token ids to train"""
    llamapro_num_new_blocks: int = 4
    """llamapro: number of new blocks"""
    llamapro_num_groups: int | None = None
    """llamapro: groups of blocks, each followed by new ones; none makes one per new block"""
    lisa_activated_layers: int = 0
    """full: blocks trained at a time, sampled anew at intervals (LISA); 0 trains all"""
    lisa_step_interval: int = 20
    """full: steps between two samples of LISA"""


@dataclass(frozen=True)
class LowRankFlags:
    """LongLoRA, AdaLoRA and VeRA"""

    longlora_group_size: int = 512
    """longlora: tokens of an attention group in training"""
    adalora_target_r: int = 8
    """adalora: average rank at the end"""
    adalora_init_r: int = 12
    """adalora: initial rank of each layer"""
    adalora_tinit: int = 0
    """adalora: steps before ranks are pruned"""
    adalora_tfinal: int = 0
    """adalora: final steps with fixed ranks"""
    adalora_deltaT: int = 1
    """adalora: steps between two prunings"""
    adalora_beta1: float = 0.85
    """adalora: smoothing of the importance"""
    adalora_beta2: float = 0.85
    """adalora: smoothing of its uncertainty"""
    adalora_orth_reg_weight: float = 0.5
    """adalora: weight of the orthogonality penalty"""
    vera_target_modules: tuple[str, ...] = flag(("DEFAULT",), commas=True)
    """vera: target modules, as for LoRA"""
    vera_modules_to_save: tuple[str, ...] = flag((), commas=True)
    """vera: modules to train fully"""
    vera_rank: int = 256
    """vera: rank of the shared matrices"""
    vera_projection_prng_key: int = 0
    """vera: seed of the shared matrices"""
    vera_dropout: float = 0.0
    """vera: dropout"""
    vera_d_initial: float = 0.1
    """vera: initial value of the vector d"""


@dataclass(frozen=True)
class StructuredFlags:
    """BOFT, OFT, FourierFT, C3A and RoAd"""

    boft_target_modules: tuple[str, ...] = flag(("DEFAULT",), commas=True)
    """boft: target modules, as for LoRA"""
    boft_modules_to_save: tuple[str, ...] = flag((), commas=True)
    """boft: modules to train fully"""
    boft_block_size: int = 4
    """boft: block size"""
    boft_block_num: int = 0
    """boft: number of blocks, instead of their size"""
    boft_n_butterfly_factor: int = 1
    """boft: butterfly factors"""
    boft_dropout: float = 0.0
    """boft: dropout"""
    oft_block_size: int = 32
    """oft: block size"""
    fourier_n_frequency: int = 2000
    """fourierft: coefficients per layer"""
    fourier_scaling: float = 300.0
    """fourierft: factor of the weight update"""
    c3a_block_size: int = 0
    """c3a: block size; 0 uses the largest that divides all dimensions, up to 256"""
    road_group_size: int = 64
    """road: outputs per group"""


@dataclass(frozen=True)
class ActivationFlags:
    """IA3, prompt tuning, bottleneck adapters and ReFT"""

    ia3_target_modules: tuple[str, ...] = flag(("DEFAULT",), commas=True)
    """ia3: modules to scale, as for LoRA"""
    ia3_feedforward_modules: tuple[str, ...] = flag((), commas=True)
    """ia3: those of them whose inputs are scaled; none means the model's usual"""
    ia3_modules_to_save: tuple[str, ...] = flag((), commas=True)
    """ia3: modules to train fully"""
    num_virtual_tokens: int = 20
    """prompt, prefix, ptuning: number of virtual tokens"""
    prompt_encoder_hidden_size: int | None = None
    """ptuning: hidden size of the prompt encoder; none means the model's"""
    adapter_act: str = "gelu"
    """adapter, side, restuning: activation function"""
    adapter_length: int = 128
    """adapter, side, restuning: bottleneck size"""
    reft_rank: int = 4
    """reft: rank of the subspace"""


@dataclass(frozen=True)
class GaloreFlags:
    """GaLore"""

    use_galore: bool = False
    """full: AdamW on low-rank projections of the gradients (pip install 'swift-agents[galore]')"""
    galore_rank: int = 128
    """Rank of the projection"""
    galore_target_modules: tuple[str, ...] = flag((), commas=True)
    """Linear layers whose gradients are projected; none means those of attention and feed-forward blocks"""
    galore_update_proj_gap: int = 50
    """Steps between two updates of the projection"""
    galore_scale: float = 1.0
    """Factor of the projected gradients"""
    galore_proj_type: Literal["std", "reverse_std", "right", "left", "full"] = "std"
    """Side of the projection"""
    galore_optim_per_parameter: bool = False
    """Update each parameter as soon as its gradient is ready; saves memory, excludes gradient accumulation"""


@dataclass(frozen=True)
class TunerFlags:
    """Other tuners"""

    trainable: TrainableFlags = TrainableFlags()
    low_rank: LowRankFlags = LowRankFlags()
    structured: StructuredFlags = StructuredFlags()
    activation: ActivationFlags = ActivationFlags()
    galore: GaloreFlags = GaloreFlags()
