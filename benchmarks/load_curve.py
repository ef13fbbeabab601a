"""Servers from one client to saturation, measured by guidellm: requests/s, time to the first token and between tokens.

    python benchmarks/load_curve.py --cache ~/.cache/swift-benchmarks --clients 1 2 4 8 16 32

guidellm (https://github.com/vllm-project/guidellm) sends chat completions with synthetic text, for --seconds with each
number of clients, each of which sends its next request when a reply has ended. Prompts have --prompt tokens with no
common beginning, replies --new tokens. Replies that have not ended by then do not count, so --seconds should be several
times what a reply takes. The servers are those of load_speed.py. guidellm has an environment of its own below --cache,
and runs on the same machine. Its profiles with a rate are not used: on two cores its 10 processes are late at the start
and then send hundreds of requests at once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import environments
import machine
import processes
import servers
import shapes

CLIENT = "guidellm"
DEFAULT = ("swift deploy, bf16", "vLLM, bf16", "OpenVINO, F16")


class Point(NamedTuple):
    """One server and so many clients. Times in ms: (median, 95th percentile). `ended`: replies that did so in time."""

    clients: int
    served: float
    tokens: float
    first: tuple[float, float]
    between: tuple[float, float]
    ended: int
    failed: int


def main() -> None:
    args = parse()
    args.cache.mkdir(parents=True, exist_ok=True)
    versions = {**machine.versions("torch", "transformers")}
    curves: dict[str, list[Point]] = {}
    failed: dict[str, str] = {}
    python = environments.python(CLIENT, args.cache)
    versions[CLIENT] = environments.version(CLIENT, args.cache)
    for turn in range(args.rounds):
        for name in args.contenders if turn % 2 == 0 else reversed(args.contenders):
            contender = servers.CONTENDERS[name]
            options = servers.Options(args.shape, args.cache, servers.free_port(), args.threads, args.streams)
            try:
                with servers.running(contender, options, args.kernels, args.timeout) as server:
                    points = measure(python, server.url.removesuffix("/v1"), args)
                curves.setdefault(name, []).extend(points)
                for point in points:
                    print(f"{name}: {' | '.join(cells(point))}", file=sys.stderr)
                if contender.peer in environments.RECIPES:
                    versions[contender.peer] = environments.version(contender.peer, args.cache)
            except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                failed[name] = str(error)
                print(f"{name}: {error}", file=sys.stderr)
    print("\n" + machine.headline(args.kernels, args.threads, versions))
    print(
        f"{shapes.title(args.shape)}; prompts of {args.prompt} tokens, replies of {args.new}; {args.seconds:g} s each"
    )
    print_table(curves, failed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    servers.add_flags(parser, DEFAULT)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=30, help="time for each number of clients")
    parser.add_argument("--rounds", type=int, default=1, help="each with every server, in turns")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt")
    return servers.parse(parser)


def measure(python: Path, url: str, args: argparse.Namespace) -> list[Point]:
    """The points of a server. Raises RuntimeError with the last line of guidellm if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        flags = (
            *("--backend", f"kind=openai_http,target={url}"),
            *("--profile", f"kind=concurrent,streams={args.clients[0]}"),
            *("--override", "profile.streams", ",".join(map(str, args.clients))),
            *("--constraint", f"kind=max_duration,seconds={args.seconds:g}"),
            *("--data", f"kind=synthetic_text,prompt_tokens={args.prompt},output_tokens={args.new}"),
            *("--tokenizer", f"kind=hf_auto,model={shapes.folder(args.shape, args.cache)}"),
            *("--output", f"kind=json,path={report}", "--disable-console"),
        )
        done = subprocess.run(
            [python, "-m", "guidellm", "run", *flags],
            env={**os.environ, **processes.QUIET},
            capture_output=True,
            text=True,
        )
        if not report.exists():
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no report"]
            raise RuntimeError(lines[-1][:200])
        return list(points(json.loads(report.read_text(encoding="utf-8")), args.clients))


def points(report: dict[str, Any], clients: Sequence[int]) -> Iterator[Point]:
    for number, benchmark in zip(clients, report["benchmarks"], strict=True):
        metrics = benchmark["metrics"]
        totals = metrics["request_totals"]
        yield Point(
            number,
            metrics["requests_per_second"]["successful"]["mean"],
            metrics["output_tokens_per_second"]["successful"]["mean"],
            _spread(metrics["time_to_first_token_ms"]["successful"]),
            _spread(metrics["inter_token_latency_ms"]["successful"]),
            totals["successful"],
            totals["errored"],
        )


def _spread(values: dict[str, Any]) -> tuple[float, float]:
    return values["median"], values["percentiles"]["p95"]


def print_table(curves: dict[str, list[Point]], failed: dict[str, str]) -> None:
    heads = ("clients", "requests/s", "tokens/s", "first token, ms", "between tokens, ms", "ended", "failed")
    print(f"\n| | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for name, found in curves.items():
        for point in sorted(found):
            print(f"| {name} | {' | '.join(cells(point))} |")
    for name, reason in failed.items():
        print(f"| {name} | not measured: {reason} |")
    print("\nPairs of times are the median and the 95th percentile.")


def cells(point: Point) -> list[str]:
    times = [f"{middle:,.0f} {late:,.0f}" for middle, late in (point.first, point.between)]
    counts = [str(point.ended), str(point.failed)]
    return [str(point.clients), f"{point.served:.2f}", f"{point.tokens:,.0f}", *times, *counts]


if __name__ == "__main__":
    main()
