"""One training job with SWIFT and its peers on this machine: tokens/s, memory, time to the first step.

    python benchmarks/train_speed.py --cache ~/.cache/swift-benchmarks --shape 135m

The model is SmolLM2-135M, or the published shape of a larger model with random weights (shapes.py). LoRA on all linear
layers, rank 8, alpha 32, dropout 0.05, or all parameters with --full. Eight conversations a step, one epoch of
synthetic agent conversations: short ones in batches of two, or with `--rows-shape agent` ones of 1,500 to 4,000 tokens,
which share the system prompt with its tools, one at a time. Each peer has a virtual environment below --cache, created
on the first run. Runs alternate; the table has medians. All runs are measured in the same way, from outside: seconds of
training as transformers' Trainer reports them (`train_runtime`), memory from the kernel, the first step when its loss
is logged. The GEMM floor is the time of the products with the blocks' weights alone, forward and backward.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import environments
import machine
import processes
import rows
import shapes
import torch

ROOT = Path(__file__).resolve().parent.parent
PEERS = {"TRL": "trl", "ms-swift": "ms-swift"}
"""Name -> its environment."""
SWIFT = "swift"
STEP = 8
"""Conversations per optimizer step."""
RATE = {False: 1e-4, True: 1e-5}
"""Learning rate without and with --full."""

TRL_JOB = """
import json, sys, torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
job = json.loads(sys.argv[1])
bf16 = job["dtype"] == "bf16"
lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear")
trainer = SFTTrainer(
    AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16 if bf16 else torch.float32),
    args=SFTConfig(
        job["out"], max_length=job["length"], per_device_train_batch_size=job["batch"],
        gradient_accumulation_steps=job["accumulation"], num_train_epochs=1, learning_rate=job["rate"],
        logging_steps=1, save_strategy="no", report_to="none", bf16=bf16, use_cpu=True,
        gradient_checkpointing=False, disable_tqdm=True,
    ),
    train_dataset=load_dataset("json", data_files=job["rows"], split="train"),
    processing_class=AutoTokenizer.from_pretrained(job["model"]),
    peft_config=None if job["full"] else lora,
)
trainer.train()
"""


class Job(NamedTuple):
    """The job of every program. `length`: maximum tokens of a row."""

    model: Path
    rows: Path
    dtype: str
    full: bool
    batch: int
    length: int

    @property
    def accumulation(self) -> int:
        return STEP // self.batch


Command = Callable[[Job, Path], list[str]]
"""(job, output folder) -> command line."""


class Run(NamedTuple):
    tokens_per_second: float
    peak_gib: float
    first_step_s: float


def main() -> None:
    args = parse()
    args.cache.mkdir(parents=True, exist_ok=True)
    os.environ |= machine.restricted_to(args.kernels)
    commands: dict[str, Command] = {SWIFT: swift}
    failed: dict[str, str] = {}
    for name in args.peers:
        try:
            commands[name] = {"TRL": trl, "ms-swift": ms_swift}[name](environments.python(PEERS[name], args.cache))
        except subprocess.CalledProcessError as error:
            failed[name] = f"not installed: {error}"
    model = shapes.folder(args.shape, args.cache)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file, tokens = write_rows(folder, args.rows_shape, args.rows)
        versions = {**machine.versions("torch", "transformers", "peft")}
        versions |= {name: environments.version(PEERS[name], args.cache) for name in args.peers if name in commands}
        print(machine.headline(args.kernels, torch.get_num_threads(), versions))
        what = "all parameters" if args.full else "LoRA"
        print(f"{shapes.title(args.shape)}, {what}; {args.rows} {args.rows_shape} rows, {tokens:,} tokens; ", end="")
        print(f"{args.repeats} run(s) each, medians")
        for dtype in args.dtypes:
            batch, length = (1, rows.ROW_TOKENS[1] + 96) if args.rows_shape == "agent" else (2, 1024)
            job = Job(model, file, dtype, args.full, batch, length)
            runs_of: dict[str, list[Run]] = {name: [] for name in commands}
            for number in range(args.repeats):
                for name, command in commands.items():
                    if name in failed:
                        continue
                    out = folder / f"{name}-{dtype}-{number}"
                    try:
                        runs_of[name].append(measure([*args.before.split(), *command(job, out)], out, tokens))
                    except RuntimeError as error:
                        failed[name] = str(error)
            print_table(dtype, gemm_floor(model, dtype, args.full), runs_of, failed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_flags(parser)
    parser.add_argument("--shape", choices=shapes.CHOICES, default=shapes.BUNDLED)
    parser.add_argument("--full", action="store_true", help="train all parameters instead of LoRA")
    parser.add_argument("--rows", type=int, default=64, help="conversations; a step has 8")
    parser.add_argument("--rows-shape", choices=("short", "agent"), default="short")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each program")
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--before", default="", help="command prefix of each run, e.g. 'taskset -c 0,1'")
    args = parser.parse_args()
    machine.check(parser, args.kernels)
    args.cache = args.cache.expanduser()
    return args


def write_rows(folder: Path, shape: str, count: int) -> tuple[Path, int]:
    """Writes the rows as messages, which all programs read; returns the file and its number of tokens in ChatML."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shapes.folder(shapes.BUNDLED, folder))

    def tokens(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    path, total = folder / "rows.jsonl", 0
    with path.open("w", encoding="utf-8") as file:
        for messages in rows.agent(count, tokens) if shape == "agent" else rows.short(count):
            total += tokens("".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages))
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path, total


