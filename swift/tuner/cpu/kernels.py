"""Selects the kernels that train LoRA on this machine, by timing one block of the model. Knows no data."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from swift.native import fingerprint, processor, shapes
from swift.native.selection import Selection, Works, candidates, select, unmeasured
from swift.tuner.cpu import block, fused

ROW, MOST = 128, 8
"""Tokens of a timed row, and the most rows."""
PRODUCTS = 10e9
"""Tokens x weights of a timing, about a tenth of a second on an old processor."""


def selection(config: Any, dtype: torch.dtype, again: bool = False) -> Selection:
    """The fastest kernels for LoRA on all linear layers of a model on the fast path, by its configuration.

    Raises ValueError where SWIFT_KERNELS is wrong.
    """
    if not processor.forced() and (reason := block.why_not(dtype)):
        return Selection(processor.TORCH, reason, {})
    weights = shapes.layer_weights(config)
    if known := unmeasured(weights * config.num_hidden_layers):
        return known
    count, few = rows(weights), shapes.shortened(config, 1)
    about = {"lora": str(dtype), "model": shapes.shape_fields(few), "rows": count, "threads": torch.get_num_threads()}
    torch_too = dtype is torch.float32 or "avx512_bf16" in processor.sets()
    return select(
        {**about, **fingerprint(block.SOURCE)}, candidates(torch_too), partial(works, few, dtype, count), again
    )


def why_not_again(kernels: str, dtype: torch.dtype) -> str:
    """Why the kernels that trained a checkpoint cannot resume here; empty if they can."""
    if (forced := processor.forced()) and forced != kernels:
        return f"{processor.VARIABLE} says so"
    if kernels not in (*processor.sets(), processor.TORCH):
        return "this processor cannot run them"
    return "" if kernels == processor.TORCH else block.why_not(dtype, kernels)


def rows(weights: int) -> int:
    """How many rows are timed for a block with this many weights."""
    return int(min(max(PRODUCTS / weights / ROW, 1), MOST))


def works(config: Any, dtype: torch.dtype, rows: int, kernels: str) -> Works:
    """The work that is timed: rows through one block, forward and backward."""
    with torch.random.fork_rng(devices=[]):  # drawing weights moves no seed of the caller's
        base = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))
    reason = fused.fuse(model, kernels)
    if reason and kernels != processor.TORCH:
        raise RuntimeError(reason)
    tokens = rows * ROW
    inputs = {
        "input_ids": torch.ones(1, tokens, dtype=torch.long),
        "position_ids": torch.arange(ROW).repeat(rows)[None],
        "rows": torch.tensor([ROW] * rows),
        "wanted": torch.arange(tokens),
        "attention_mask": torch.empty(1, 1, 0, 0),  # none is made; the blocks know the rows' ends
    }
    trained = [each for each in model.parameters() if each.requires_grad]
    decoder = base.get_decoder()

    def step() -> None:
        hidden = decoder(**inputs, use_cache=False).last_hidden_state
        torch.autograd.grad(hidden.sum(), trained)

    return {f"{tokens} tokens forwards and backwards": step}
