"""Puts a model on the CPU fast path of LoRA or full fine-tuning, if flags, model and machine allow it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from swift.assembly.training_config import TrainingConfig
from swift.system.cache import cache_root

WORTH_COMPILING = 2e12
"""Tokens x parameters of a run above which compiled kernels pay for the seconds of loading them."""
FAST = ("lora", "full")
"""Values of --sft_type with a fast path."""


def why_spread(cfg: TrainingConfig, spread: bool, world: int) -> str:
    """Why the run cannot take the fast path, by how it is spread over devices and processes; empty if it can."""
    from swift.tuner.registry import TUNERS

    if spread:
        return "its weights are spread"
    return "several processes train all weights" if TUNERS[cfg.train.sft_type].full_model and world > 1 else ""


def apply(
    model: Any,
    cfg: TrainingConfig,
    path: Path,
    say: Callable[[str], None],
    spread: str,
    tokens: float,
    before: str = "",
) -> bool:
    """Puts the model on the CPU fast path if flags and model allow it. Returns whether it did.

    `spread`: the reason against it in how the run is spread over devices, if any. `tokens`: about how many the run
    trains on. `before`: the kernels of the run that this one resumes, if any.
    """
    from swift.tuner.cpu import compiled, fused

    compiled.stop()
    train = cfg.train
    if train.kernels.tuner_backend != "swift" or train.sft_type not in FAST or train.kernels.torch_compile:
        return False
    reason = spread or fused.why_not(model)
    if train.neftune_noise_alpha and not reason:
        reason = "NEFTune's noise depends on the length of each row"
    if cfg.tuner.galore.galore_optim_per_parameter and cfg.tuner.galore.use_galore and not reason:
        reason = "GaLore updates each parameter as soon as its gradient is ready"
    full = train.sft_type == "full"
    if reason:
        layers = "transformers' own layers train the model" if full else "PEFT's own layers compute LoRA"
        say(f"{layers}: no fast path for this run, {reason}")
        return False
    reason = _fuse_full(model, cfg, path, say) if full else _fuse_adapters(model, before, say)
    if reason and tokens * model.num_parameters() >= WORTH_COMPILING:
        say("compiling the fast path's kernels (20 s, once per machine)")
        if reason := compiled.start(cache_root() / "kernels"):
            say(f"the fast path's kernels are not compiled, so steps are slower: {reason}")
    return True


def _fuse_adapters(model: Any, before: str, say: Callable[[str], None]) -> str:
    """Returns why blocks are not computed in C++; empty if they are."""
    import torch

    from swift.native.processor import TORCH
    from swift.tuner.cpu import fused, kernels

    chosen = kernels.selection(model.config, model.dtype)
    taken = chosen.kernels
    if before and before != taken:
        why = kernels.why_not_again(before, model.dtype)
        taken = taken if why else before
        if why:
            change = f"resume: {before} kernels trained the checkpoint and {taken} kernels continue"
            say(f"{change}, so sums differ in their last digits: {why}")
    reason = fused.fuse(model, taken)
    measured = taken == TORCH and (chosen.seconds or before == TORCH)
    if reason and model.dtype == torch.bfloat16 and not measured:
        reason = chosen.how if chosen.kernels == TORCH else reason
        say(f"blocks are computed by torch instead of C++, so steps are slower: {reason}")
    return reason


def _fuse_full(model: Any, cfg: TrainingConfig, path: Path, say: Callable[[str], None]) -> str:
    """The same for full fine-tuning, with master weights in fp32."""
    import torch

    from swift.model.devices import pick_dtype
    from swift.tuner.cpu import fused

    in_bf16 = pick_dtype(cfg.model.dtype, torch.device("cpu"), path) == "bf16"
    dtype = torch.bfloat16 if in_bf16 else torch.float32
    reason = fused.fuse(model.float(), dtype=dtype)
    numbers = "products in bf16, master weights and accumulation in fp32" if in_bf16 else "everything in fp32"
    say(f"the fast path trains the model without padding: {numbers}")
    return reason
