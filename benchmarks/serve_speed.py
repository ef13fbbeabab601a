"""Serving with SWIFT and its peers on this machine: tokens/s, time to the first token, start, memory.

    python benchmarks/serve_speed.py --cache ~/.cache/swift-benchmarks --shape 135m

The model is SmolLM2-135M, or the published shape of a larger model with random weights (shapes.py). Each peer has a
virtual environment below --cache, created on the first run (llama-cpp-python is compiled: ten minutes). Each
measurement is a process of its own, in turns; the best of --rounds counts. End to end means greedy decoding of --new
tokens for each of so many requests that arrive together, with different prompts of --prompt tokens, including the
prefill. Memory is the peak of the process after all of that, including libraries and weights. `--clock cpu` counts
processor time instead of wall time, with one thread each: for a machine with other users, where two threads that wait
for each other lose most of their time. `--kernels avx2` and the like restrict every program to a lesser instruction
set. The table says what could not be installed or run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import environments
import machine
import measure_engine
import processes
import shapes

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
STREAMS = (1, 8, 32)
OWN = "own"
"""Name of the measurements of SWIFT alone (measure_swift.py) among the contenders."""


class Contender(NamedTuple):
    """`format`: of the weights: of a folder, or the type of a GGUF file."""

    peer: str
    format: str
    bits: int = 0

    @property
    def name(self) -> str:
        return f"{self.peer} {self.format}"


CONTENDERS = (
    Contender("swift", "bf16"),
    Contender("transformers", "bf16"),
    Contender("vllm", "bf16"),
    Contender("openvino", "F16"),
    Contender("llamacpp", "F16"),
    Contender("swift", "int8", bits=8),
    Contender("swift", "int4", bits=4),
    Contender("openvino", "Q8_0"),
    Contender("openvino", "Q4_1"),
    Contender("llamacpp", "Q8_0"),
    Contender("llamacpp", "Q4_1"),
    Contender("ikllama", "Q4_0"),
    Contender("mistralrs", "Q8_0"),
    Contender("mistralrs", "Q4_0"),
    Contender("onnxruntime", "int4"),
)
GOALS = (
    ("1 stream, bf16, end to end", "1", "bf16", "vllm bf16", 1.5),
    ("8 streams, bf16, end to end", "8", "bf16", "vllm bf16, openvino F16", 1.2),
    ("32 streams, bf16, end to end", "32", "bf16", "vllm bf16, openvino F16", 1.3),
    ("1 stream, 8- or 4-bit weights, end to end", "1", "int8, int4", "openvino Q8_0, openvino Q4_1", 1.0),
    ("prefill of 512 tokens", "prefill", "bf16", "openvino F16, llamacpp F16", 1.0),
)
"""Row of the table, measure, SWIFT's formats, peers, and the goal as a multiple of the better peer."""
LOWER_IS_BETTER = ("ready", "third turn", "third turn, cold", "peak")

Results = dict[str, dict[str, float]]
"""Contender -> measure -> its best value."""


def main() -> None:
    args = parse()
    args.cache.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    failed: dict[str, str] = {}
    all_contenders = (*CONTENDERS, Contender(OWN, "bf16"))
    contenders = [each for each in all_contenders if {name_of(each), each.peer} & {*args.contenders}]
    for turn in range(args.rounds):
        for each in contenders:
            name = name_of(each)
            if name in failed or (turn and name == OWN):
                continue
            try:
                for measure, value in measure_contender(each, args):
                    values = results.setdefault(name, {})
                    better = min if measure in LOWER_IS_BETTER else max
                    values[measure] = better(values.get(measure, value), value)
                    print(f"{name}: {measure} {value:,.2f}", file=sys.stderr)
            except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                failed[name] = str(error)
                print(f"{name}: {error}", file=sys.stderr)
    versions = machine.versions("torch", "transformers")
    for peer in sorted({each.peer for each in contenders if each.peer in environments.RECIPES} - failed_peers(failed)):
        versions[peer] = environments.version(peer, args.cache)
    print("\n" + machine.headline(args.kernels, args.threads, versions))
    print_speeds(results, failed, args)
    print_goals(results)
    print_own(results.get(OWN, {}))
    for peer in sorted({each.peer for each in contenders}):
        if machine.restricts(args.kernels) and peer in machine.UNRESTRICTED:
            print(f"\nNot restricted to {args.kernels}: {machine.UNRESTRICTED[peer]}.")


