"""Teach a model your own tools: make questions for them, train on them, measure before and after."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from swift import flags
from swift.flags import flag

if TYPE_CHECKING:
    from swift.assembly.taught_base import Base

ROWS = (200, 8000)
"""Least and most conversations that are made for the time that is there."""
TRAINING = 0.65
"""Share of --minutes for training; the rest is for measuring twice, making questions and loading."""
ROWS_PER_STEP = 16
"""Most of them offer all tools: a step computes those descriptions once."""
MOST_INVENTED = 4
"""Most invented functions in a conversation."""
ROUNDS = ("--one_round_share", "0.2", "--max_rounds", "6")
"""Rounds of a conversation: the more it has, the more questions share the descriptions of the tools."""
KINDS = {
    "one": 0.46,
    "parallel_same": 0.06,
    "parallel_several": 0.07,
    "sequential": 0,
    "missing": 0.05,
    "no_tool": 0.22,
    "plain": 0.05,
    "talk": 0.02,
    "error": 0.02,
    "follow_up": 0.05,
}
"""Kind of round -> its share: mostly one call, since which tool a question means is what is to be learned."""
PROBE = 60
"""Conversations whose tokens are counted, to estimate how many fit into the time and how long they get."""
LENGTH = 2048
"""Least maximum of a conversation's tokens."""
RATES = (1e-3, 2e-3)
"""Learning rates for a model without a tool-call format of its own, and for one that was trained for tools."""


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift teach --tools my_tools.py --minutes 30 --output_dir output/my_agent"

    tools: tuple[str, ...] = flag((), commas=True)
    """Your tools: Python files, OpenAPI documents (files or URLs), or JSON files of descriptions in OpenAI's format;
    nothing calls them here"""
    mcp: tuple[str, ...] = flag(())
    """MCP servers whose tools to teach: command lines, each in quotes, or URLs"""
    tool_filter: tuple[str, ...] = flag((), commas=True)
    """Names of the tools to keep; * and ? match any text and any character"""
    tool_base_url: str | None = None
    """Base URL of an OpenAPI document that names none"""
    examples: str | None = None
    """JSON lines with your own questions: {"tool": ..., "question": ..., "arguments": {...}}"""
    base: str = flag("AUTO", alias=("model", "model_id_or_path"))
    """Model to start from: a registered name, hub id, model folder or LoRA checkpoint; AUTO takes
    smollm2-135m-agent, or smollm2-135m-instruct where that is not available"""
    minutes: float = 30.0
    """Time for everything, in minutes; it determines the number of conversations, by the speed of this machine"""
    rows: int | None = flag(None, alias=("n",))
    """Number of conversations, overriding the estimate; training then takes as long as it takes"""
    own_share: float = 0.9
    """Share of the conversations with your tools; the others keep what the model knows of tools in general"""
    eval_rows: int = 100
    """Number of questions to measure with, in phrasings that training leaves out"""
    output_dir: str = "output/taught"
    """Folder for the data, the adapter, the answers and the summary page"""
    template_type: str = flag("AUTO", alias=("template",))
    """Chat template; AUTO selects the model's"""
    agent_template: str = "AUTO"
    """Tool-call format; AUTO keeps the model's own, or takes hermes for a model without one"""
    learning_rate: float | None = None
    """Peak learning rate; none means 1e-3 for a model without a tool-call format of its own, else 2e-3"""
    max_length: int | None = None
    """Maximum tokens of a conversation; none means enough for nearly all: a quarter more than the longest of 60, at
    least 2048"""
    seed: int = 42
    """Seed of the conversations, the order of the rows and the initial weights"""

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        if not (self.tools or self.mcp):
            raise ValueError("swift teach needs --tools or --mcp: the tools to teach")
        if not self.minutes > 0:
            raise ValueError(f"--minutes {self.minutes:g}: must be above 0")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"--rows {self.rows}: must be 1 or more")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"--max_length {self.max_length}: must be 1 or more")
        if self.eval_rows < 1:
            raise ValueError(f"--eval_rows {self.eval_rows}: must be 1 or more")
        if not 0 < self.own_share <= 1:
            raise ValueError(f"--own_share {self.own_share:g}: must be a share above 0, at most 1")


class Files(NamedTuple):
    """What a run leaves in its folder."""

    train: Path
    held_out: Path
    adapter: Path
    before: Path
    after: Path
    page: Path
    summary: Path


