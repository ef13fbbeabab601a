"""One LoRA job with this project and with its peers, on this machine: tokens/s, memory, time to the first step.

    python benchmarks/train_speed.py --cache ~/.cache/swift-benchmarks

SmolLM2-135M, every linear layer, rank 8, alpha 32, dropout 0.05, batch 2 x accumulation 4, 1024 tokens at most, one
pass over agent conversations that the project makes. Each peer gets a virtual environment below --cache, made on the
first run. Runs alternate, and medians are told. Everything is measured from outside, for all alike: seconds of training
as transformers' Trainer tells them (`train_runtime`), memory as the kernel counts it, the first step as the moment its
loss is told. The GEMM floor is the time that the frozen weights' products alone take, forward and backward.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from swift.data.synth import agent_rows
from swift.model import bundled

MODEL = "smollm2-135m-instruct"
ROOT = Path(__file__).resolve().parent.parent
PEERS = {"TRL": ("trl", ("peft",)), "ms-swift": ("ms-swift", ())}
"""Name -> package, and what it needs beside."""

TRL_JOB = """
import sys, torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
model, rows, out, dtype = sys.argv[1:]
bf16 = dtype == "bf16"
trainer = SFTTrainer(
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16 if bf16 else torch.float32),
    args=SFTConfig(
        out, max_length=1024, per_device_train_batch_size=2, gradient_accumulation_steps=4, num_train_epochs=1,
        learning_rate=1e-4, logging_steps=1, save_strategy="no", report_to="none", bf16=bf16, use_cpu=True,
        gradient_checkpointing=False, disable_tqdm=True,
    ),
    train_dataset=load_dataset("json", data_files=rows, split="train"),
    processing_class=AutoTokenizer.from_pretrained(model),
    peft_config=LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear"
    ),
)
trainer.train()
"""


class Run(NamedTuple):
    tokens_per_second: float
    peak_gib: float
    first_step_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/swift-benchmarks"), help="folder of the peers")
    parser.add_argument("--rows", type=int, default=64, help="conversations; a step takes 8")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--before", default="", help="command put before each run, e.g. 'taskset -c 0,1'")
    options = parser.parse_args()
    cache = options.cache.expanduser()
    model = bundled.unpack()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        rows, tokens = write_rows(place, options.rows)
        print(f"machine: {machine()}; {options.rows} rows, {tokens:,} tokens, {options.repeats} runs each")
        commands = {"swift": ours, **{name: peer(name, cache) for name in options.peers}}
        for dtype in options.dtypes:
            floor = gemm_floor(dtype)
            found: dict[str, list[Run]] = {name: [] for name in commands}
            for number in range(options.repeats):
                for name, command in commands.items():
                    if isinstance(command, str):
                        continue
                    out = place / f"{name}-{dtype}-{number}"
                    found[name].append(
                        measured([*options.before.split(), *command(model, rows, out, dtype)], out, tokens)
                    )
            tell(dtype, floor, found, commands)


def write_rows(place: Path, count: int) -> tuple[Path, int]:
    """The job's rows as messages, which every contestant reads, and their tokens in ChatML."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled.unpack())
    path, tokens = place / "rows.jsonl", 0
    with path.open("w", encoding="utf-8") as file:
        for row in agent_rows(count, seed=0):
            messages = [{"role": message.role, "content": message.content} for message in row.messages]
            text = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages)
            tokens += len(tokenizer(text)["input_ids"])
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path, tokens


def ours(model: Path, rows: Path, out: Path, dtype: str) -> list[str]:
    flags = f"""--model_id_or_path {model} --dataset {rows} --output_dir {out} --dtype {dtype} --template_type chatml
        --lora_target_modules ALL --lora_rank 8 --lora_alpha 32 --lora_dropout_p 0.05 --batch_size 2
        --gradient_accumulation_steps 4 --max_length 1024 --num_train_epochs 1 --learning_rate 1e-4 --logging_steps 1
        --save_strategy no --eval_strategy no --dataset_test_ratio 0 --device cpu --report_to none"""
    return [sys.executable, "-m", "swift.cli", "sft", *flags.split()]


