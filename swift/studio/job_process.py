"""The process of a job: runs its command, and writes how it ended, which nobody else could after the server's end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from swift.runs import processes
from swift.studio import jobs


def main(folder: Path) -> int:
    words = json.loads((folder / jobs.FILE).read_text(encoding="utf-8"))["words"]
    command = subprocess.Popen([sys.executable, "-m", "swift.cli", *words])
    signal.signal(signal.SIGTERM, lambda number, _: command.send_signal(number))
    jobs.began(folder, processes.of(command.pid))
    code = command.wait()
    jobs.ended(folder, code)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
