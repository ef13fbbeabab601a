"""Runs programs that measure themselves, in the Python of a peer, and reads their results line by line."""

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
"""Environment of every peer: no network, no output but errors."""


def json_lines(command: Sequence[str | Path], variables: Mapping[str, str], timeout: float) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects that a program prints, one per line, as they come.

    Raises RuntimeError with the last line of its errors if it fails, or takes more than `timeout` seconds.
    """
    with TemporaryFile("w+") as errors:  # a full pipe that nobody reads would block the peer
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
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
                errors.seek(0)
                lines = [line.strip() for line in errors if line.strip()] or [f"exit code {code}"]
                raise RuntimeError(lines[-1][:200])
        finally:
            late.cancel()
            process.kill()
            process.wait()