def peer(name: str, cache: Path) -> Any:
    """A function that makes the peer's command line, or why there is none."""
    package, more = PEERS[name]
    folder = cache / package
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        constraint = f"torch=={torch.__version__.split('+')[0]}"
        pip = [str(python), "-m", "pip", "install", "-q"]
        steps = [
            [sys.executable, "-m", "venv", str(folder)],
            [*pip, constraint],
            [*pip, package, *more, "-c", str(folder / "constraints.txt")],
        ]
        for number, step in enumerate(steps):
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"not installed: {done.stderr.strip().splitlines()[-1][:150]}"
            if not number:
                (folder / "constraints.txt").write_text(constraint + "\n")
        (folder / "ready").touch()
    if name == "TRL":
        return lambda model, rows, out, dtype: [str(python), "-c", TRL_JOB, *map(str, (model, rows, out)), dtype]

    def ms_swift(model: Path, rows: Path, out: Path, dtype: str) -> list[str]:
        flags = f"""--model {model} --model_type llama --template chatml --dataset {rows} --output_dir {out}
            --torch_dtype {"bfloat16" if dtype == "bf16" else "float32"} --target_modules all-linear --lora_rank 8
            --lora_alpha 32 --lora_dropout 0.05 --per_device_train_batch_size 2 --gradient_accumulation_steps 4
            --max_length 1024 --num_train_epochs 1 --learning_rate 1e-4 --logging_steps 1 --save_strategy no
            --split_dataset_ratio 0 --gradient_checkpointing false --use_cpu true --dataloader_num_workers 0"""
        return [str(folder / "bin" / "swift"), "sft", *flags.split()]

    return ms_swift


def measured(command: Sequence[str], out: Path, tokens: int) -> Run:
    """One run, watched from outside: its output and the log that it writes below `out`."""
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONUNBUFFERED": "1"}
    environment = {**os.environ, **quiet}
    environment["PYTHONPATH"] = str(ROOT) if sys.executable in command else ""
    output = out.with_suffix(".txt")
    began, first = time.perf_counter(), None
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=out.parent)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if first is None and re.search(r"""['"]loss['"]""", told(output, out)):
                first = time.perf_counter() - began
            if pid:
                break
            time.sleep(0.1)
    process.returncode = os.waitstatus_to_exitcode(status)
    text = told(output, out)
    seconds = re.findall(r"""['"]train_runtime['"]: ['"]?([\d.]+)""", text)
    if process.returncode or not seconds or first is None:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{text[-3000:]}")
    return Run(tokens / float(seconds[-1]), usage.ru_maxrss / 2**20, first)


def told(output: Path, out: Path) -> str:
    logs = [output, *out.rglob("logging.jsonl")]
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)


def gemm_floor(dtype: str, tokens: int = 1024) -> float:
    """Tokens/s if there were nothing but the products with the blocks' frozen weights, forward and backward."""
    config = json.loads((bundled.unpack() / "config.json").read_text(encoding="utf-8"))
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    keys = width * config["num_key_value_heads"] // config["num_attention_heads"]
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    shapes = [(width + 2 * keys, width), (width, width), (2 * inner, width), (width, inner)]
    products = []
    for outputs, inputs in shapes:
        x, y, weight = (torch.randn(size).to(kind) for size in ((tokens, inputs), (tokens, outputs), (outputs, inputs)))
        products.append((x, y, weight))
    rounds = []
    for _ in range(7):
        began = time.perf_counter()
        for x, y, weight in products:
            torch.nn.functional.linear(x, weight)
            y @ weight
        rounds.append(time.perf_counter() - began)
    return tokens / (statistics.median(rounds[2:]) * layers)


def tell(dtype: str, floor: float, found: dict[str, list[Run]], commands: dict[str, Any]) -> None:
    print(f"\n{dtype}: GEMM floor {floor:,.0f} tokens/s")
    print("| | version | tokens/s | of the floor | this project is | peak GiB | first step after |")
    print("|---|---|---:|---:|---:|---:|---:|")
    medians = {name: Run(*map(statistics.median, zip(*runs, strict=True))) for name, runs in found.items() if runs}
    for name, command in commands.items():
        if isinstance(command, str):
            print(f"| {name} | {command} | | | | | |")
            continue
        run = medians[name]
        ratio = medians["swift"].tokens_per_second / run.tokens_per_second
        cells = [
            f"{run.tokens_per_second:,.0f}",
            f"{run.tokens_per_second / floor:.0%}",
            f"{ratio:.1f} x",
            f"{run.peak_gib:.2f}",
            f"{run.first_step_s:.1f} s",
        ]
        print(f"| {name} | {version(name, command)} | {' | '.join(cells)} |", flush=True)


def version(name: str, command: Any) -> str:
    if name == "swift":
        return importlib.metadata.version("torch")
    python = Path(command(Path(), Path(), Path(), "fp32")[0]).with_name("python")
    code = f"import importlib.metadata as m; print(m.version({PEERS[name][0]!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def machine() -> str:
    names = (
        re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else []
    )
    units = re.findall(r"amx_bf16|avx512_bf16", Path("/proc/cpuinfo").read_text()) if names else []
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, {sorted(set(units))}"


if __name__ == "__main__":
    main()
