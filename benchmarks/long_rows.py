"""Peak memory of one training step with one long row.

    python benchmarks/long_rows.py --lengths 1024 4096 8192 16384 32768

Each length is a separate run of `swift sft`: SmolLM2-135M, LoRA on all linear layers, one step with one row, of which
the last quarter is trained. Memory is the peak of the process, including libraries and weights. The model was trained
with positions up to 8,192; computation and memory beyond that are those of a model with a longer context.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from transformers import AutoModelForCausalLM

from swift.model import bundled

ROOT = Path(__file__).resolve().parent.parent


class Run(NamedTuple):
    tokens: int
    peak_gib: float
    tokens_per_second: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192, 16384, 32768])
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--checkpointing", nargs="+", default=["false", "true"], choices=["false", "true"])
    parser.add_argument(
        "--layers",
        type=int,
        help="use only the first of the model's 30 layers: time grows with the square of the length",
    )
    parser.add_argument("--backend", default="swift", choices=["swift", "peft"], help="peft: without the fast path")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table(args, with_layers(bundled.unpack(), args.layers, Path(folder)) if args.layers else bundled.unpack())


def with_layers(model: Path, layers: int, folder: Path) -> Path:
    """Saves the model with its first layers only."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    shortened = AutoModelForCausalLM.from_pretrained(model, dtype="auto", num_hidden_layers=layers)
    shortened.save_pretrained(folder)
    return folder


def table(args: argparse.Namespace, model: Path) -> None:
    print(
        "| tokens | gradient checkpointing | peak GiB | additional kB per token | tokens/s |\n|---:|---|---:|---:|---:|"
    )
    for checkpointing in args.checkpointing:
        before: Run | None = None
        for length in args.lengths:
            with tempfile.TemporaryDirectory() as folder:
                run = measure(model, length, args.dtype, checkpointing, args.backend, Path(folder))
            more = (run.peak_gib - before.peak_gib) * 2**20 / (run.tokens - before.tokens) if before else 0.0
            slope = f"{more:.0f}" if before else ""
            print(
                f"| {run.tokens:,} | {checkpointing} | {run.peak_gib:.2f} | {slope} | {run.tokens_per_second:.0f} |",
                flush=True,
            )
            before = run


def measure(model: Path, length: int, dtype: str, checkpointing: str, backend: str, folder: Path) -> Run:
    row = {"query": " row" * (length * 3 // 4), "response": " row" * (length // 4)}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    out = folder / "run"
    flags = f"""--model_id_or_path {model} --dataset {folder / "rows.jsonl"} --output_dir {out} --dtype {dtype}
        --add_output_dir_suffix false --template_type chatml --lora_target_modules ALL --lora_rank 8 --lora_alpha 32
        --batch_size 1 --gradient_accumulation_steps 1 --max_length -1 --max_steps 1 --logging_steps 1
        --gradient_checkpointing {checkpointing} --tuner_backend {backend} --save_strategy no --eval_strategy no
        --dataset_test_ratio 0 --device cpu --report_to none"""
    with (folder / "output").open("w") as output:
        command = [sys.executable, "-m", "swift.cli", "sft", *flags.split()]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit((folder / "output").read_text()[-2000:])
    lines = map(json.loads, (out / "logging.jsonl").read_text(encoding="utf-8").splitlines())
    rate = next(line["tokens_per_second"] for line in lines if "loss" in line)
    tokens = json.loads((out / "mixture.json").read_text(encoding="utf-8"))["total"]["tokens"]
    return Run(tokens, used.ru_maxrss / 2**20, rate)


if __name__ == "__main__":
    main()
