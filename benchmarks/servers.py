"""Servers under load: how each is started, whether it is ready, and the memory that it took."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
"""Memory for keys and values of those that are told how much."""


class Asked(NamedTuple):
    """What every server is started for. `streams`: the most requests that it answers together."""

    shape: str
    cache: Path
    port: int
    threads: int
    streams: int


class Contender(NamedTuple):
    """`command`: its command line. `variables`: of its environment."""

    peer: str
    command: Callable[[Asked], list[str]]
    variables: Mapping[str, str] = {}


class Running(NamedTuple):
    url: str
    pid: int
    ready_s: float

    @property
    def peak_gib(self) -> float:
        return machine.tree_peak_gib(self.pid)


def swift(bits: int) -> Callable[[Asked], list[str]]:
    def command(asked: Asked) -> list[str]:
        flags = f"""--model_id_or_path {shapes.folder(asked.shape, asked.cache)} --dtype bf16 --port {asked.port}
            --quantization_bit {bits} --quant_method torch --max_batch {asked.streams} --template_type AUTO"""
        return [sys.executable, "-m", "swift.cli", "deploy", *flags.split()]

    return command


def vllm(asked: Asked) -> list[str]:
    flags = f"""--model {shapes.folder(asked.shape, asked.cache)} --dtype bfloat16 --port {asked.port} --host 127.0.0.1
        --max-model-len {CONTEXT} --max-num-seqs {asked.streams}"""
    return [str(environments.python("vllm", asked.cache)), str(HERE / "vllm_server.py"), *flags.split()]


def openvino(kind: str) -> Callable[[Asked], list[str]]:
    def command(asked: Asked) -> list[str]:
        python = environments.python("openvino", asked.cache)
        model = shapes.gguf(asked.shape, kind, asked.cache)
        tokenizer = shapes.folder(asked.shape, asked.cache) / "tokenizer.json"
        flags = f"""--tokenizer {tokenizer} --port {asked.port} --streams {asked.streams} --threads {asked.threads}
            --cache_gib {CACHE_GIB}"""
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


@contextmanager
def running(contender: Contender, asked: Asked, kernels: str | None, timeout: float) -> Iterator[Running]:
    """The server from its start until the end of the block; then it and what it started are ended.

    Raises RuntimeError with the last line of its output where it ends or is not ready within `timeout` seconds.
    """
    command = contender.command(asked)
    variables = {"OMP_NUM_THREADS": str(asked.threads), **contender.variables, **machine.held_to(kernels)}
    url = f"http://127.0.0.1:{asked.port}/v1"
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
            while not _answers(url):
                if process.poll() is not None or time.monotonic() - began > timeout:
                    output.seek(0)
                    lines = [line.strip() for line in output if line.strip()] or ["no output"]
                    raise RuntimeError(f"not ready after {time.monotonic() - began:.0f} s: {lines[-1][:200]}")
                time.sleep(0.1)
            yield Running(url, process.pid, time.monotonic() - began)
        finally:
            _end(process)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group that the server leads: a server may have processes of its own."""
    for how, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(process.pid, how)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
