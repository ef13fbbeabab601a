"""The folder of a training run: output/MODEL/vN-TIME, or exactly --output_dir."""

from __future__ import annotations

import re
import time
from pathlib import Path

from swift.flag_groups import ModelFlags
from swift.flag_groups.train import SavingFlags


def runs_of(saving: SavingFlags, model: ModelFlags, source: Path) -> Path:
    """The folder of all runs of a model; that of the run itself without --add_output_dir_suffix."""
    root = Path(saving.output_dir).expanduser()
    if not saving.add_output_dir_suffix:
        return root
    found = source.resolve()
    return root / (model.model_type or (found.stem if found.is_file() else found.name) or "model")


def versions(saving: SavingFlags, runs: Path) -> dict[int, Path]:
    """The existing run folders by their number."""
    if not saving.add_output_dir_suffix:
        return {0: runs}
    found = ((re.match(r"v(\d+)-", path.name), path) for path in runs.glob("v*-*"))
    return {int(match[1]): path for match, path in found if match}


def create(saving: SavingFlags, runs: Path, resume: Path | None) -> Path:
    """Creates the folder of this run. A resumed run continues in the folder of its checkpoint."""
    if not saving.add_output_dir_suffix:
        folder = runs
    elif resume:
        folder = resume.parent
    else:
        number = max(versions(saving, runs), default=-1) + 1
        folder = runs / f"v{number}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()
