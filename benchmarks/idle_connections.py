"""How long others wait while thousands of connections send nothing: a `swift deploy` of the bundled model.

    python benchmarks/idle_connections.py                    # 10,000 connections, or as many as ulimit -n allows
    python benchmarks/idle_connections.py --connections 500 --files 256     # more than the server may hold

Prints the waits for /health before and meanwhile, the server's memory, and how many connections it kept open.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=0, help="the server's limit of open files; 0: this process's")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--asks", type=int, default=100, help="requests that are measured")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(options.connections, hard - 100)
    with served(options.model, options.files) as (process, port):
        print(f"{'':24}{'median':>10}{'longest':>10}{'memory':>10}")
        tell("no other connection", process, waits(port, options.asks))
        began = time.perf_counter()
        silent = []
        for _ in range(count):
            silent.append(socket.create_connection(("127.0.0.1", port), timeout=60))
            if len(silent) % 100 == 0:  # others ask while the connections are made
                waits(port, 1)
        took = time.perf_counter() - began
        closed = sum(map(is_closed, silent))
        tell(f"{count} connections", process, waits(port, options.asks))
        print(f"made in {took:.1f} s; the server had closed {closed} of them by then")
        for each in silent:
            each.close()


@contextlib.contextmanager
def served(model: str, files: int):  # type: ignore[no-untyped-def]
    def limit() -> None:
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    command = [sys.executable, "-m", "swift.cli", "deploy", "--model_type", model, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=limit)
    try:
        assert process.stdout
        ready = next(line for line in process.stdout if "ready at" in line)
        yield process, int(ready.split(":")[-1].removesuffix("/v1\n"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def waits(port: int, asks: int) -> list[float]:
    """Seconds for /health, each on a connection of its own."""
    found = []
    for _ in range(asks):
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as asking:
            asking.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in asking.recv(4096)
        found.append(time.perf_counter() - began)
    return found


def tell(what: str, process: subprocess.Popen[str], found: list[float]) -> None:
    memory = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
    print(f"{what:24}{statistics.median(found) * 1000:7.1f} ms{max(found) * 1000:7.1f} ms{memory >> 20:7d} MB")


def is_closed(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


if __name__ == "__main__":
    main()
