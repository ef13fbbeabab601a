"""Resuming: which checkpoint, how its plan differs from this run's, and the command that resumes from one."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift import flags
from swift.assembly import checkpoints
from swift.flag_groups import LoraFlags, PreferenceFlags, TunerFlags
from swift.model.config_files import json_object

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from swift.chat import Sample
    from swift.train.steps import Steps

PLAN = "plan.json"
COMPARED = (
    *("model_type", "model_id_or_path", "sft_type", "max_length", "loss_scale", "agent_template", "seed"),
    *("enable_thinking", "chat_template_kwargs", "history_reasoning", "reasoning_weight", "template_date"),
    *("batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps"),
    *("learning_rate", "lr_scheduler_type", "warmup_ratio", "warmup_steps", "weight_decay", "max_grad_norm", "optim"),
    *(item.name for group in (LoraFlags, TunerFlags, PreferenceFlags) for item in flags.walk(group)),
)
"""Flags that affect the result of a run."""


def find(
    requested: str | None, runs: Path, versions: Mapping[int, Path], engine: str, say: Callable[[str], None]
) -> Path | None:
    """The checkpoint to resume from; None if `requested` is None.

    Raises ValueError if it is missing, incomplete, or of another engine.
    """
    from swift.train import checkpoint

    if requested is None:
        return None
    if requested != "newest":
        path = Path(requested).expanduser()
        if fault := checkpoint.fault(path):
            raise ValueError(f"--resume_from_checkpoint: {fault}")
        return _of_engine(path, engine)
    for number in sorted(versions, reverse=True):
        if found := checkpoint.newest(versions[number], say):
            say(f"resuming from {found}")
            return _of_engine(found, engine)
    raise ValueError(f"--resume_from_checkpoint: there is no complete checkpoint in {runs}")


def _of_engine(path: Path, engine: str) -> Path:
    from swift.train import checkpoint

    saved = checkpoint.engine_of(path)
    if saved != engine:
        said = f"was saved with --{saved}: add that flag" if saved else f"was saved without --{engine}: leave it out"
        raise ValueError(f"--resume_from_checkpoint: {path} {said}")
    return path.resolve()


# --- the plan of a run ----------------------------------------------------------------------------------------------


def plan(steps: Steps, samples: Sequence[Sample], streaming: bool) -> dict[str, Any]:
    """What a checkpoint records besides the flags, to detect a different run."""
    data = "" if streaming else _fingerprint(samples)
    return {"rows": steps.rows, "data": data, "world": steps.world, "steps": steps.total}


def _fingerprint(samples: Sequence[Sample]) -> str:
    """A hash of tokens, weights and labels, of lengths only for samples made on demand."""
    from swift.train.lazy_datasets import LazySamples, lengths

    found = hashlib.sha256(array("q", lengths(samples)).tobytes())
    if not isinstance(samples, LazySamples):
        for sample in samples:
            found.update(array("q", sample.tokens).tobytes())
            found.update(array("f", sample.weights).tobytes())
            if sample.judged is not None:
                found.update(bytes([sample.judged.label]))
    return found.hexdigest()[:16]


def recorded(checkpoint: Path | None) -> dict[str, Any]:
    """The flags and the plan that a checkpoint recorded; {} for None, or for a checkpoint of another program."""
    if checkpoint is None:
        return {}
    plan = checkpoint / PLAN
    return checkpoints.recorded(checkpoint) | (json_object(plan) if plan.is_file() else {})


def check(
    path: Path, before: Mapping[str, Any], now: Mapping[str, Any], steps: Steps, say: Callable[[str], None]
) -> None:
    """Reports how this run's plan differs from the checkpoint's. Raises ValueError if no step is left to train."""
    from transformers import TrainerState

    from swift.train import checkpoint

    done = TrainerState.load_from_json(str(path / checkpoint.STATE)).global_step
    differs = [
        name for name in (*COMPARED, "rows", "world", "data") if name in before and before[name] != now.get(name)
    ]
    for name in differs:
        if name == "data" and "rows" not in differs:
            say("resume: the rows or their tokens differ from the checkpoint's")
        elif name != "data":
            shown = {"rows": "the number of samples", "world": "the number of processes"}.get(name, f"--{name}")
            had, has = _text(before[name]), _text(now.get(name))
            say(f"resume: {shown} is {has}, the checkpoint's run had {had}")
    if done >= steps.total:
        raise ValueError(
            f"--resume_from_checkpoint: {path} is at step {done} of {steps.total}, so nothing is left to train: "
            f"give {_more_steps(steps, done)}, or leave out --resume_from_checkpoint"
        )
    if _order({**now, **before}) != _order(now):
        say("resume: the order of rows differs from the checkpoint's run, so some rows repeat and others are skipped")
    say(f"resume: {done:,} of {steps.total:,} steps are done")


def _more_steps(steps: Steps, done: int) -> str:
    if steps.max_steps > 0 or steps.rows is None:
        return f"--max_steps above {done}"
    return f"--num_train_epochs {max(done // steps.in_epoch, int(steps.epochs)) + 1}"


def _order(made: Mapping[str, Any]) -> tuple[object, ...]:
    """What determines the rows of each step."""
    rows_per_step = made["batch_size"] * made["gradient_accumulation_steps"] * made["world"]
    return made["seed"], made["rows"], made["data"], rows_per_step, made.get("group_by_prefix", False)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# --- the command that resumes ---------------------------------------------------------------------------------------


def how_to_resume(verb: str, cfg: DataclassInstance, saved: Path | None, env: Mapping[str, str] = os.environ) -> str:
    """The command that resumes an interrupted run, or why it cannot be resumed, in one line."""
    from swift.train import checkpoint

    if saved is None:
        return "nothing is saved yet: run the same command again"
    if fault := checkpoint.fault(saved):
        return f"cannot be resumed: {fault}"
    words = ["swift", verb, *flag_words(cfg), "--resume_from_checkpoint", str(saved)]
    processes, nodes = env.get("LOCAL_WORLD_SIZE", "1"), env.get("GROUP_WORLD_SIZE", "1")
    if nodes != "1":
        return f"to resume, add to the command of every node: --resume_from_checkpoint {shlex.quote(str(saved))}"
    return f"to resume: {f'NPROC_PER_NODE={processes} ' if processes != '1' else ''}{shlex.join(words)}"


def flag_words(cfg: DataclassInstance) -> list[str]:
    """The flags that differ from their defaults, as words of a command line."""
    default = {item.name: item.default for item in flags.walk(type(cfg))}
    words: list[str] = []
    for item in flags.walk(type(cfg), cfg):
        value = item.default
        if value == default[item.name] or value is None or item.name == "resume_from_checkpoint":
            continue
        if isinstance(value, dict):
            texts = [json.dumps(value, ensure_ascii=False)]
        elif isinstance(value, tuple):
            texts = [str(each) for each in value]
        else:
            texts = [str(value).lower() if isinstance(value, bool) else str(value)]
        words += [f"--{item.name}", *texts]
    return words
