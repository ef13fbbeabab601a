"""Which kernels serve a model on this machine: measured with a few of its layers. Knows no queue and no sampling."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from swift.engine.cpu.native_runner import SOURCE, NativeRunner
from swift.engine.cpu.torch_runner import TorchRunner
from swift.engine.runner import Chunk, Runner
from swift.native import fingerprint, processor, shapes
from swift.native.selection import Selection, Works, candidates, select, unmeasured

ENOUGH = 32_000_000
"""Weights of the layers that are measured: more than the caches hold."""
STREAMS = (1, 8, 32)
CONTEXT, PROMPT = 255, 256
"""Tokens before a decoded one, and tokens of a prompt."""
TOKENS = (*STREAMS, PROMPT)
"""Tokens computed by each kind of work, in order."""


def selection(config: Any, bits: int = 0, again: bool = False) -> Selection:
    """The fastest kernels for a model that NativeRunner can compute. `bits`: of its weights; `again`: measure anew.

    Raises ValueError for a wrong value of SWIFT_KERNELS.
    """
    layer = shapes.layer_weights(config)
    if known := unmeasured(layer * config.num_hidden_layers):
        return known
    few = shapes.shortened(config, min(-(-ENOUGH // layer), config.num_hidden_layers))
    about = {"bits": bits, "model": shapes.shape_fields(few), "threads": torch.get_num_threads(), **fingerprint(SOURCE)}
    torch_too = "avx512_bf16" in processor.sets()  # elsewhere torch is many times slower in bf16
    return select(about, candidates(torch_too), partial(works, cache(partial(made, few)), bits), again)


def made(config: Any) -> Any:
    """A model with random weights."""
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random state alone
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def works(model: Callable[[], Any], bits: int, kernels: str) -> Works:
    """What is measured: decode steps of several numbers of streams, and a prompt."""
    torchs = kernels == processor.TORCH
    runner: Runner = TorchRunner(model(), bits) if torchs else NativeRunner(model(), bits, kernels=kernels)
    states = [runner.open() for _ in range(max(STREAMS))]
    runner.step([Chunk(state, [1], needs_logits=False) for state in states])  # allocates all slots

    def step(count: int, context: int, tokens: int) -> None:
        for state in states:
            state.length = context
        runner.step([Chunk(state, [1] * tokens) for state in states[:count]])

    streams = {f"{count} stream{'s' if count > 1 else ''}": partial(step, count, CONTEXT, 1) for count in STREAMS}
    return {**streams, f"prompt of {PROMPT}": partial(step, 1, 0, PROMPT)}
