"""Starts several processes with torchrun, and reports one error for all. Knows no command."""

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

from swift.system import invocation

SETTINGS = ("NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
MARK = "SWIFT_LAUNCHED"
"""Set in the processes that this module starts: they report their errors to it, and it prints one of them."""
PATIENCE = 600
"""Seconds that processes get on shutdown to finish their step and save a checkpoint."""


def requested(env: Mapping[str, str]) -> bool:
    """Whether NPROC_PER_NODE or NNODES is set and this is not one of the processes, which inherit both."""
    return "LOCAL_RANK" not in env and bool(env.get("NPROC_PER_NODE") or env.get("NNODES"))


def launch(argv: Sequence[str]) -> int:
    """Runs the same command line in every process. Returns the exit code of the failed one, 143 after SIGTERM."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    here = os.environ.get("NPROC_PER_NODE", "")
    if here.isdigit() and int(here):  # torch's default for several processes is one thread each
        os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // int(here), 1)))
    os.environ[MARK] = "1"
    for name in list(logging.root.manager.loggerDict):  # each logger has its own level
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault(invocation.VARIABLE, sys.argv[0])  # for commands that the processes print
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
    """torchrun's options; `understood` is its --help text."""
    given = [f"--{name.lower()}={env[name]}" for name in SETTINGS if env.get(name)]
    standalone = env.get("NNODES", "1") == "1" and not env.get("MASTER_PORT")
    patience = [f"--shutdown_timeout={PATIENCE}"] if "--shutdown_timeout" in understood else []
    return [*(["--standalone"] if standalone else []), *patience, *given]


def report_to_launcher(line: str, env: Mapping[str, str]) -> bool:
    """Reports an error to the launcher; returns False if this module did not start the process."""
    file = env.get("TORCHELASTIC_ERROR_FILE")
    if MARK not in env or not file:
        return False
    message = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
    Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")
    return True


def already_printed(line: str, env: Mapping[str, str]) -> bool:
    """Whether another process of the same torchrun has printed the line already; if not, this one has to.

    Wrong flags are an error in every process.
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
        pass  # printed twice rather than never
    return False


def reason(failures: Mapping[int, Any]) -> tuple[int, str]:
    """The exit code and the cause: the error of the process that failed first, not of those that lost their peer."""
    rank, first = min(failures.items(), key=lambda failed: (_rank_of(failed[1]), failed[1].timestamp))
    message = first.error_file_data.get("message")
    if isinstance(message, dict):
        return first.exitcode, str(message["message"])
    where = f"process {rank} of the run (pid {first.pid})"
    if first.exitcode < 0:
        hint = ", perhaps out of memory" if first.exitcode == -9 else ""
        return 128 - first.exitcode, f"{where} was killed by {first.signal_name()}{hint}; {_RESUME}"
    return first.exitcode, f"{where} ended with exit code {first.exitcode}, for the reason above; {_RESUME}"


_RESUME = "--resume_from_checkpoint resumes from the last checkpoint"
_CONSEQUENCE = "another process of this run is gone"


def _rank_of(failure: Any) -> int:
    """0 for a cause, 1 for a consequence: a lost peer, or a terminated process."""
    message = failure.error_file_data.get("message")
    return int(failure.exitcode == -15 or (isinstance(message, dict) and _CONSEQUENCE in str(message["message"])))
