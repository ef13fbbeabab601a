"""Training steps of LoRA in two ways that take turns in one process, on the same rows.

    swift data synth --tools benchmarks/agent_sets/house/tools.py --own_share 1 -n 64 --out rows.jsonl
    python benchmarks/step_ways.py rows.jsonl --steps 4

    swift data synth -n 400 --out long.jsonl
    python benchmarks/step_ways.py long.jsonl --ways side_by_side --min_length 1024 --max_length 1536 --rows_per_step 4

`shared`: the common beginnings of rows computed once, against row by row. `side_by_side`: rows that are longer than a
full batch two at a time, a thread each, against one after the other on all threads. Prints the tokens that are
computed, the median seconds of a step, and the ratio.
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
from swift.train import splitting
from swift.train.batch import Batch, pack
from swift.train.loss import output_head, score
from swift.train.micro_batches import ParallelMicroBatches, Sums
from swift.tuner.cpu import fused

WAYS = {"shared": ("row by row", "shared"), "side_by_side": ("one after the other", "side by side")}
Split = tuple[list[Batch], list[list[Batch]]]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("rows", type=Path)
    asked.add_argument("--ways", choices=WAYS, default="shared")
    asked.add_argument("--model", default="smollm2-135m-instruct")
    asked.add_argument("--format", default="hermes")
    asked.add_argument("--dtype", default="AUTO")
    asked.add_argument("--min_length", type=int, default=1)
    asked.add_argument("--max_length", type=int, default=2048)
    asked.add_argument("--rows_per_step", type=int, default=8)
    asked.add_argument("--batch_size", type=int, default=None, help="default: 2, side by side 1")
    asked.add_argument("--steps", type=int, default=4)
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()

    renderer = Renderer(load_tokenizer(locate(given.model)), None, format_name=given.format)
    rows = [conversation(json.loads(line)) for line in given.rows.read_text(encoding="utf-8").splitlines()]
    samples = [each for row in rows for each in renderer.samples(row)]
    samples = [each for each in samples if given.min_length <= len(each.tokens) <= given.max_length]
    random.Random(0).shuffle(samples)
    size = given.rows_per_step
    steps = [pack(samples[at * size : (at + 1) * size]) for at in range(given.steps)]
    model = load_model(locate(given.model), dtype=given.dtype)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))
    fused.fuse(model)
    print(f"kernels: {fused.kernels(model)}, {torch.get_num_threads()} threads")

    times: dict[str, list[float]] = {way: [] for way in WAYS[given.ways]}
    tokens = dict.fromkeys(times, 0)
    for turn in range(given.rounds + 1):  # the first one warms up
        for step in steps:
            for way, found in times.items():
                began = time.perf_counter()
                split = _split(step, given.batch_size, way)
                _step(model, split)
                if turn:
                    found.append(time.perf_counter() - began)
                else:
                    tokens[way] += sum(each["input_ids"].numel() for part in (split[0], *split[1]) for each in part)
    before, after = (statistics.median(each) for each in times.values())
    one, other = times
    print(f"tokens: {tokens[one]:,} {one}, {tokens[other]:,} {other}, {tokens[one] / tokens[other]:.2f} x")
    print(f"a step of {size} rows: {before:.2f} s {one}, {after:.2f} s {other}, {before / after:.2f} x")


def _split(step: Batch, batch_size: int | None, way: str) -> Split:
    side = way in WAYS["side_by_side"]
    splitting.LONG_ROWS = 1 if way == "one after the other" else 2
    largest = batch_size or (1 if side else 2)
    return splitting.split_for_workers(step, largest, int, torch.get_num_threads(), way == "shared")


def _step(model: torch.nn.Module, split: Split) -> None:
    trained = [each for each in model.parameters() if each.requires_grad]
    head = output_head(model)
    serial, parallel = split

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
