"""Measures one way to answer prompts, in a process of its own; prints a JSON object a line.

    python benchmarks/drive.py JOB

Started by serve_speed.py in the Python of a peer. JOB is a JSON object: see `Job`.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any, NamedTuple

import drivers
import machine

PREFILL = 512
"""Tokens of the prompt whose processing is timed alone."""


class Job(NamedTuple):
    """`streams`: how many prompts arrive together, for each measurement. `prompt`, `new`: tokens of one request.
    `clock`: wall, or cpu for the process's own seconds. `requests`: see `drive_own`."""

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


def tell(measure: str, value: float) -> None:
    print(json.dumps({"measure": measure, "value": value}), flush=True)


def drive(job: Job) -> None:
    draw = random.Random(0)

    def took(streams: int, length: int, new: int) -> float:
        prompts = [draw.choices(drivers.VOCABULARY, k=length) for _ in range(streams)]
        began = job.seconds()
        generate(prompts, new)
        return job.seconds() - began

    setup = drivers.Setup(
        model=job.model,
        bits=job.bits,
        threads=job.threads,
        streams=max(job.streams),
        context=max(2048, job.prompt + job.new),
    )
    generate = drivers.DRIVERS[job.peer](setup)
    took(1, 8, 1)
    tell("ready", time.time())
    took(min(2, max(job.streams)), job.prompt, 4)
    for streams in job.streams:
        tell(str(streams), streams * job.new / took(streams, job.prompt, job.new))
    tell("prefill", PREFILL / min(took(1, PREFILL, 1) for _ in range(3)))
    tell("peak", machine.peak_gib())


def main() -> None:
    given: dict[str, Any] = json.loads(sys.argv[1])
    job = Job(**{**given, "streams": tuple(given["streams"])})
    if job.peer == "own":
        import drive_own

        drive_own.drive(job)
    else:
        drive(job)


if __name__ == "__main__":
    main()