def parse() -> argparse.Namespace:
    names = [*(each.name for each in CONTENDERS), OWN]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_flags(parser)
    parser.add_argument("--shape", choices=shapes.CHOICES, default=shapes.BUNDLED)
    parser.add_argument("--contenders", nargs="*", default=names, help=f"of: {', '.join(names)}; or peers")
    parser.add_argument("--streams", nargs="*", type=int, default=STREAMS)
    parser.add_argument("--prompt", type=int, default=264)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=machine.default_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--timeout", type=float, default=900, help="seconds that one measurement may take")
    args = parser.parse_args()
    machine.check(parser, args.kernels)
    if unknown := {*args.contenders} - {*names, *(each.peer for each in CONTENDERS)}:
        parser.error(f"unknown contender {min(unknown)!r}")
    args.cache = args.cache.expanduser()
    if args.clock == "cpu":
        args.threads = 1
    return args


def name_of(contender: Contender) -> str:
    return OWN if contender.peer == OWN else contender.name


def failed_peers(failed: dict[str, str]) -> set[str]:
    return {name.split()[0] for name in failed}


def measure_contender(contender: Contender, args: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Yields (measure, value) of one process. Raises if the peer or its model cannot be installed, or the run fails."""
    python = environments.python(contender.peer, args.cache)
    job = measure_engine.Job(
        peer=contender.peer,
        model=str(model_for(contender, args.shape, args.cache)),
        bits=contender.bits,
        streams=tuple(args.streams),
        **{key: getattr(args, key) for key in ("threads", "prompt", "new", "clock", "requests")},
    )
    variables = {"OMP_NUM_THREADS": str(args.threads), **machine.restricted_to(args.kernels)}
    began = time.time()
    command = [python, HERE / "measure_engine.py", json.dumps(job._asdict())]
    for line in processes.json_lines(command, variables, args.timeout):
        yield line["measure"], line["value"] - (began if line["measure"] == "ready" else 0)


def model_for(contender: Contender, shape: str, cache: Path) -> Path:
    """The model in the contender's format."""
    if contender.peer == "onnxruntime":
        return shapes.onnx(shape, contender.format, cache)
    if contender.format in ("bf16", "int8", "int4"):
        return shapes.folder(shape, cache)
    return shapes.gguf(shape, contender.format, cache)


# --- tables --------------------------------------------------------------------------------------------------------


def print_speeds(results: Results, failed: dict[str, str], args: argparse.Namespace) -> None:
    unit = "processor second" if args.clock == "cpu" else "second"
    work = f"prompts of {args.prompt} tokens, {args.new} new ones, the best of {args.rounds} round(s)"
    print(f"{shapes.title(args.shape)}; tokens a {unit}; {work}\n")
    columns = [*map(str, args.streams), "prefill"]
    heads = [f"{each} stream(s)" for each in args.streams]
    print(table_row("", *heads, f"prefill of {measure_engine.PREFILL}", "start to ready, s", "peak GiB"))
    print("|---|" + "---:|" * (len(columns) + 2))
    for name, values in results.items():
        if name != OWN:
            speeds = [cell(values, each, ",.0f") for each in columns]
            print(table_row(name, *speeds, cell(values, "ready", ".1f"), cell(values, "peak", ".2f")))
    for name, reason in failed.items():
        print(table_row(name, f"not measured: {reason}"))


def print_goals(results: Results) -> None:
    print("\n| | SWIFT | the better peer | ratio | goal |\n|---|---:|---:|---:|---:|")
    for row, measure, formats, peers, goal in GOALS:
        own_speed = max(results.get(f"swift {each}", {}).get(measure, 0.0) for each in formats.split(", "))
        others = {each: results.get(each, {}).get(measure, 0.0) for each in peers.split(", ")}
        best = max(others, key=others.__getitem__)
        if own_speed and others[best]:
            cells = (f"{own_speed:,.0f}", f"{best} {others[best]:,.0f}", f"{own_speed / others[best]:.2f}", str(goal))
            print(table_row(row, *cells))


def print_own(own: dict[str, float]) -> None:
    if "third turn" in own:
        third, cold = own["third turn"], own["third turn, cold"]
        cells = (f"{third:.3f}", f"cold {cold:.3f}", f"{third / cold:.2f}", "0.25")
        print(table_row("third turn of an agent, s to the first token", *cells))
    for name, value in own.items():
        if name.startswith(("floor", "MiB")):
            print(table_row(name, f"{value:,.0f}", "", "", ""))


def cell(values: dict[str, float], measure: str, form: str) -> str:
    return format(values[measure], form) if measure in values else ""


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
