"""Programs that measure themselves: started in a Python of a peer, listened to line by line."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONUNBUFFERED": "1"}
"""What every peer is started with: nothing from the network, nothing that is no problem."""


def said(command: Sequence[str | Path], variables: Mapping[str, str], timeout: float) -> Iterator[dict[str, Any]]:
    """The JSON objects that a program prints, one a line, as they come.

    Raises RuntimeError with the last line of its errors where it fails, or takes more than `timeout` seconds.
    """
    with TemporaryFile("w+") as problems:  # a pipe that nobody reads would stop a peer that says much
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=problems,
            text=True,
            env={**os.environ, **QUIET, **variables},
        )
        late = threading.Timer(timeout, process.kill)
        late.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            code = process.wait()
            if late.finished.is_set():
                raise RuntimeError(f"took more than {timeout:.0f} s")
            if code:
                problems.seek(0)
                lines = [line.strip() for line in problems if line.strip()] or [f"exit code {code}"]
                raise RuntimeError(lines[-1][:200])
        finally:
            late.cancel()
            process.kill()
            process.wait()
