"""Write a page about a training run, also while it trains, or one that compares several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from swift.flags import flag
from swift.runs import contents, finding, outcome, record
from swift.runs.record import Run
from swift.system import invocation


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift report v3 v4"

    runs: tuple[str, ...] = flag((), positional=True)
    """Runs, as `swift runs` names them: a folder, the end of its path that no other run has, or the beginning of its
    last part"""
    folder: tuple[str, ...] = ()
    """Folders to search; none means the current folder and ./output"""
    out: str | None = None
    """File to write; none means report.html in the folder of the run, or comparison.html in the folder that all of
    several runs are in"""

    def __post_init__(self) -> None:
        """Raises ValueError for a wrong --out."""
        if self.out is not None and Path(self.out).is_dir():
            raise ValueError(
                f"--out {self.out}: is a folder: name a file in it, such as {Path(self.out, 'report.html')}"
            )


def main(cfg: Config) -> None:
    """Writes the page, and prints what it says first. Raises ValueError for unknown runs, OSError for the file."""
    from swift.assembly import run_comparison, run_page

    folders = [Path(each).expanduser() for each in cfg.folder] or finding.default_folders()
    runs = chosen(cfg.runs, folders)
    out = Path(cfg.out).expanduser() if cfg.out else None
    if len(runs) == 1:
        file = run_page.write(runs[0], out)
        found = contents.read(runs[0])
        print("\n".join([outcome.opening(found), *(f"warning: {each}" for each in outcome.warnings(found))]))
    else:
        file = run_comparison.write(runs, out or common(runs) / run_comparison.FILE)
        print(run_comparison.opening(run_comparison.named(runs)))
    print(f"report: {invocation.display_path(file)}")


def chosen(names: Sequence[str], folders: Sequence[Path]) -> list[Run]:
    """The runs of names, each once. Raises ValueError for a name of none or of several, and where no name is given."""
    paths = [Path(name).expanduser() for name in names]
    searched = None if names and all((path / record.FILE).is_file() for path in paths) else finding.find(folders).runs
    if not names:
        known = list(finding.names([run.folder for run in searched or ()]).values())
        shown = ", ".join(known[:3]) if known else "none below this folder (--folder names another)"
        raise ValueError(f"swift report needs the name of a run; there are {shown}" if known else f"no run: {shown}")
    runs = {}
    for name, path in zip(names, paths, strict=True):
        # without a search, which may take a while
        run = record.read(path.resolve()) if searched is None else finding.named(name, searched)
        runs[run.folder] = run
    return list(runs.values())


def common(runs: Sequence[Run]) -> Path:
    """The innermost folder that all runs are in."""
    return Path(os.path.commonpath([run.folder.parent for run in runs]))


def complete(words: Sequence[str], last: str) -> list[str]:
    """The names of runs that begin with `last`."""
    if last.startswith("-"):
        return []
    found = finding.find(finding.default_folders()).runs
    return [name for name in finding.names([run.folder for run in found]).values() if name.startswith(last)]
