"""One DPO job with SWIFT and TRL on this machine: tokens/s, memory, time to the first step.

    python benchmarks/preference_speed.py --cache ~/.cache/swift-benchmarks --pairs 16

SmolLM2-135M, LoRA on all linear layers, rank 8, alpha 32, no dropout. The prompts are agent conversations without their
last reply, which is the chosen completion; the rejected one is the last reply of another conversation. Batches of two
pairs, eight pairs a step, one epoch. A pair counts the tokens of both of its dialogues. Runs alternate, the table has
medians; how a run is measured is in train_speed.py. The seconds of SWIFT include its pass over the rows that computes
the reference's log-likelihoods; TRL computes them in each step.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import environments
import machine
import rows
import shapes
import torch
import train_speed
from train_speed import STEP, SWIFT, Run

BATCH = 2
LENGTH = 1024
TRL_JOB = """
import json, sys, torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
job = json.loads(sys.argv[1])
bf16 = job["dtype"] == "bf16"
lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
trainer = DPOTrainer(
    AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16 if bf16 else torch.float32),
    args=DPOConfig(
        job["out"], max_length=job["length"], per_device_train_batch_size=job["batch"],
        gradient_accumulation_steps=job["accumulation"], num_train_epochs=1, learning_rate=5e-5, beta=0.1,
        logging_steps=1, save_strategy="no", report_to="none", bf16=bf16, use_cpu=True,
        gradient_checkpointing=False, disable_tqdm=True,
    ),
    train_dataset=load_dataset("json", data_files=job["rows"], split="train"),
    processing_class=AutoTokenizer.from_pretrained(job["model"]),
    peft_config=lora,
)
trainer.train()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_flags(parser)
    parser.add_argument("--pairs", type=int, default=32, help="pairs; a step has 8")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each program")
    parser.add_argument("--dtypes", nargs="+", default=["bf16"], choices=["bf16", "fp32"])
    args = parser.parse_args()
    machine.check(parser, args.kernels)
    cache = args.cache.expanduser()
    os.environ |= machine.restricted_to(args.kernels)
    python, model = environments.python("trl", cache), shapes.folder(shapes.BUNDLED, cache)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file, tokens = write_pairs(folder, args.pairs)
        versions = {**machine.versions("torch", "transformers", "peft"), "TRL": environments.version("trl", cache)}
        print(machine.headline(args.kernels, torch.get_num_threads(), versions))
        print(f"{shapes.title(shapes.BUNDLED)}, DPO with LoRA; {args.pairs} pairs, {tokens:,} tokens; ", end="")
        print(f"{args.repeats} run(s) each, medians")
        for dtype in args.dtypes:
            options = {"model": str(model), "rows": str(file), "dtype": dtype, "batch": BATCH, "length": LENGTH}
            runs: dict[str, list[Run]] = {SWIFT: [], "TRL": []}
            for number in range(args.repeats):
                out = folder / f"swift-{dtype}-{number}"
                runs[SWIFT].append(
                    with_reference(train_speed.measure(swift(model, file, dtype, out), out, tokens), out, tokens)
                )
                out = folder / f"trl-{dtype}-{number}"
                job = json.dumps({**options, "accumulation": STEP // BATCH, "out": str(out)})
                runs["TRL"].append(train_speed.measure([str(python), "-c", TRL_JOB, job], out, tokens))
            print_table(
                dtype, {name: Run(*map(statistics.median, zip(*each, strict=True))) for name, each in runs.items()}
            )


def write_pairs(folder: Path, count: int) -> tuple[Path, int]:
    """Writes the pairs as lists of messages; returns the file and its number of tokens in ChatML."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shapes.folder(shapes.BUNDLED, folder))
    dialogues = list(rows.short(count + 1))
    path, total = folder / "pairs.jsonl", 0
    with path.open("w", encoding="utf-8") as file:
        for one, other in pairwise(dialogues):
            sides = {"chosen": one[-1:], "rejected": other[-1:]}
            for side in sides.values():
                text = "".join(
                    f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in [*one[:-1], *side]
                )
                total += len(tokenizer(text)["input_ids"])
            file.write(json.dumps({"prompt": one[:-1], **sides}, ensure_ascii=False) + "\n")
    return path, total


def swift(model: Path, file: Path, dtype: str, out: Path) -> list[str]:
    words = f"""--model_id_or_path {model} --dataset {file} --output_dir {out} --dtype {dtype} --template_type chatml
        --lora_target_modules ALL --lora_rank 8 --lora_alpha 32 --batch_size {BATCH} --max_length {LENGTH}
        --gradient_accumulation_steps {STEP // BATCH} --num_train_epochs 1 --learning_rate 5e-5 --logging_steps 1
        --save_strategy no --eval_strategy no --dataset_test_ratio 0 --device cpu --report_to none"""
    return [sys.executable, "-m", "swift.cli", "rlhf", "--rlhf_type", "dpo", *words.split()]


def with_reference(run: Run, out: Path, tokens: int) -> Run:
    """The run with the seconds of the pass that computes the reference's log-likelihoods."""
    said = re.search(r"reference: .* in ([\d.]+) s", out.with_suffix(".txt").read_text(encoding="utf-8"))
    assert said, out
    return run._replace(tokens_per_second=tokens / (tokens / run.tokens_per_second + float(said[1])))


def print_table(dtype: str, medians: dict[str, Run]) -> None:
    print(f"\n{dtype}:\n| | tokens/s | SWIFT is | peak GiB | first step after |\n|---|---:|---:|---:|---:|")
    for name, run in medians.items():
        ratio = medians[SWIFT].tokens_per_second / run.tokens_per_second
        cells = [f"{run.tokens_per_second:,.0f}", f"{ratio:.1f} x", f"{run.peak_gib:.2f}", f"{run.first_step_s:.1f} s"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
