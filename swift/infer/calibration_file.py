"""`calibration.json` beside a checkpoint: the temperature that calibrates its confidence, and the
confidence below which calls are not made. Knows no model."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from pathlib import Path

from swift.infer.confidence import Calibration
from swift.system.atomic_write import atomic_file

NAME = "calibration.json"
FORMULA = "p ** (1 / temperature)"


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration of a checkpoint; None if its folder has none.

    Raises ValueError for a file that is damaged or has another formula.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    temperature = found.get("temperature") if isinstance(found, dict) else None
    if not isinstance(temperature, (int, float)) or isinstance(temperature, bool) or not 0 < temperature < math.inf:
        raise ValueError(f"{file}: temperature must be a number above 0, not {json.dumps(temperature)}")
    if (formula := found.get("formula", FORMULA)) != FORMULA:
        raise ValueError(f"{file}: the formula must be {FORMULA!r}, not {json.dumps(formula)}")
    least = found.get("min_confidence", 0.0)
    if not isinstance(least, (int, float)) or isinstance(least, bool) or not 0 <= least <= 1:
        raise ValueError(f"{file}: min_confidence must be a number from 0 to 1, not {json.dumps(least)}")
    return Calibration(float(temperature), float(least))


def write_calibration(folder: Path, calibration: Calibration, rows: int, ece: tuple[float, float], source: str) -> Path:
    """Writes the file and returns its path.

    `rows`: how many calls the temperature was fitted on. `ece`: the expected calibration error before and after, on
    calls that it was not fitted on. `source`: the tasks or files that the calls come from.
    """
    file = folder / NAME
    before, after = ece
    record = {
        "temperature": calibration.temperature,
        "formula": FORMULA,
        "min_confidence": calibration.min_confidence,
        "rows": rows,
        "ece_before": before,
        "ece_after": after,
        "source": source,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with atomic_file(file) as new:
        new.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return file
