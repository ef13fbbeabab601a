"""All ways in which this machine can compute a model: each instruction set of the C++ code, and torch's operations.

    python benchmarks/paths.py --shape 135m

Times a few layers of the shape with 1, 8 and 32 streams and a prompt, in bf16, 8 and 4 bits, and LoRA on one block in
bf16 and fp32. `swift doctor` times the same for two sets. Candidates take turns, and the fastest of several runs
counts. The share of the peak counts the products with weights alone; the peak is what registers allow in the same run
(peak.cpp), for bf16 where the set multiplies it, else for fp32.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import machine
import shapes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoConfig

from swift import native
from swift.engine.cpu import kernels as serving
from swift.native import processor
from swift.native import shapes as sizes
from swift.native.selection import measured
from swift.tuner.cpu import kernels as training

BITS = {"bf16": 0, "8 bits": 8, "4 bits": 4}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/swift-benchmarks"), help="models")
    parser.add_argument("--shape", choices=shapes.CHOICES, default=shapes.BUNDLED)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each table, about")
    parser.add_argument("--threads", type=int, default=machine.default_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = AutoConfig.from_pretrained(shapes.folder(options.shape, options.cache.expanduser()))
    print(machine.headline(None, options.threads, machine.versions("torch", "transformers")))
    print(f"\n{shapes.title(options.shape)}")
    kinds = (*processor.sets(), processor.TORCH)
    peaks = {kernels: peak(kernels, options.threads) for kernels in processor.sets()}
    print(
        "peak, GFLOP/s: " + ", ".join(f"{name} {bf16:,.0f} (fp32 {fp32:,.0f})" for name, (bf16, fp32) in peaks.items())
    )
    layer = sizes.layer_weights(config)
    few = sizes.shortened(config, min(-(-serving.ENOUGH // layer), config.num_hidden_layers))
    weights = layer * few.num_hidden_layers
    base = cache(partial(serving.made, few))
    for name, bits in BITS.items():
        found = measured(kinds, partial(serving.works, base, bits), options.seconds)
        operations = {
            work: 2 * tokens * weights for work, tokens in zip(next(iter(found.values())), serving.TOKENS, strict=True)
        }
        table(
            f"serving, {name}, {few.num_hidden_layers} layers", found, operations, {k: p[0] for k, p in peaks.items()}
        )
    rows = training.rows(layer)
    for name, dtype in DTYPES.items():
        found = measured(kinds, partial(training.works, sizes.shortened(config, 1), dtype, rows), options.seconds)
        operations = dict.fromkeys(next(iter(found.values())), 4 * rows * training.ROW * layer)
        table(f"LoRA, {name}, a block", found, operations, {k: p[name == "fp32"] for k, p in peaks.items()})


def peak(kernels: str, threads: int) -> tuple[float, float]:
    """Billions of operations a second, of bf16 (fp32 where the set multiplies no bf16) and of fp32."""
    library = native.load(Path(__file__).with_name("peak.cpp"), kernels)
    found = []
    for function in (library.peak_bf16, library.peak_fp32):
        function.argtypes, function.restype = [ctypes.c_int64], ctypes.c_double
        found.append(function(threads) / 1e9)
    return found[0], found[1]


def table(
    title: str,
    seconds: Mapping[str, Mapping[str, float]],
    operations: Mapping[str, float],
    peaks: Mapping[str, float],
) -> None:
    """Milliseconds, the ratio to the fastest, and the share of the peak."""
    works = list(operations)
    print(f"\n| {title} | " + " | ".join(works) + " |\n|---|" + "---:|" * len(works))
    best = {work: min(each[work] for each in seconds.values()) for work in works}
    for kernels, took in seconds.items():
        cells = [cell(took[work], best[work], operations[work], peaks.get(kernels)) for work in works]
        print(f"| {kernels} | {' | '.join(cells)} |", flush=True)


def cell(took: float, best: float, operations: float, peak: float | None) -> str:
    share = f", {operations / took / 1e9 / peak:.0%}" if peak else ""
    return f"{took * 1000:.1f} ({took / best:.2f} x{share})"


if __name__ == "__main__":
    main()