# --- command lines -------------------------------------------------------------------------------------------------


def swift(job: Job, out: Path) -> list[str]:
    kind = "--sft_type full" if job.full else "--lora_target_modules ALL --lora_rank 8 --lora_alpha 32"
    flags = f"""--model_id_or_path {job.model} --dataset {job.rows} --output_dir {out} --dtype {job.dtype} {kind}
        --template_type chatml --batch_size {job.batch} --gradient_accumulation_steps {job.accumulation}
        --max_length {job.length} --num_train_epochs 1 --learning_rate {RATE[job.full]} --logging_steps 1
        --save_strategy no --eval_strategy no --dataset_test_ratio 0 --device cpu --report_to none"""
    dropout = [] if job.full else ["--lora_dropout_p", "0.05"]
    return [sys.executable, "-m", "swift.cli", "sft", *flags.split(), *dropout]


def trl(python: Path) -> Command:
    def command(job: Job, out: Path) -> list[str]:
        options = {**job._asdict(), "accumulation": job.accumulation, "out": out, "rate": RATE[job.full]}
        return [str(python), "-c", TRL_JOB, json.dumps(options, default=str)]

    return command


def ms_swift(python: Path) -> Command:
    def command(job: Job, out: Path) -> list[str]:
        lora = "--target_modules all-linear --lora_rank 8 --lora_alpha 32 --lora_dropout 0.05"
        family = shapes.config(job.model)["model_type"]
        flags = f"""--model {job.model} --model_type {family} --template chatml --dataset {job.rows} --output_dir {out}
            --torch_dtype {"bfloat16" if job.dtype == "bf16" else "float32"}
            {"--tuner_type full" if job.full else lora} --per_device_train_batch_size {job.batch}
            --gradient_accumulation_steps {job.accumulation} --max_length {job.length} --num_train_epochs 1
            --learning_rate {RATE[job.full]} --logging_steps 1 --save_strategy no --split_dataset_ratio 0
            --gradient_checkpointing false --use_cpu true --dataloader_num_workers 0"""
        return [str(python.with_name("swift")), "sft", *flags.split()]

    return command


# --- measuring -----------------------------------------------------------------------------------------------------


def measure(command: Sequence[str], out: Path, tokens: int) -> Run:
    """One run, measured from outside by its output and the log below `out`.

    Raises RuntimeError with the end of its output if it fails.
    """
    own = str(ROOT) if sys.executable in command else ""
    output = out.with_suffix(".txt")
    began, first = time.perf_counter(), None
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **processes.QUIET, "PYTHONPATH": own},
            cwd=out.parent,
        )
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if first is None and re.search(r"""['"]loss['"]""", output_text(output, out)):
                    first = time.perf_counter() - began
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    break
                time.sleep(0.1)
        finally:
            process.kill()  # no effect if it has ended
    text = output_text(output, out)
    seconds = re.findall(r"""['"]train_runtime['"]: ['"]?([\d.]+)""", text)
    if process.returncode or not seconds or first is None:
        print(text[-3000:], file=sys.stderr)
        last = [line.strip() for line in text.splitlines() if line.strip()] or [""]
        raise RuntimeError(f"exit code {process.returncode}: {last[-1][:150]}")
    return Run(tokens / float(seconds[-1]), usage.ru_maxrss / 2**20, first)


def output_text(output: Path, out: Path) -> str:
    logs = [output, *out.rglob("logging.jsonl")]
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)


def gemm_floor(model: Path, dtype: str, full: bool, tokens: int = 1024) -> float:
    """Tokens/s of the products with the blocks' weights alone, forward and backward.

    With --full each weight has one more product: its own gradient.
    """
    config = shapes.config(model)
    hidden, intermediate, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = (config[f"num_{kind}_heads"] * head for kind in ("attention", "key_value"))
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    matrices = [(queries + 2 * keys, hidden), (hidden, queries), (2 * intermediate, hidden), (hidden, intermediate)]
    products = []
    for outputs, inputs in matrices:
        x, y, weight = (torch.randn(size).to(kind) for size in ((tokens, inputs), (tokens, outputs), (outputs, inputs)))
        products.append((x, y, weight))
    rounds = []
    for _ in range(7):
        began = time.perf_counter()
        for x, y, weight in products:
            torch.nn.functional.linear(x, weight)
            y @ weight
            if full:
                y.T @ x
        rounds.append(time.perf_counter() - began)
    return tokens / (statistics.median(rounds[2:]) * config["num_hidden_layers"])


def print_table(dtype: str, floor: float, runs_of: dict[str, list[Run]], failed: dict[str, str]) -> None:
    print(f"\n{dtype}: GEMM floor {floor:,.0f} tokens/s")
    print("| | tokens/s | of the floor | SWIFT is | peak GiB | first step after |")
    print("|---|---:|---:|---:|---:|---:|")
    medians = {name: Run(*map(statistics.median, zip(*runs, strict=True))) for name, runs in runs_of.items() if runs}
    for name, run in medians.items():
        ratio = f"{medians[SWIFT].tokens_per_second / run.tokens_per_second:.1f} x" if SWIFT in medians else ""
        cells = [
            f"{run.tokens_per_second:,.0f}",
            f"{run.tokens_per_second / floor:.0%}",
            ratio,
            f"{run.peak_gib:.2f}",
            f"{run.first_step_s:.1f} s",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    for name, reason in failed.items():
        print(f"| {name} | {reason} | | | | |", flush=True)


if __name__ == "__main__":
    main()
