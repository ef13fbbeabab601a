"""Let a model practise tool calls: it tries tasks with known answers, and its own successes train it further."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from swift import flags
from swift.assembly import practice_setup, practice_tasks
from swift.assembly.practice_run import Practice
from swift.assembly.practice_setup import Policy
from swift.flag_groups import ModelFlags, RoundFlags, TemplateFlags
from swift.flags import flag

if TYPE_CHECKING:
    from swift.practice.sampling import Tools


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift practice --ckpt_dir output/my_run/checkpoint-100 --minutes 30"
    most_used: ClassVar[tuple[str, ...]] = (
        "model_id_or_path",
        "ckpt_dir",
        "tasks",
        "held_out",
        "tools",
        "method",
        "rounds",
        "minutes",
        "samples",
        "output_dir",
    )

    model: ModelFlags = ModelFlags()
    template: TemplateFlags = TemplateFlags()
    training: RoundFlags = RoundFlags()
    ckpt_dir: str | None = flag(None, alias=("adapters",))
    """LoRA checkpoint that practises and is trained further; none begins a new adapter on the model"""
    tasks: str | None = None
    """JSON lines with tasks: {"messages" or "task", "tools", "check": {"calls", "answer", "state"}, "reply"}; none
    makes tasks from invented functions"""
    held_out: str | None = None
    """JSON lines with tasks that only measure; none holds out a fifth of --tasks, or whole domains of made tasks"""
    tools: tuple[str, ...] = flag((), commas=True)
    """Python files whose public functions the tasks may call; the calls really run"""
    tool_timeout: float = 30.0
    """Time limit of a call in seconds"""
    max_turns: int = 8
    """Maximum replies of a run with tools"""
    method: Literal["rft", "dpo"] = "rft"
    """rft trains on successes (swift sft), dpo on pairs of a success and a failure of one task (swift rlhf)"""
    rounds: int = 4
    """Maximum number of rounds; fewer where measuring them would take more than a third of --minutes"""
    minutes: float = 30.0
    """Time limit of this run; no round begins that would not fit"""
    tasks_per_round: int | None = None
    """Tasks of a round; none takes as many as fit into its time"""
    samples: int = 8
    """Attempts at each task"""
    held_out_tasks: int = 60
    """Held-out tasks to measure with"""
    temperature: float = 0.8
    """Sampling temperature of all attempts"""
    max_new_tokens: int = 256
    """Maximum tokens of a reply"""
    patience: int = 2
    """Rounds without a gain outside its interval after which practice ends"""
    general_loss_limit: float = 0.1
    """Nats per token by which the loss on general text may rise; a round beyond that is not kept"""
    max_batch: int = 16
    """Attempts at a time"""
    seed: int = 42
    """Seed of tasks, sampling and training"""
    output_dir: str | None = None
    """Folder with a subfolder for each round; the same command continues there. None means output/practice/MODEL"""

    def __post_init__(self) -> None:
        whole = ("max_turns", "rounds", "samples", "held_out_tasks", "max_new_tokens", "keep", "patience", "batch_size")
        values = {**vars(self), **vars(self.training)}
        for name in (*whole, "lora_rank", "max_batch", "tasks_per_round"):
            if values[name] is not None and values[name] < 1:
                raise ValueError(f"--{name} {values[name]}: must be 1 or more")
        for name in ("minutes", "temperature", "tool_timeout", "epochs"):
            if not 0 < values[name] < float("inf"):
                raise ValueError(f"--{name} {values[name]:g}: must be more than 0")
        if self.samples < 2:
            raise ValueError("--samples 1: a task that is solved sometimes needs at least 2 attempts")
        if not 0 <= self.training.always_share < 1:
            raise ValueError(f"--always_share {self.training.always_share:g}: must be 0 or more and below 1")
        if self.training.general_ratio < 0:
            raise ValueError(f"--general_ratio {self.training.general_ratio:g}: must be 0 or more")
        if self.tools and not self.tasks:
            raise ValueError("--tools needs --tasks: only you know which calls of your functions are right")
        if self.held_out and not self.tasks:
            raise ValueError("--held_out needs --tasks: made tasks are measured on domains of their own")


def run(argv: Sequence[str]) -> None:
    parsed = flags.parse(Config, argv, prog="swift practice")
    main(parsed.config, parsed.given)


def main(cfg: Config, given: Collection[str] = ()) -> dict[str, Any]:
    """Practises, prints each step, and returns the result, which the folder has as a page too."""
    from swift.practice import figures, record

    _refuse_unused(given, cfg)
    began = time.monotonic()
    policy = _policy(cfg, given)
    folder = _folder(cfg, policy)
    with _tools(cfg) as tools:
        pool, held_out = practice_tasks.read(cfg.tasks, cfg.held_out, cfg.held_out_tasks, cfg.seed, folder, tools)
        record.check_settings(folder, _settings(cfg))
        work = Practice(cfg, policy, folder, tools, pool, held_out, began, _train)
        rounds = [work.measure(record.Round(folder, 0), policy)]
        for number in range(1, cfg.rounds + 1):
            if reason := work.why_end(rounds):
                print(reason)
                break
            top = figures.best(rounds, cfg.general_loss_limit)
            made = work.round(record.Round(folder, number), work.policy_of(top), rounds, cfg.rounds - number + 1)
            if made is None:
                break
            rounds.append(made)
        return work.end(rounds)


def _train(words: Sequence[str | Path]) -> dict[str, Any]:
    """Runs the command that was printed, in this process."""
    from swift.commands import rlhf, sft

    verb, *rest = map(str, words)
    if verb == "sft":
        return sft.main(flags.parse(sft.Config, rest, prog="swift sft").config)
    return rlhf.main(flags.parse(rlhf.Config, rest, prog="swift rlhf").config)


# --- what is given ----------------------------------------------------------------------------------------------------


def _refuse_unused(given: Collection[str], cfg: Config) -> None:
    """Raises ValueError for flags without effect."""
    if cfg.method == "dpo" and "general_ratio" in given:
        raise ValueError("--general_ratio has no effect with --method dpo, whose rows are pairs")
    if cfg.ckpt_dir and "lora_rank" in given:
        raise ValueError("--lora_rank has no effect with --ckpt_dir, whose adapter is trained further")
    for name in ("tool_timeout", "max_turns"):
        if name in given and not cfg.tools:
            raise ValueError(f"--{name} has no effect without --tools")


def _policy(cfg: Config, given: Collection[str]) -> Policy:
    policy = Policy(cfg.model, cfg.template, cfg.ckpt_dir, cfg.max_batch, frozenset(given))
    practice_setup.check_adapter(policy)
    return policy


def _folder(cfg: Config, policy: Policy) -> Path:
    from swift.assembly import checkpoints
    from swift.assembly.preflight import writable

    name = checkpoints.name(policy.choice).replace("/", "-")
    folder = (Path(cfg.output_dir).expanduser() if cfg.output_dir else Path("output/practice") / name).absolute()
    writable(folder, "--output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _settings(cfg: Config) -> dict[str, Any]:
    """The flags that decide the result; a run that continues must have the same."""
    free = ("rounds", "minutes", "patience", "max_batch", "output_dir", "general_loss_limit", "device")
    return {name: value for name, value in flags.to_dict(cfg).items() if name not in free}


@contextmanager
def _tools(cfg: Config) -> Iterator[Tools | None]:
    if not cfg.tools:
        yield None
        return
    tools = practice_setup.open_tools(cfg.tools)
    try:
        yield tools
    finally:
        tools.close()
