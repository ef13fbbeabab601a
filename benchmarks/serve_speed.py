"""Serving with this project and with its peers, on this machine: tokens/s, time to the first token, start, memory.

    python benchmarks/serve_speed.py --cache ~/.cache/swift-benchmarks --shape 135m

SmolLM2-135M, or the published shape of a larger model with random weights (shapes.py). Each peer gets a virtual
environment below --cache, made on the first run (llama-cpp-python is compiled: ten minutes), and each measurement a
process of its own, in turns; the best of --rounds counts. End to end means --new tokens for each of so many streams
that arrive together, after different prompts of --prompt tokens, greedily, the prompts' own time included. Memory is
the process's peak after all of that, libraries and weights included. `--clock cpu` counts the processor's seconds
instead of the wall's, one thread each: for a machine that others use too, where two threads that wait for each other
lose most of their time. `--kernels avx2` and the like hold everybody to a lesser processor. What cannot be installed or
run is told as such.
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

import drive
import environments
import machine
import processes
import shapes

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
STREAMS = (1, 8, 32)
OWN = "own"
"""The name under which what only this project is asked (drive_own.py) runs beside the contenders."""


class Contender(NamedTuple):
    """`format`: of the weights, as the model is handed over (a folder, or the kind of a GGUF file)."""

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
"""Row of the table, measure, ours, theirs, and how many times the better of theirs ours should be."""
LESS_IS_BETTER = ("ready", "third turn", "third turn, cold", "peak")

Found = dict[str, dict[str, float]]
"""Contender -> measure -> its best value."""


def main() -> None:
    args = parse()
    args.cache.mkdir(parents=True, exist_ok=True)
    found: Found = {}
    failed: dict[str, str] = {}
    everybody = (*CONTENDERS, Contender(OWN, "bf16"))
    contenders = [each for each in everybody if {name_of(each), each.peer} & {*args.contenders}]
    for turn in range(args.rounds):
        for each in contenders:
            name = name_of(each)
            if name in failed or (turn and name == OWN):
                continue
            try:
                for measure, value in measured(each, args):
                    values = found.setdefault(name, {})
                    better = min if measure in LESS_IS_BETTER else max
                    values[measure] = better(values.get(measure, value), value)
                    print(f"{name}: {measure} {value:,.2f}", file=sys.stderr)
            except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                failed[name] = str(error)
                print(f"{name}: {error}", file=sys.stderr)
    versions = machine.versions("torch", "transformers")
    for peer in sorted({each.peer for each in contenders if each.peer in environments.RECIPES} - failed_peers(failed)):
        versions[peer] = environments.version(peer, args.cache)
    print("\n" + machine.headline(args.kernels, args.threads, versions))
    tell_speeds(found, failed, args)
    tell_goals(found)
    tell_own(found.get(OWN, {}))
    for peer in sorted({each.peer for each in contenders}):
        if machine.holds(args.kernels) and peer in machine.NOT_HELD:
            print(f"\nNot held to {args.kernels}: {machine.NOT_HELD[peer]}.")


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


def measured(contender: Contender, args: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """(measure, value) of one process. Raises where the peer, its model or its run cannot be had."""
    python = environments.python(contender.peer, args.cache)
    job = drive.Job(
        peer=contender.peer,
        model=str(model_for(contender, args.shape, args.cache)),
        bits=contender.bits,
        streams=tuple(args.streams),
        **{key: getattr(args, key) for key in ("threads", "prompt", "new", "clock", "requests")},
    )
    variables = {"OMP_NUM_THREADS": str(args.threads), **machine.held_to(args.kernels)}
    began = time.time()
    for line in processes.said([python, HERE / "drive.py", json.dumps(job._asdict())], variables, args.timeout):
        yield line["measure"], line["value"] - (began if line["measure"] == "ready" else 0)


def model_for(contender: Contender, shape: str, cache: Path) -> Path:
    """The model as the contender reads it."""
    if contender.peer == "onnxruntime":
        return shapes.onnx(shape, contender.format, cache)
    if contender.format in ("bf16", "int8", "int4"):
        return shapes.folder(shape, cache)
    return shapes.gguf(shape, contender.format, cache)


# --- telling -------------------------------------------------------------------------------------------------------


def tell_speeds(found: Found, failed: dict[str, str], args: argparse.Namespace) -> None:
    unit = "processor second" if args.clock == "cpu" else "second"
    work = f"prompts of {args.prompt} tokens, {args.new} new ones, the best of {args.rounds} round(s)"
    print(f"{shapes.title(args.shape)}; tokens a {unit}; {work}\n")
    columns = [*map(str, args.streams), "prefill"]
    heads = [f"{each} stream(s)" for each in args.streams]
    print(table_row("", *heads, f"prefill of {drive.PREFILL}", "start to ready, s", "peak GiB"))
    print("|---|" + "---:|" * (len(columns) + 2))
    for name, values in found.items():
        if name != OWN:
            speeds = [cell(values, each, ",.0f") for each in columns]
            print(table_row(name, *speeds, cell(values, "ready", ".1f"), cell(values, "peak", ".2f")))
    for name, reason in failed.items():
        print(table_row(name, f"not measured: {reason}"))


def tell_goals(found: Found) -> None:
    print("\n| | ours | the better peer | ratio | goal |\n|---|---:|---:|---:|---:|")
    for row, measure, ours, theirs, goal in GOALS:
        mine = max(found.get(f"swift {each}", {}).get(measure, 0.0) for each in ours.split(", "))
        others = {each: found.get(each, {}).get(measure, 0.0) for each in theirs.split(", ")}
        best = max(others, key=others.__getitem__)
        if mine and others[best]:
            cells = (f"{mine:,.0f}", f"{best} {others[best]:,.0f}", f"{mine / others[best]:.2f}", str(goal))
            print(table_row(row, *cells))


def tell_own(own: dict[str, float]) -> None:
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
