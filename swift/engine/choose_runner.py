"""The fastest runner that can compute a model on this machine. Knows no queue."""

from __future__ import annotations

from typing import Any, NamedTuple

from swift.engine import decoder
from swift.engine.cpu import kernels, native_runner, products
from swift.engine.cpu.native_runner import NativeRunner
from swift.engine.cpu.torch_runner import TorchRunner
from swift.engine.runner import Runner
from swift.engine.transformers_runner import TransformersRunner
from swift.native import processor


class Chosen(NamedTuple):
    """`missing`: what this machine lacks for a faster runner; empty if the machine is not the reason."""

    runner: Runner
    missing: str = ""


def choose_runner(model: Any, bits: int, keep_weights: bool, fast: bool, memory: int) -> Chosen:
    """NativeRunner before TorchRunner before TransformersRunner.

    `bits`, `keep_weights`, `memory`: as these take them. `fast` False: TransformersRunner.
    Raises ValueError where weights of `bits` bits are not available.
    """
    reason = decoder.why_not(model) if fast else "its own layers were chosen"
    if bits and (reason := reason or products.why_not(bits, model.device)):
        raise ValueError(f"the model cannot be served with weights of {bits} bits: {reason}")
    if reason:
        return Chosen(TransformersRunner(model))
    if native_runner.why_not(model):
        return Chosen(TorchRunner(model, bits, keep_weights, memory))
    if missing := native_runner.missing():
        return Chosen(TorchRunner(model, bits, keep_weights, memory), missing)
    fastest = kernels.selection(model.config, bits).kernels
    if fastest == processor.TORCH:
        return Chosen(TorchRunner(model, bits, keep_weights, memory))
    return Chosen(NativeRunner(model, bits, keep_weights, memory, fastest))


def computes_long_chunks_fast(runner: Runner, model: Any, bits: int) -> bool:
    """Whether matrix units make a token of a prompt several times cheaper than a decoded one."""
    return products.has_tiles(model.device, model.dtype) and (bits != 4 or isinstance(runner, NativeRunner))
