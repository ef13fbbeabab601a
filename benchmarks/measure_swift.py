"""Measures SWIFT alone: the floor of bare products, an agent's third turn, memory over many requests."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import torch
from engines import ROOT, VOCABULARY, Tokens
from measure_engine import Job, report

sys.path.insert(0, str(ROOT))
from swift.engine.cpu.products import product
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.model.load import load_model

RESULT = 100
"""Tokens of a tool result."""


def measure(job: Job) -> None:
    torch.set_num_threads(job.threads)
    model = load_model(Path(job.model), "bf16", "cpu")
    _floor(job, model)
    engine = TorchEngine(model, (), max_batch=max(job.streams))
    _third_turn(job, engine)
    _memory(job, engine)
    engine.close()


def _floor(job: Job, model: torch.nn.Module) -> None:
    """Tokens/s of the products with the weights alone."""
    with torch.inference_mode():
        weights = [part.weight for part in model.modules() if isinstance(part, torch.nn.Linear)]
        for kind, bits in (("bf16", 0), ("int8", 8), ("int4", 4)):
            made = [(product(weight, None, bits), weight.shape[1]) for weight in weights]
            for rows in job.streams:
                inputs = {width: torch.randn(rows, width, dtype=torch.bfloat16) for _, width in made}
                times = []
                for _ in range(7):
                    began = job.seconds()
                    for multiply, width in made:
                        multiply(inputs[width])
                    times.append(job.seconds() - began)
                report(f"floor {kind} {rows}", rows / min(times))


def _third_turn(job: Job, engine: TorchEngine) -> None:
    """Seconds to the first token of an agent's third turn, and of a prompt of equal length without cached prefix."""
    rng = random.Random(0)

    def first_token(prompt: Tokens) -> tuple[float, Tokens]:
        began = job.seconds()
        steps = engine.submit(prompt, SamplingParams(max_tokens=32, temperature=0))
        first = next(steps)
        return job.seconds() - began, [first.token, *(step.token for step in steps)]

    dialogue = rng.choices(VOCABULARY, k=600)  # the tools' descriptions and a question
    for turn in (1, 2, 3):
        seconds, reply = first_token(dialogue)
        if turn == 3:
            report("third turn", seconds)
        dialogue += [*reply, *rng.choices(VOCABULARY, k=RESULT)]
    report("third turn, cold", first_token(rng.choices(VOCABULARY, k=600 + 2 * (32 + RESULT)))[0])


def _memory(job: Job, engine: TorchEngine) -> None:
    """MiB of resident memory after more and more requests."""
    rng = random.Random(0)
    params = SamplingParams(max_tokens=4, temperature=0)
    for done in range(0, job.requests, 100):
        for steps in [engine.submit(rng.choices(VOCABULARY, k=12), params) for _ in range(100)]:
            list(steps)
        if done + 100 in (job.requests // 10, job.requests // 2, job.requests):
            report(f"MiB after {done + 100} requests", _resident())


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
