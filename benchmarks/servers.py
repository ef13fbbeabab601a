"""Starts the servers of load_speed.py, waits until they are ready, and measures their memory."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import environments
import httpx
import machine
import processes
import shapes

HERE = Path(__file__).resolve().parent
CONTEXT = 4096
"""Tokens of the longest dialogue."""
CACHE_GIB = 4
"""Memory of the KV cache, for servers that have the option."""


class Options(NamedTuple):
    """Options of every server. `streams`: maximum of concurrent requests."""

    shape: str
    cache: Path
    port: int
    threads: int
    streams: int


class Contender(NamedTuple):
    """`command`: returns its command line. `variables`: of its environment."""

    peer: str
    command: Callable[[Options], list[str]]
    variables: Mapping[str, str] = {}


class RunningServer(NamedTuple):
    url: str
    pid: int
    ready_s: float

    @property
    def peak_gib(self) -> float:
        return machine.tree_peak_gib(self.pid)


def swift(bits: int) -> Callable[[Options], list[str]]:
    def command(options: Options) -> list[str]:
        flags = f"""--model_id_or_path {shapes.folder(options.shape, options.cache)} --dtype bf16 --port {options.port}
            --quantization_bit {bits} --quant_method torch --max_batch {options.streams} --template_type AUTO"""
        return [sys.executable, "-m", "swift.cli", "deploy", *flags.split()]

    return command


def vllm(options: Options) -> list[str]:
    flags = f"""--model {shapes.folder(options.shape, options.cache)} --dtype bfloat16 --port {options.port}
        --host 127.0.0.1 --max-model-len {CONTEXT} --max-num-seqs {options.streams}"""
    return [str(environments.python("vllm", options.cache)), str(HERE / "vllm_server.py"), *flags.split()]


def openvino(kind: str) -> Callable[[Options], list[str]]:
    def command(options: Options) -> list[str]:
        python = environments.python("openvino", options.cache)
        model = shapes.gguf(options.shape, kind, options.cache)
        tokenizer = shapes.folder(options.shape, options.cache) / "tokenizer.json"
        flags = f"""--tokenizer {tokenizer} --port {options.port} --streams {options.streams}
            --threads {options.threads} --cache_gib {CACHE_GIB}"""
        return [str(python), str(HERE / "openvino_server.py"), str(model), *flags.split()]

    return command


CONTENDERS = {
    "swift deploy, bf16": Contender("swift", swift(0)),
    "vLLM, bf16": Contender(
        "vllm",
        vllm,
        {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
            "VLLM_LOGGING_LEVEL": "ERROR",
        },
    ),
    "OpenVINO, F16": Contender("openvino", openvino("F16")),
    "swift deploy, 4 bits": Contender("swift", swift(4)),
    "OpenVINO, Q4_1": Contender("openvino", openvino("Q4_1")),
}


def add_flags(parser: argparse.ArgumentParser, contenders: Sequence[str]) -> None:
    """What every benchmark of servers takes. `contenders`: those that it measures by default."""
    machine.add_flags(parser)
    parser.add_argument("--shape", choices=shapes.CHOICES, default=shapes.BUNDLED)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(contenders))
    parser.add_argument("--new", type=int, default=64, help="tokens of a reply")
    parser.add_argument("--streams", type=int, default=32, help="maximum of requests that a server computes at once")
    parser.add_argument("--threads", type=int, default=machine.default_threads())
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a start or a reply may take")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    machine.check(parser, args.kernels)
    args.cache = args.cache.expanduser()
    return args


@contextmanager
def running(contender: Contender, options: Options, kernels: str | None, timeout: float) -> Iterator[RunningServer]:
    """Starts the server and terminates it with its child processes at the end of the block.

    Raises RuntimeError with the last line of its output if it ends or is not ready within `timeout` seconds.
    """
    command = contender.command(options)
    variables = {"OMP_NUM_THREADS": str(options.threads), **contender.variables, **machine.restricted_to(kernels)}
    url = f"http://127.0.0.1:{options.port}/v1"
    with TemporaryFile("w+") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **processes.QUIET, **variables},
            start_new_session=True,
        )
        try:
            while not _is_ready(url):
                if process.poll() is not None or time.monotonic() - began > timeout:
                    output.seek(0)
                    lines = [line.strip() for line in output if line.strip()] or ["no output"]
                    raise RuntimeError(f"not ready after {time.monotonic() - began:.0f} s: {lines[-1][:200]}")
                time.sleep(0.1)
            yield RunningServer(url, process.pid, time.monotonic() - began)
        finally:
            _terminate(process)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Terminates the server's process group: a server may have child processes."""
    for how, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(process.pid, how)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
