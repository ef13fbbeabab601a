"""Measures one inference engine, in a process of its own; prints one JSON object per line.

    python benchmarks/measure_engine.py JOB

serve_speed.py starts it in the Python of a peer. JOB is a JSON object: see `Job`.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any, NamedTuple

import engines
import machine

PREFILL = 512
"""Tokens of the prompt whose prefill is timed by itself."""


class Job(NamedTuple):
    """`streams`: numbers of concurrent requests to measure. `prompt`, `new`: tokens of one request. `clock`: wall, or
    cpu for the CPU time of the process. `requests`: see `measure_swift`."""

    peer: str
    model: str
    bits: int
    threads: int
    streams: tuple[int, ...]
    prompt: int
    new: int
    clock: str
    requests: int

    def seconds(self) -> float:
        return time.process_time() if self.clock == "cpu" else time.monotonic()


def report(measure: str, value: float) -> None:
    print(json.dumps({"measure": measure, "value": value}), flush=True)


def measure(job: Job) -> None:
    rng = random.Random(0)

    def elapsed(streams: int, length: int, new: int) -> float:
        prompts = [rng.choices(engines.VOCABULARY, k=length) for _ in range(streams)]
        began = job.seconds()
        generate(prompts, new)
        return job.seconds() - began

    setup = engines.Setup(
        model=job.model,
        bits=job.bits,
        threads=job.threads,
        streams=max(job.streams),
        context=max(2048, job.prompt + job.new),
    )
    generate = engines.ENGINES[job.peer](setup)
    elapsed(1, 8, 1)
    report("ready", time.time())
    elapsed(min(2, max(job.streams)), job.prompt, 4)
    for streams in job.streams:
        report(str(streams), streams * job.new / elapsed(streams, job.prompt, job.new))
    report("prefill", PREFILL / min(elapsed(1, PREFILL, 1) for _ in range(3)))
    report("peak", machine.peak_gib())


def main() -> None:
    given: dict[str, Any] = json.loads(sys.argv[1])
    job = Job(**{**given, "streams": tuple(given["streams"])})
    if job.peer == "own":
        import measure_swift

        measure_swift.measure(job)
    else:
        measure(job)


if __name__ == "__main__":
    main()