def main(cfg: Config) -> dict[str, Any]:
    """Returns the content of `summary.json`."""
    from swift.assembly.taught_base import base

    began = time.perf_counter()
    folder = Path(cfg.output_dir).expanduser()
    files = Files(*(folder / name for name in (
        "train.jsonl", "held_out.jsonl", "adapter", "before", "after", "summary.html", "summary.json"
    )))  # fmt: skip
    if taken := next((path for path in files if path.exists()), None):
        raise ValueError(f"--output_dir {cfg.output_dir}: {taken.name} of another run is there: choose another folder")
    found = base(cfg.base, cfg.template_type, cfg.agent_template)
    commands: list[str] = []
    with _step("1. Questions for your tools"):
        _run(commands, "data", "synth", *_synth(cfg, "held_out", cfg.eval_rows, files.held_out))
        probed = _probe(cfg, found)
        rows = cfg.rows or _rows_for(cfg, found, probed)
        _run(commands, "data", "synth", *_synth(cfg, "train", rows, files.train))
    asked = ("--tasks", "calls", "--dataset", str(files.held_out))
    every_call = ("--min_confidence", "0")
    with _step("2. Before training"):
        _run(commands, "eval", *found.asked, *asked, *every_call, "--report", str(files.before))
    with _step("3. Training"):
        trained = _run(commands, "sft", *found.trained, *_training(cfg, found, files, rows, probed.max_length))
    # not the one with the least held-out loss: a handful of held-out rows does not tell checkpoints apart
    last = Path(trained["last_model_checkpoint"])
    words = ("--ckpt_dir", str(last), *asked, "--compare", str(files.before), "--report", str(files.after))
    with _step("4. After training"):
        _run(commands, "eval", *words, *every_call)
        _calibrate(commands, words, files.after, found.folder, last)
    summary = {
        "base": found.name,
        "checkpoint": str(last),
        "rows": rows,
        "before": _figures(files.before),
        "after": _figures(files.after),
        "training": {name: value for name, value in trained.items() if name != "log_history"},
        "commands": commands,
        "seconds": round(time.perf_counter() - began, 1),
    }
    files.summary.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _write_page(files, summary, trained["log_history"])
    _say_end(cfg, files, summary, last)
    return summary


@contextmanager
def _step(title: str) -> Iterator[None]:
    began = time.perf_counter()
    print(f"\n--- {title} ---", flush=True)
    yield
    print(f"({time.perf_counter() - began:.0f} s)", flush=True)


def _run(commands: list[str], verb: str, *words: str) -> Any:
    """Prints a command and runs it in this process. Returns what its `main` returns."""
    from swift.system import invocation

    commands.append(invocation.command(verb, *words))
    print(f"$ {commands[-1]}", flush=True)
    module = importlib.import_module(f"swift.commands.{verb}")
    if verb == "data":
        return module.run(words)
    parsed = flags.parse(module.Config, words, prog=f"swift {verb}")
    return module.main(parsed.config, parsed.given) if verb == "eval" else module.main(parsed.config)


# --- the steps ------------------------------------------------------------------------------------------------------


def _sources(cfg: Config) -> Iterator[str]:
    """The words that name the tools, for every command."""
    for name, given in (("tools", cfg.tools), ("mcp", cfg.mcp), ("tool_filter", cfg.tool_filter)):
        if given:
            yield from (f"--{name}", *given)
    if cfg.tool_base_url:
        yield from ("--tool_base_url", cfg.tool_base_url)


def _synth(cfg: Config, phrasings: str, rows: int, out: Path) -> Iterator[str]:
    """The words of `swift data synth`: for training, or for questions in phrasings that it leaves out."""
    yield from _sources(cfg)
    if cfg.examples:
        yield from ("--examples", cfg.examples)
    yield from ("--rows", str(rows), "--phrasings", phrasings, "--text_share", "0")
    if phrasings == "held_out":
        yield from ("--own_share", "1", "--functions", "held_out", "--seed", str(cfg.seed + 1))
    else:
        # conversations with many tools are long, and the user's tools are a choice among many already
        yield from (
            "--own_share",
            f"{cfg.own_share:g}",
            "--max_tools_offered",
            str(MOST_INVENTED),
            *ROUNDS,
            "--kinds",
            json.dumps(KINDS),
            "--seed",
            str(cfg.seed),
        )
    yield from ("--out", str(out))


class _Probed(NamedTuple):
    """Conversations like those of the training, in tokens. `computed`: of one, beside those that others of its step
    have too."""

    max_length: int
    computed: float


