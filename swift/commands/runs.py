"""List training runs, and show, follow, stop or resume one."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from swift import flags
from swift.flags import flag
from swift.runs import checkpoints, control, details, finding, log_file, record
from swift.runs.record import Run
from swift.system import invocation, terminal
from swift.system.durations import duration
from swift.system.nearest import nearest_path


@dataclass(frozen=True)
class Config:
    """List runs, the one that began last first."""

    example: ClassVar[str] = "swift runs"

    folders: tuple[str, ...] = flag((), positional=True)
    """Folders to search; none means the current folder and ./output"""
    json: bool = False
    """Print JSON"""


@dataclass(frozen=True)
class Show:
    """Show one run: state, figures, process, checkpoints, the exact command."""

    example: ClassVar[str] = "swift runs show v3"

    name: str = flag(positional=True)
    """Folder of the run, or the end of its path that no other run has, or the beginning of its last part"""
    folder: tuple[str, ...] = ()
    """Folders to search; none means the current folder and ./output"""
    json: bool = False
    """Print JSON"""


@dataclass(frozen=True)
class Log:
    """Print the lines that a run has printed."""

    example: ClassVar[str] = "swift runs log v3 --follow"

    name: str = flag(positional=True)
    """Folder of the run, or the end of its path that no other run has, or the beginning of its last part"""
    folder: tuple[str, ...] = ()
    """Folders to search; none means the current folder and ./output"""
    follow: bool = False
    """Print further lines as they come, until the run has ended"""
    lines: int | None = None
    """Print only this many of the last lines; none prints all"""


@dataclass(frozen=True)
class Stop:
    """Stop a run: it saves a checkpoint after its current step and ends."""

    example: ClassVar[str] = "swift runs stop v3"

    name: str = flag(positional=True)
    """Folder of the run, or the end of its path that no other run has, or the beginning of its last part"""
    folder: tuple[str, ...] = ()
    """Folders to search; none means the current folder and ./output"""
    now: bool = False
    """Kill its processes, and save nothing"""
    seconds: float = 600.0
    """Longest wait for its end"""


@dataclass(frozen=True)
class Resume:
    """Start the command of a run again in the background, from its last checkpoint."""

    example: ClassVar[str] = "swift runs resume v3 --set learning_rate=5e-5"

    name: str = flag(positional=True)
    """Folder of the run, or the end of its path that no other run has, or the beginning of its last part"""
    folder: tuple[str, ...] = ()
    """Folders to search; none means the current folder and ./output"""
    set: tuple[str, ...] = ()
    """Flags to change, as flag=value"""


VERBS: Mapping[str, type[Any]] = {"show": Show, "log": Log, "stop": Stop, "resume": Resume}
KEPT_ON_RESUME = ("output_dir", "add_output_dir_suffix", "resume_from_checkpoint")
"""Flags that say where a run is, which `swift runs resume` decides itself."""


def run(argv: Sequence[str]) -> int:
    """`argv` is a verb and its flags, or folders. Returns the exit code."""
    verb, rest = (argv[0], argv[1:]) if argv else ("", ())
    if verb in ("--help", "-h", "--help-all", "help"):
        print(flags.help_text(Config, "swift runs"))
        print("\nswift runs VERB NAME [--flag value ...]:")
        for name, config in VERBS.items():
            print(f"  {name:<6}  {config.__doc__}")
        return 0
    if verb not in VERBS:
        return list_runs(flags.parse(Config, argv, prog="swift runs").config)
    return ACTS[verb](flags.parse(VERBS[verb], rest, prog=f"swift runs {verb}").config)


def complete(words: Sequence[str], last: str) -> list[str]:
    """The names of runs that begin with `last`, where a verb awaits one."""
    if len(words) != 1 or words[0] not in VERBS:
        return []
    runs = finding.find(finding.default_folders()).runs
    return [name for name in finding.names([run.folder for run in runs]).values() if name.startswith(last)]


# --- listing ----------------------------------------------------------------------------------------------------------


def list_runs(cfg: Config) -> int:
    for folder in cfg.folders:
        if not Path(folder).is_dir():
            hint = flags.nearest(folder, VERBS) or nearest_path(folder) or f" (verbs: {', '.join(VERBS)})"
            raise ValueError(f"there is no folder {folder}{hint}")
    found = finding.find(_folders(cfg.folders))
    for line in found.faults:
        print(f"swift: warning: {line}", file=sys.stderr)
    if cfg.json:
        print(json.dumps([_json(run) for run in found.runs], indent=2, ensure_ascii=False))
    elif found.runs:
        _print_table(found.runs)
    else:
        where = ", ".join(cfg.folders) or "the current folder"
        print(f"no runs in {where}")
    return 0


def _folders(given: Sequence[str]) -> list[Path]:
    return [Path(each).expanduser() for each in given] or finding.default_folders()


def _json(run: Run) -> dict[str, Any]:
    """The record with what a reader infers in place of what it says."""
    return {"folder": str(run.folder), **asdict(run.record), "state": run.state, "reason": run.reason}


def _print_table(runs: Sequence[Run]) -> None:
    from rich.table import Table

    names = finding.names([run.folder for run in runs])
    table = Table(box=None, pad_edge=False, header_style="")
    for column in ("name", "model", "state"):
        table.add_column(column, overflow="fold")
    for column in ("step", "loss", "last eval", "started", "time left"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        progress = run.record.progress
        losses = (details.loss(progress.loss), details.loss(progress.eval_loss))
        figures = (details.step(progress), *losses, _time(run.record.started), details.time_left(run))
        table.add_row(names[run.folder], run.record.model, run.state, *figures)
    terminal.console(highlight=False, markup=False).print(table)


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


# --- one run ----------------------------------------------------------------------------------------------------------


def _named(name: str, folders: Sequence[str]) -> Run:
    if (Path(name).expanduser() / record.FILE).is_file():
        return record.read(Path(name).expanduser().resolve())  # without a search
    return finding.named(name, finding.find(_folders(folders)).runs)


def show(cfg: Show) -> int:
    run = _named(cfg.name, cfg.folder)
    saved = checkpoints.of(run.folder)
    if cfg.json:
        listed = [{**each._asdict(), "folder": str(each.folder)} for each in saved]
        print(json.dumps({**_json(run), "checkpoints": listed}, indent=2, ensure_ascii=False))
        return 0
    found = run.record
    lines = {
        "folder": str(run.folder),
        "state": f"{run.state}: {run.reason}" if run.reason else run.state,
        **details.details(run),
        "started": _time(found.started),
        "ended": "" if found.ended is None else _time(found.ended),
        "last sign": f"{duration(max(time.time() - found.heartbeat, 0))} ago" if found.ended is None else "",
        "process": f"pid {found.process.pid} on {found.process.host}",
        "in folder": found.working_folder,
        "command": _command(run),
        "trains as": "" if found.is_direct else shlex.join(["swift", *found.training]),
    }
    width = max(map(len, lines))
    for title, text in lines.items():
        if text:
            print(f"{title:<{width}}  {text}")
    print("checkpoints:" if saved else "no checkpoint yet")
    for each in saved:
        loss = "" if each.eval_loss is None else f"  held-out loss {each.eval_loss:.4f}"
        print(f"  {invocation.display_path(each.folder)}{loss}{'' if each.resumable else '  (weights only)'}")
    return 0


def _command(run: Run) -> str:
    found = run.record
    settings = [f"{name}={shlex.quote(value)}" for name, value in found.environment.items()]
    return " ".join([*settings, shlex.join(["swift", *found.command])]) if found.command else "a Python program"


def log(cfg: Log) -> int:
    if cfg.lines is not None and cfg.lines < 0:
        raise ValueError(f"--lines {cfg.lines}: must be 0 or more")
    run = _named(cfg.name, cfg.folder)
    if not cfg.follow:
        print(log_file.read(run.folder, cfg.lines), end="")
        return 0
    for text in log_file.follow(run.folder, lambda: record.read(run.folder).is_active, cfg.lines):
        print(text, end="", flush=True)
    return 0


def stop(cfg: Stop) -> int:
    if cfg.seconds <= 0:
        raise ValueError(f"--seconds {cfg.seconds:g}: must be more than 0")
    run = _named(cfg.name, cfg.folder)
    control.check_active(run)
    pid = run.record.process.pid
    if not cfg.now:
        print(f"pid {pid}: saves a checkpoint after step {run.record.progress.step + 1:,} and ends ...", flush=True)
    ended, after = control.stop(run, cfg.seconds, cfg.now)
    if not ended:
        print(f"still {after.state} after {cfg.seconds:g} s: --now kills it", file=sys.stderr)
        return 1
    print(f"{after.state}: {after.reason}" if after.reason else after.state)
    saved = checkpoints.of(run.folder)
    if not saved:
        print("no checkpoint was saved")
    else:
        print(f"last checkpoint: {invocation.display_path(saved[-1].folder)}")
        if after.state != "finished" and saved[-1].resumable:
            print(f"to resume: {invocation.command('runs', 'resume', run.folder)}")
    return 0


def resume(cfg: Resume) -> int:
    run = _named(cfg.name, cfg.folder)
    checkpoint = control.resumable(run)
    found = run.record
    if run.state == "finished" and not cfg.set:
        raise ValueError(
            f"{run.folder} is finished: --set num_train_epochs=NUMBER, or max_steps=NUMBER, trains it further"
        )
    config = importlib.import_module(f"swift.commands.{found.verb}").Config
    try:
        words = flags.replaced(config, found.words[1:], _changes(cfg.set, config))
    except ValueError as error:
        raise ValueError(f"--set: {error}") from None
    words = flags.replaced(config, words, {"resume_from_checkpoint": [str(checkpoint.folder)]})
    flags.parse(config, words, prog=f"swift {found.verb}")  # a wrong value is reported here, not in the log
    if not Path(found.working_folder).is_dir():
        raise ValueError(f"the folder in which the run was started is gone: {found.working_folder}")
    if not Path(found.python).is_file():
        raise ValueError(f"the Python with which the run was started is gone: {found.python}")
    pid = control.start(run.folder, [found.verb, *words], found)
    if not found.is_direct:
        whole = shlex.join(["swift", *found.command]) if found.command else "the Python program"
        print(f"resumes the training alone, not the rest of {whole}")
    print(f"pid {pid} resumes from {invocation.display_path(checkpoint.folder)}")
    print(f"to watch it: {invocation.command('runs', 'log', run.folder)} --follow")
    return 0


def _changes(given: Sequence[str], config: type[Any]) -> dict[str, list[str]]:
    """`flag=value` -> flag -> the words of its value: several for a list, whose words a shell would separate."""
    lists = {name for item in flags.walk(config) if item.is_list for name in (item.name, *item.spec.alias)}
    changes = {}
    for each in given:
        name, equals, value = each.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not equals or not name:
            raise ValueError(f"{each}: a change is written flag=value")
        if name in KEPT_ON_RESUME:
            raise ValueError(f"{name}: a resumed run stays in its folder and continues from its last checkpoint")
        changes[name] = shlex.split(value) if name in lists else [value]
    return changes


ACTS: Mapping[str, Callable[[Any], int]] = {"show": show, "log": log, "stop": stop, "resume": resume}
