"""Log file, curves and data mixture of a run. Knows numbers and text; no model and no tokenizer."""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift import html_page
from swift.chat import Sample

LOG = "logging.jsonl"
Points = list[tuple[float, float]]

CURVES = {
    "train_loss": "loss",
    "eval_loss": "eval_loss",
    "eval_acc": "eval_acc",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens_per_second": "tokens_per_second",
    **{
        f"{prefix}reward_{title}": f"{prefix}rewards/{key}"
        for prefix in ("", "eval_")
        for title, key in (
            *(("accuracy", "accuracies"), ("margin", "margins")),
            *(("of_chosen", "chosen"), ("of_rejected", "rejected")),
        )
    },
    "divergence": "kl",
}
"""Title of a curve -> key of the log lines."""


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
            lines = [line for line in read_log(self.folder) if line["step"] <= state.global_step]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (self.folder / LOG).write_text(text, encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                line = {"step": state.global_step, **(logs or {}), "time": round(time.time(), 2)}
                file.write(json.dumps(line) + "\n")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            draw(curves(state.log_history), self.folder / "images")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The log lines of a run's folder, without an incomplete line of a killed run."""
    path = folder / LOG
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def curves(history: Iterable[Mapping[str, float]]) -> dict[str, Points]:
    """Title -> (step, value) points, for the keys in the log lines."""
    lines = list(history)
    found = {title: [(line["step"], line[key]) for line in lines if key in line] for title, key in CURVES.items()}
    return {title: points for title, points in found.items() if points}


def draw(lines: Mapping[str, Points], folder: Path) -> None:
    """Writes one PNG for each curve."""
    folder.mkdir(parents=True, exist_ok=True)
    for title, points in lines.items():
        (folder / f"{title}.png").write_bytes(_picture({title: points}))


def _picture(lines: Mapping[str, Points], kind: str = "png") -> bytes:
    from matplotlib.figure import Figure  # half a second to import, and only needed when a run ends

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for title, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, linewidth=1.2, label=title)
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=120)
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


def abbreviate(pieces: Iterable[tuple[str, float]], keep: int = 60) -> str:
    """A rendered row, abbreviated: the middle of untrained text is cut; weights other than 1 are named."""
    return "".join(_abbreviated(text, weight, keep) for text, weight in pieces)


def _abbreviated(text: str, weight: float, keep: int) -> str:
    note = f"[... {len(text) - 2 * keep} characters, not trained ...]"
    if weight == 0 and len(text) > 2 * keep + len(note):
        return f"{text[:keep]}{note}{text[-keep:]}"
    return text if weight in (0, 1) else f"[x{weight:g}: {text}]"


def chart(lines: Mapping[str, Points]) -> str:
    """Curves on shared axes, as an inline image of a page."""
    return html_page.picture(_picture(lines), ", ".join(lines))
