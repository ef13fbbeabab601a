"""The files of a report: figures as JSON beside an HTML page. Knows no model and no flag."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.eval import report, results
from swift.eval.calibration import Report
from swift.eval.figures import Comparison
from swift.eval.results import Evaluation

PAGE = "report.html"
COMPARISON, COMPARISON_PAGE = "comparison.json", "comparison.html"


def write(
    folder: Path,
    evaluation: Evaluation,
    comparisons: Mapping[str, Sequence[Comparison]],
    calibrations: Mapping[str, Report],
    facts: Mapping[str, Any],
) -> None:
    """Writes results.json, see `results.save`, and report.html."""
    results.save(folder, evaluation, comparisons, calibrations, facts)
    page = report.page(evaluation, comparisons, calibrations)
    (folder / PAGE).write_text(page, encoding="utf-8", errors="replace")


def write_comparison(folder: Path, title: str, names: tuple[str, str], found: Sequence[Comparison]) -> None:
    """Writes comparison.json and comparison.html. `names`: where the first and the second results are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / COMPARISON_PAGE).write_text(report.comparison_page(title, found), encoding="utf-8")
    content = {
        "first": names[0],
        "second": names[1],
        "tasks": [results.comparison_json(each) for each in found],
    }
    (folder / COMPARISON).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
