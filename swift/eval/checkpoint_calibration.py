"""The calibration of a checkpoint: how well it fits the answers of an evaluation, and a new one fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swift.eval import calibration, results
from swift.eval.calibration import Report
from swift.eval.results import Evaluation
from swift.infer.calibration_file import read_calibration, write_calibration
from swift.infer.confidence import UNCALIBRATED


def calibrations(weights: Path | None, evaluation: Evaluation) -> dict[str, Report]:
    """Task -> how well the confidence of its calls, as the checkpoint calibrates it, matches how many are right.

    `weights`: the folder of the checkpoint; without one nothing is calibrated.
    """
    kept = read_calibration(weights) if weights and weights.is_dir() else None
    rated = {task.task: results.rated([task]) for task in evaluation.tasks}
    return {name: calibration.report(rows, kept or UNCALIBRATED) for name, rows in rated.items() if rows}


def calibrate(weights: Path | None, evaluation: Evaluation, datasets: Sequence[str], least: float = 0.0) -> str:
    """Fits the temperature and the minimum confidence to all tasks' answers and writes them beside the weights. Returns
    lines that say so.

    `datasets`: where rows come from, for the record. `least`: the minimum confidence to keep if a lower one is fitted.
    Raises ValueError if there are too few calls, or no folder.
    """
    if weights is None or not weights.is_dir():
        raise ValueError(f"--calibrate true: {evaluation.name} has no folder to keep a calibration in")
    rows = results.rated(evaluation.tasks)
    if not rows:
        raise ValueError("--calibrate true: no answer has a call with a confidence")
    found = calibration.report(rows)
    if found.fitted is None:
        raise ValueError(f"--calibrate true: {found.reason}")
    source = ", ".join((*(task.task for task in evaluation.tasks), *datasets))
    limit = calibration.fit_min_confidence(rows, found.fitted)
    fitted = found.fitted._replace(min_confidence=max(limit.confidence, least))
    file = write_calibration(weights, fitted, found.rows, (found.ece, found.fitted_ece), source)
    return (
        f"calibration: {file}: temperature {found.fitted.temperature:.3f} from {found.rows} answers with calls; "
        f"expected calibration error {found.ece:.3f}, with the temperature {found.fitted_ece:.3f} on answers that it "
        "is not fitted on\n" + _limit_line(limit, least)
    )


def _limit_line(limit: calibration.Limit, least: float) -> str:
    if least > limit.confidence:
        return f"minimum confidence: {least:g}, as given: the one that fits these answers is {limit.confidence:.3f}"
    if not limit.confidence:
        return "minimum confidence: none, every call is made: too few calls where none is right, or none less confident"
    return (
        f"minimum confidence: calls below {limit.confidence:.3f} are answered in words instead: of these answers, "
        f"{limit.needless} calls where none is right, and {limit.right} right ones"
    )
