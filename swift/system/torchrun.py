"""The processes of a run on this machine: torch's launcher, and one line for what ended it. Knows no command."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SETTINGS = ("NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
MARK = "SWIFT_LAUNCHED"
"""Set in the processes that this module started: they tell their errors to it, which prints one of them."""
PATIENCE = 600
"""Seconds that processes which are told to end have for their step and their checkpoint."""


def requested(env: Mapping[str, str]) -> bool:
    """True where NPROC_PER_NODE or NNODES is set and this is not already one of the processes (they inherit both)."""
    return "LOCAL_RANK" not in env and bool(env.get("NPROC_PER_NODE") or env.get("NNODES"))


def launch(argv: Sequence[str]) -> int:
    """Runs the same command line in every process; the exit code of the one that failed, 143 after SIGTERM."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    here = os.environ.get("NPROC_PER_NODE", "")
    if here.isdigit() and int(here):  # left alone, torch gives each process of several one thread
        os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // int(here), 1)))
    os.environ[MARK] = "1"
    for name in list(logging.root.manager.loggerDict):  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("SWIFT_PROGRAM", sys.argv[0])  # for what the processes tell the user to type
    sys.stdout.flush()
    try:
        words = options(os.environ, run.get_args_parser().format_help())
        run.run(run.parse_args([*words, "-m", "swift.cli", *argv]))
    except ChildFailedError as error:
        code, line = reason(error.failures)
        print(f"swift: error: {line}", file=sys.stderr)
        return code
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def options(env: Mapping[str, str], understood: str) -> list[str]:
    """torchrun's options; `understood` is its --help."""
    given = [f"--{name.lower()}={env[name]}" for name in SETTINGS if env.get(name)]
    alone = env.get("NNODES", "1") == "1" and not env.get("MASTER_PORT")
    patience = [f"--shutdown_timeout={PATIENCE}"] if "--shutdown_timeout" in understood else []
    return [*(["--standalone"] if alone else []), *patience, *given]


def report_to_launcher(line: str, env: Mapping[str, str]) -> bool:
    """Leaves a process's last line to the launcher that started it; False where none of ours did."""
    file = env.get("TORCHELASTIC_ERROR_FILE")
    if MARK not in env or not file:
        return False
    message = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
    Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")
    return True


def already_printed(line: str, env: Mapping[str, str]) -> bool:
    """Whether another process of this machine, started by torchrun, has printed the line; if not, this one is to.

    What is wrong with the flags is wrong in all of them.
    """
    file = env.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        return False
    mark = Path(file).parent.parent / f"{hashlib.sha256(line.encode()).hexdigest()[:16]}.said"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return True
    except OSError:
        pass  # said twice rather than never
    return False


def reason(failures: Mapping[int, Any]) -> tuple[int, str]:
    """The exit code and the cause among what failed: what a process said before what another heard of it."""
    rank, first = min(failures.items(), key=lambda failed: (_rank_of(failed[1]), failed[1].timestamp))
    said = first.error_file_data.get("message")
    if isinstance(said, dict):
        return first.exitcode, str(said["message"])
    where = f"process {rank} of the run (pid {first.pid})"
    if first.exitcode < 0:
        hint = ", as one that needs more memory than there is" if first.exitcode == -9 else ""
        return 128 - first.exitcode, f"{where} was ended by {first.signal_name()}{hint}; {_RESUME}"
    return first.exitcode, f"{where} ended with exit code {first.exitcode}, for the reason above; {_RESUME}"


_RESUME = "--resume_from_checkpoint goes on from the last checkpoint"
_HEARSAY = "another process of this run is gone"


def _rank_of(failure: Any) -> int:
    """0 for a cause, 1 for what follows from one: a peer that is missed, a process told to end."""
    said = failure.error_file_data.get("message")
    return int(failure.exitcode == -15 or (isinstance(said, dict) and _HEARSAY in str(said["message"])))
