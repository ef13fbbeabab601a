"""Log file, curves and data mixture of a run. Knows numbers and text; no model and no tokenizer."""

from __future__ import annotations

import io
import json
import math
import resource
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift.chat import Sample
from swift.runs import history
from swift.runs.history import Points

BINS = 24
"""Of the histogram of lengths, at most."""


def peak_memory() -> int:
    """Peak memory of this process in bytes: of the GPU if there is one, else of main memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class WriteLog(TrainerCallback):  # type: ignore[misc]
    """Appends every log line to `logging.jsonl`, and draws the curves when the run ends.

    Lines have the time at which they were logged, in seconds since 1970. A resumed run
    first drops the lines after its checkpoint's step, which will be logged again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            lines = [line for line in history.read(self.folder) if line["step"] <= state.global_step]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (self.folder / history.FILE).write_text(text, encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero:
            with (self.folder / history.FILE).open("a", encoding="utf-8") as file:
                line = {"step": state.global_step, **(logs or {}), "time": round(time.time(), 2)}
                file.write(json.dumps(line) + "\n")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            draw(history.curves(state.log_history), self.folder / "images")


def draw(lines: Mapping[str, Points], folder: Path) -> None:
    """Writes one PNG for each curve."""
    folder.mkdir(parents=True, exist_ok=True)
    for title, points in lines.items():
        (folder / f"{title}.png").write_bytes(_picture({title: points}))


def _picture(lines: Mapping[str, Points]) -> bytes:
    from matplotlib.figure import Figure  # half a second to import, and only needed when a run ends

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for title, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, linewidth=1.2, label=title)
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


# --- the mixture ---


class Share(NamedTuple):
    """The part of one source. A dialogue whose chat template rewrites earlier rounds becomes several samples."""

    rows: int = 0
    samples: int = 0
    tokens: int = 0
    trained_tokens: int = 0

    def plus(self, sample: Sample) -> Share:
        # the first token of a row is never predicted
        trained = sum(weight != 0 for weight in sample.weights[1:])
        return Share(self.rows, self.samples + 1, self.tokens + len(sample.tokens), self.trained_tokens + trained)

    @property
    def counted(self) -> str:
        """The number of rows, and of samples if it differs."""
        return counted(self.rows, self.samples)


def counted(rows: int, samples: int) -> str:
    return f"{rows:,} rows" + (f" ({samples:,} samples)" if samples != rows else "")


def mixture(samples: Iterable[Sample], rows: Mapping[str, int]) -> dict[str, Share]:
    """Source -> its share of one epoch. `rows`: the number of rows of each source."""
    found: dict[str, Share] = {}
    for sample in samples:
        found[sample.source] = found.get(sample.source, Share(rows[sample.source])).plus(sample)
    return found


def total(shares: Mapping[str, Share]) -> Share:
    return Share(*(sum(column) for column in zip(*shares.values(), strict=True))) if shares else Share()


Piece = tuple[str, float]
"""A part of a rendered row and the weight of its tokens."""


def abbreviated(pieces: Iterable[Piece], keep: int = 60) -> list[Piece]:
    """A rendered row whose untrained text is cut in its middle."""
    return [(_cut(text, keep) if weight == 0 else text, weight) for text, weight in pieces]


def abbreviate(pieces: Iterable[Piece], keep: int = 60) -> str:
    """The same as text."""
    return as_text(abbreviated(pieces, keep))


def as_text(pieces: Iterable[Piece]) -> str:
    """A rendered row in which weights other than 0 and 1 are named."""
    return "".join(text if weight in (0, 1) else f"[x{weight:g}: {text}]" for text, weight in pieces)


def _cut(text: str, keep: int) -> str:
    note = f"[... {len(text) - 2 * keep} characters, not trained ...]"
    return f"{text[:keep]}{note}{text[-keep:]}" if len(text) > 2 * keep + len(note) else text


def lengths(each: Sequence[int], trained_ends: int) -> dict[str, Any]:
    """Figures and a histogram of the lengths of samples in tokens. `trained_ends`: samples that train their last."""
    ordered = sorted(each)
    count = len(ordered)
    width = max(math.ceil((ordered[-1] + 1) / BINS), 1)
    counted = [0] * (ordered[-1] // width + 1)
    for length in ordered:
        counted[length // width] += 1
    return {
        "samples": count,
        "median": ordered[count // 2],
        "p95": ordered[min(count * 95 // 100, count - 1)],
        "longest": ordered[-1],
        "bin": width,
        "counts": counted,
        "trained_ends": trained_ends,
    }
