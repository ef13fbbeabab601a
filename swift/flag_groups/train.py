"""Flags of a training run: optimizer, schedule, evaluation, checkpoints, logging, devices. Does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.flag_groups.tuner import SftType
from swift.flags import flag


@dataclass(frozen=True)
class OptimizerFlags:
    """Optimizer and learning rate"""

    optim: str = "adamw_torch"
    """Optimizer, by its name in transformers"""
    learning_rate: float | None = flag(None, alias=("lr",))
    """Peak learning rate; none means 1e-4 for adapters and 1e-5 for full fine-tuning, of preferences 5e-5 and 1e-6"""
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
    ] = "linear"
    """Learning rate schedule after warm-up"""
    warmup_ratio: float = 0.05
    """Share of the steps used for warm-up"""
    warmup_steps: int = 0
    """Warm-up steps; above 0 they replace --warmup_ratio"""
    weight_decay: float = 0.01
    """Weight decay"""
    max_grad_norm: float = 0.5
    """Maximum gradient norm (clipping)"""
    adam_beta1: float = 0.9
    """Adam beta1"""
    adam_beta2: float = 0.999
    """Adam beta2"""
    adam_epsilon: float = 1e-8
    """Adam epsilon"""


@dataclass(frozen=True)
class KernelFlags:
    """Attention and kernels"""

    tuner_backend: Literal["swift", "peft", "unsloth"] = "swift"
    """Implementation of LoRA and full fine-tuning: swift is faster on CPUs for the models it knows, peft uses the
    layers of PEFT and transformers; checkpoints are the same"""
    attn_impl: Literal["AUTO", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] = flag(
        "AUTO", alias=("attn_implementation",), values={"flash_attn": "flash_attention_2"}
    )
    """Attention implementation; AUTO chooses by model and hardware"""
    use_flash_attn: bool = False
    """Deprecated form of --attn_impl flash_attention_2"""
    use_liger_kernel: bool = False
    """Use Liger's fused kernels (needs a GPU and pip install liger-kernel)"""
    torch_compile: bool = False
    """Compile the model: a slow first step, faster steps after it; needs a C++ compiler on a CPU"""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass to save memory; none does so on GPUs"""


@dataclass(frozen=True)
class EvaluationFlags:
    """Evaluation"""

    eval_strategy: Literal["steps", "epoch", "no"] = flag("steps", alias=("evaluation_strategy",))
    """When to evaluate"""
    eval_steps: int = 50
    """Steps between evaluations"""
    eval_batch_size: int | None = flag(None, alias=("per_device_eval_batch_size",))
    """Rows per device and evaluation batch; none means --batch_size"""


@dataclass(frozen=True)
class SavingFlags:
    """Checkpoints"""

    output_dir: str = "output"
    """Folder for checkpoints and reports"""
    add_output_dir_suffix: bool = True
    """Append MODEL/vN-TIME to --output_dir"""
    resume_from_checkpoint: str | None = flag(None, bare="newest")
    """Checkpoint to resume from; the flag without a value selects the newest complete one"""
    save_strategy: Literal["steps", "epoch", "no"] = "steps"
    """When to save"""
    save_steps: int | None = None
    """Steps between checkpoints; none means --eval_steps"""
    save_total_limit: int = 2
    """Number of checkpoints to keep, always including the best and the last; -1 keeps all"""
    save_only_model: bool | None = flag(None, alias=("only_save_model",))
    """Save no optimizer state; none means false for adapters and true for full fine-tuning"""


@dataclass(frozen=True)
class LoggingFlags:
    """Logging"""

    logging_steps: int = 5
    """Steps between log lines"""
    logging_dir: str | None = None
    """TensorBoard folder; none means runs/ in the run's folder"""
    report_to: tuple[str, ...] = flag(("tensorboard",), commas=True)
    """Trackers to report to, by their names in transformers, or none"""
    disable_tqdm: bool = False
    """Show no progress bar"""


@dataclass(frozen=True)
class TrainFlags:
    """Training"""

    sft_type: SftType = flag("lora", alias=("tuner_type", "train_type"), values={"bone": "miss"})
    """Fine-tuning method; `swift tuners` describes each"""
    batch_size: int = flag(1, alias=("per_device_train_batch_size",))
    """Rows per device and micro-batch"""
    gradient_accumulation_steps: int | None = None
    """Micro-batches per step; none makes steps of 16 rows over all devices, or fewer if that leaves under 200 steps"""
    num_train_epochs: float | None = None
    """Passes over the data; none means 1, or enough for about 200 steps, at most 30, with preferences at most 3"""
    max_steps: int = -1
    """Number of steps; -1 follows --num_train_epochs"""
    dry_run: bool = False
    """Show the data mixture and the first row with its weights, measure memory and speed in a few steps on the longest
    rows, estimate the time of the run, and stop; nothing is written"""
    max_minutes: float | None = None
    """Save and stop after this many minutes; none trains to the end"""
    neftune_noise_alpha: float | None = flag(None, alias=("neftune_alpha",))
    """Strength of the noise added to embeddings (NEFTune); none adds none"""
    seed: int = 42
    """Seed of initial weights, row order and dropout"""
    optimizer: OptimizerFlags = OptimizerFlags()
    kernels: KernelFlags = KernelFlags()
    evaluation: EvaluationFlags = EvaluationFlags()
    saving: SavingFlags = SavingFlags()
    logging: LoggingFlags = LoggingFlags()


@dataclass(frozen=True)
class ParallelFlags:
    """Multiple devices"""

    fsdp: str = ""
    """Shard the model over processes with FSDP2: 'full_shard auto_wrap', shard_grad_op, offload; none uses DDP"""
    fsdp_config: str | None = None
    """FSDP2 settings, a JSON file or JSON: auto_wrap_policy, min_num_params, transformer_layer_cls_to_wrap ..."""
    deepspeed: str | None = flag(None, alias=("deepspeed_config_path",))
    """Train with DeepSpeed: default-zero2, default-zero3, zero2_offload, zero3_offload, a JSON file or JSON"""
    device_map: str | None = flag(None, alias=("device_map_config_path", "device_map_config"))
    """Spread one process over several devices: auto, balanced, sequential, a JSON file or {"lm_head": 0, ...}"""
    ddp_backend: Literal["nccl", "gloo", "mpi", "ccl"] | None = None
    """Communication backend; none means nccl on GPUs and gloo on CPUs"""
    ddp_find_unused_parameters: bool | None = None
    """Look for parameters without gradients at every step; none means false"""
