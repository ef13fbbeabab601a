"""Training steps of LoRA with the common beginnings of rows computed once, against the same steps row by row.

    swift data synth --tools benchmarks/agent_sets/house/tools.py --own_share 1 -n 64 --out rows.jsonl
    python benchmarks/shared_prefixes.py rows.jsonl --steps 4

Both take turns in one process, with the same rows. Prints the tokens, the median seconds of a step, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from swift.data.rows import conversation
from swift.model.load import load_model, load_tokenizer
from swift.model.location import locate
from swift.template import Renderer
from swift.train.batch import Batch, pack
from swift.train.loss import output_head, score
from swift.train.micro_batches import ParallelMicroBatches, Sums
from swift.train.splitting import split_for_workers
from swift.tuner.cpu import fused


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("rows", type=Path)
    asked.add_argument("--model", default="smollm2-135m-instruct")
    asked.add_argument("--format", default="hermes")
    asked.add_argument("--max_length", type=int, default=2048)
    asked.add_argument("--rows_per_step", type=int, default=8)
    asked.add_argument("--batch_size", type=int, default=2)
    asked.add_argument("--steps", type=int, default=4)
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()

    renderer = Renderer(load_tokenizer(locate(given.model)), None, format_name=given.format)
    rows = [conversation(json.loads(line)) for line in given.rows.read_text(encoding="utf-8").splitlines()]
    samples = [each for row in rows for each in renderer.samples(row) if len(each.tokens) <= given.max_length]
    random.Random(0).shuffle(samples)
    size = given.rows_per_step
    steps = [pack(samples[at * size : (at + 1) * size]) for at in range(given.steps)]
    model = load_model(locate(given.model))
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))
    fused.fuse(model)
    print(f"kernels: {fused.kernels(model)}, {torch.get_num_threads()} threads")

    times: dict[bool, list[float]] = {True: [], False: []}
    tokens = {share: sum(_tokens(step, given.batch_size, share) for step in steps) for share in times}
    for turn in range(given.rounds + 1):  # the first one warms up
        for step in steps:
            for share, found in times.items():
                began = time.perf_counter()
                _step(model, step, given.batch_size, share)
                if turn:
                    found.append(time.perf_counter() - began)
    apart, together = (statistics.median(times[share]) for share in (False, True))
    print(f"tokens: {tokens[False]:,} row by row, {tokens[True]:,} shared, {tokens[False] / tokens[True]:.2f} x")
    print(f"a step of {size} rows: {apart:.2f} s row by row, {together:.2f} s shared, {apart / together:.2f} x")


def _tokens(step: Batch, batch_size: int, share: bool) -> int:
    serial, parallel = split_for_workers(step, batch_size, int, torch.get_num_threads(), share)
    return sum(each["input_ids"].numel() for part in (serial, *parallel) for each in part)


def _step(model: torch.nn.Module, step: Batch, batch_size: int, share: bool) -> None:
    trained = [each for each in model.parameters() if each.requires_grad]
    head = output_head(model)
    serial, parallel = split_for_workers(step, batch_size, int, torch.get_num_threads(), share)

    def loss(batch: Batch, sums: Sums) -> torch.Tensor:
        return score(model, head, {**batch, "sums": sums}).loss

    workers = ParallelMicroBatches()
    workers.add_gradients(
        [partial(loss, each) for each in serial], [[partial(loss, each) for each in part] for part in parallel], trained
    )
    workers.close()
    for each in trained:
        each.grad = None


if __name__ == "__main__":
    main()