def _probe(cfg: Config, found: Base) -> _Probed:
    """Makes some conversations. Warns of a --max_length that drops some; raises ValueError for one that drops all."""
    import tempfile

    from swift.assembly import synthesis
    from swift.commands import data
    from swift.data.linting import Report, checked
    from swift.data.sources import resolve
    from swift.template.truncation import truncate
    from swift.train import prefixes

    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.jsonl"
        parsed = flags.parse(data.Synth, list(_synth(cfg, "train", PROBE, probe)), prog="swift data synth").config
        synthesis.write(parsed.tools, parsed.synth, probe, lambda line: None)
        rows = list(checked(resolve(str(probe)), "warning", Report(), print))
    made = [each.sample for row in rows for each in truncate(found.renderer, row, sys.maxsize, "delete")]
    lengths = [len(each.tokens) for each in made if each]
    most = cfg.max_length or max(LENGTH, -(-5 * max(lengths) // 4 // 128) * 128)
    samples = [each for each in made if each and len(each.tokens) <= most]
    if not samples:
        raise ValueError(
            f"--max_length {most}: no conversation fits, the shortest has {min(lengths):,} tokens: offer fewer tools, "
            "or raise it"
        )
    if dropped := len(lengths) - len(samples):
        print(
            f"warning: --max_length {most}: {dropped} of {len(lengths)} conversations are longer, up to "
            f"{max(lengths):,} tokens; such are dropped"
        )
    share = prefixes.computed_share(samples, ROWS_PER_STEP)
    return _Probed(most, share * sum(len(each.tokens) for each in samples) / len(samples))


def _rows_for(cfg: Config, found: Base, probed: _Probed) -> int:
    """The number of conversations that fit into the time, from the speed of this machine."""
    from swift.assembly.training_speed import tokens_per_second

    speed = tokens_per_second(found.source)
    count = int(TRAINING * cfg.minutes * 60 * speed / probed.computed)
    rows = max(ROWS[0], min(ROWS[1], count))
    print(
        f"this machine trains on about {speed:,.0f} tokens/s, a conversation has {probed.computed:,.0f} "
        f"beside those that others have too: {rows:,} conversations"
    )
    if rows > count:
        print(f"warning: {ROWS[0]} conversations are the least: training stops when its share of --minutes is over")
    return rows


def _training(cfg: Config, found: Base, files: Files, rows: int, max_length: int) -> Iterator[str]:
    """The words of `swift sft`."""
    rate = cfg.learning_rate or RATES[found.knows_tools]
    evaluations = max(1, rows // ROWS_PER_STEP // 4)
    yield from ("--dataset", str(files.train), "--output_dir", str(files.adapter), "--add_output_dir_suffix", "false")
    if "--init_adapter" not in found.trained:
        yield from ("--lora_rank", "8", "--lora_alpha", "32", "--lora_dropout_p", "0", "--lora_target_modules", "ALL")
    yield from ("--learning_rate", f"{rate:g}", "--lr_scheduler_type", "cosine", "--max_grad_norm", "1")
    yield from (
        "--batch_size",
        "2",
        "--gradient_accumulation_steps",
        str(ROWS_PER_STEP // 2),
        "--num_train_epochs",
        "1",
    )
    yield from ("--max_length", str(max_length), "--dataset_test_ratio", "0.02", "--eval_steps", str(evaluations))
    if cfg.rows is None:
        yield from ("--max_minutes", f"{1.15 * TRAINING * cfg.minutes:.3g}")
    yield from ("--seed", str(cfg.seed))


def _calibrate(commands: list[str], words: Sequence[str], answers: Path, base: Path, checkpoint: Path) -> None:
    """Keeps the calibration of confidence with the checkpoint, from the answers that are there.

    They are few and in the words of a grammar, so the minimum confidence of the base stays the least. Where they are
    too few, the base's calibration is kept.
    """
    from swift.eval import calibration, results
    from swift.infer import calibration_file

    rated = results.rated(results.load(answers).tasks)
    found = calibration.report(rated) if rated else None
    kept = calibration_file.read_calibration(base)
    if found is None or found.fitted is None:
        print(f"not calibrated: {found.reason if found else 'no answer has a call'}")
        if kept:
            shutil.copy(base / calibration_file.NAME, checkpoint)
            print(f"the calibration of the base is kept, with its minimum confidence {kept.min_confidence:g}")
        return
    least = ("--min_confidence", f"{kept.min_confidence:g}") if kept and kept.min_confidence else ()
    _run(commands, "eval", *words, "--calibrate", "true", *least)


# --- the report -----------------------------------------------------------------------------------------------------


def _figures(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Group of questions -> metric -> [mean, low, high, questions], from the answers in a folder."""
    from swift.eval import figures, results

    found: dict[str, dict[str, list[float]]] = {}
    for task in results.load(folder).tasks:
        for each in figures.figures(task):
            value = each.value
            found.setdefault(each.group, {})[each.metric] = [value.mean, value.low, value.high, value.n]
    return found


def _shares(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(group of questions, number, before, after) for exact calls."""
    rows = []
    for group, after in summary["after"].items():
        before = summary["before"].get(group, {}).get("exact")
        mean, low, high, count = after["exact"]
        shown = f"{before[0]:.0%} ({before[1]:.0%} to {before[2]:.0%})" if before else ""
        rows.append((group, f"{count:.0f}", shown, f"{mean:.0%} ({low:.0%} to {high:.0%})"))
    return rows


def _write_page(files: Files, summary: Mapping[str, Any], history: Sequence[dict[str, Any]]) -> None:
    from swift.assembly import taught_page
    from swift.eval import results

    page = taught_page.page(summary, results.load(files.after), history)
    files.page.write_text(page, encoding="utf-8", errors="replace")


def _say_end(cfg: Config, files: Files, summary: Mapping[str, Any], last: Path) -> None:
    from swift.system import invocation

    print(f"\nexact calls in held-out phrasings of your tools ({summary['seconds'] / 60:.0f} minutes in all):")
    for group, count, before, after in _shares(summary):
        print(f"  {group:<14} {count:>4} questions: {before} before, {after} after")
    print(f"report: {invocation.display_path(files.page)}, figures: {invocation.display_path(files.summary)}")
    talk = invocation.command("infer", "--ckpt_dir", last, *_sources(cfg))
    serve = invocation.command("deploy", "--ckpt_dir", last)
    print(f"talk to it:  {talk}\nserve it:    {serve}")
