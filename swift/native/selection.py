"""Chooses the fastest kernels for a kind of work by measuring them once. Knows no model.

Like FFTW's wisdom and cuDNN's benchmark mode: candidates are timed in rounds, the choice is stored in a file for the
processor, the versions and the shapes it was made for, and later runs read it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from swift.native import processor
from swift.system.atomic_write import atomic_file
from swift.system.cache import cache_root
from swift.system.progress import working

SMALL = 16_000_000
"""Weights of all layers below which nothing is measured: such a model is fast with any kernels."""
MARGIN = 1.05
"""How many times faster kernels must be than the first candidate to be chosen, so that noise decides nothing."""
BUDGET = 1.0
"""About the seconds that all timings take together; each candidate does each work at least twice."""
ROUNDS = 7
"""The most times that a candidate does a work."""
HOPELESS = 4.0
"""Kernels that are slower than the fastest by this factor are not timed again."""

Works = Mapping[str, Callable[[], object]]
"""Name of a kind of work -> a function that does it once."""


class Selection(NamedTuple):
    """`seconds`: kernels -> kind of work -> seconds; empty if nothing was measured. `how`: the reason in words."""

    kernels: str
    how: str
    seconds: Mapping[str, Mapping[str, float]]


def candidates(torch_too: bool) -> tuple[str, ...]:
    """The two most capable instruction sets of the processor, and torch's functions where they may be faster."""
    return (*processor.sets()[:2], *([processor.TORCH] if torch_too else []))


def unmeasured(weights: int) -> Selection | None:
    """The choice where nothing needs to be measured, else None. `weights`: their number in the model's layers.

    Raises ValueError where SWIFT_KERNELS is wrong.
    """
    if forced := processor.forced():
        return Selection(forced, f"{processor.VARIABLE} says so", {})
    return Selection(processor.sets()[0], "the model is small", {}) if weights < SMALL else None


def select(
    about: Mapping[str, object], candidates: Sequence[str], works: Callable[[str], Works], again: bool = False
) -> Selection:
    """The candidate that is fastest over all kinds of work (geometric mean), or the first unless one is by `MARGIN`.

    `about`: all that the choice depends on, as JSON values. `works` prepares a candidate; it may raise
    RuntimeError for one that does not run. `again` measures though a choice is remembered. Processes that ask at the
    same time measure one behind the other, and those that come later read what the first has found.
    """
    if len(candidates) == 1:
        return Selection(candidates[0], "there is no other", {})
    file = _file(about)
    with _locked(file):
        if not again and (found := _read(file, candidates)):
            return found
        with working("time kernels for this processor (once)"):
            seconds = measured(candidates, works)
        made = Selection(_quickest(candidates, seconds), time.strftime("measured on %Y-%m-%d"), seconds)
        text = json.dumps({**made._asdict(), "about": about, "candidates": list(candidates)}, indent=2)
        with atomic_file(file) as written:
            written.write_text(text + "\n", encoding="utf-8")
    return made


def _file(about: Mapping[str, object]) -> Path:
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_root() / "native"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"selection-{key}.json"


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(file: Path, candidates: Sequence[str]) -> Selection | None:
    """A stored choice among the same candidates; None where there is no file, or no valid one."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["candidates"] != list(candidates) or held["kernels"] not in candidates:
            return None
        return Selection(held["kernels"], held["how"], held["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measured(
    candidates: Sequence[str], works: Callable[[str], Works], budget: float = BUDGET
) -> dict[str, dict[str, float]]:
    """The least seconds of each work by each candidate that runs; candidates take turns, so a busy moment hits all."""
    ready: dict[str, Works] = {}
    for kernels in candidates:
        try:
            ready[kernels] = works(kernels)
        except RuntimeError:
            continue
    found: dict[str, dict[str, float]] = {kernels: {} for kernels in ready}
    kinds = list(next(iter(ready.values()), {}))
    for work in kinds:
        for kernels, of in ready.items():
            of[work]()  # the first call allocates; it is not timed
            found[kernels][work] = _timed(of[work])
        best = min(seconds[work] for seconds in found.values())
        hopeful = [kernels for kernels in ready if found[kernels][work] < HOPELESS * best]
        round_seconds = sum(found[kernels][work] for kernels in hopeful)
        for _ in range(min(ROUNDS, int(budget / len(kinds) / round_seconds))):
            for kernels in hopeful:
                found[kernels][work] = min(found[kernels][work], _timed(ready[kernels][work]))
    return found


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _quickest(candidates: Sequence[str], seconds: Mapping[str, Mapping[str, float]]) -> str:
    """By the geometric mean of how many times longer than the best each work takes."""

    def slower(kernels: str) -> float:
        logs = [math.log(took) for took in seconds[kernels].values()]
        return sum(logs) / max(len(logs), 1)

    timed = [kernels for kernels in candidates if kernels in seconds]
    if not timed:
        return candidates[0]
    best = min(timed, key=slower)
    return best if slower(timed[0]) - slower(best) > math.log(MARGIN) else timed[0]
