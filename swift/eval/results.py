"""`results.json` of an evaluation: the model, the settings, the figures. Reads it back to compare. Knows no flag."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any, NamedTuple

from swift.eval import calibration, figures, records
from swift.eval.calibration import Rated
from swift.eval.figures import Comparison, Figure, Results
from swift.eval.records import Record
from swift.eval.task import Metric, Total
from swift.system.atomic_write import atomic_file

FILE = "results.json"
SETTINGS = "settings.json"
FORMAT = 1
"""The version of the files' layout."""


class Evaluation(NamedTuple):
    """The results of a model. `name`: what to call it; `settings`: whatever a figure depends on, as JSON values."""

    name: str
    settings: Mapping[str, Any]
    tasks: tuple[Results, ...]


def rated(tasks: Iterable[Results]) -> list[Rated]:
    """The answers with calls whose confidence is known: unguided ones, or guided ones of tasks without others."""
    found = [
        calibration.rated(records.reply(record), record.correct, needless=record.expected == [])
        for task in tasks
        for record in task.records
        if record.guided == task.modes[0]
    ]
    return [each for each in found if each is not None]


def calibration_json(report: calibration.Report) -> dict[str, Any]:
    """A calibration report as JSON; null where there is no number."""
    bins = [{name: _number(value) for name, value in each._asdict().items()} for each in report.bins]
    figures = {name: _number(value) for name, value in report._asdict().items() if isinstance(value, (int, float))}
    temperature = None if report.fitted is None else report.fitted.temperature
    return {**figures, "temperature": temperature, "reason": report.reason, "bins": bins}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that figures depend on."""
    found = {"python": python_version()}
    for name in ("swift-agents", "torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # SWIFT runs from a checkout
            found[name] = "not installed"
    return found


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Records the settings of a folder, or checks that its answers have the same.

    Raises ValueError, which names the first setting that differs.
    """
    file = folder / SETTINGS
    if file.exists():
        before = _object(file)
        names = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if names:
            name = names[0]
            raise ValueError(
                f"--report {folder}: its answers have another {name}: {_short(before.get(name))}, now "
                f"{_short(settings.get(name))}: give another folder"
            )
        return
    if (folder / records.ANSWERS).exists():
        raise ValueError(f"--report {folder}: {records.ANSWERS} is there without {SETTINGS}: give another folder")
    _write(file, settings)


def save(
    folder: Path,
    evaluation: Evaluation,
    comparisons: Mapping[str, Sequence[Comparison]],
    calibrations: Mapping[str, calibration.Report],
    run: Mapping[str, Any],
) -> Path:
    """Writes `results.json`. Tasks of earlier runs into the folder stay in it. `run`: about the run, such as seconds.

    `comparisons`: what was compared -> one comparison a task. `calibrations`: task -> that of its calls.
    """
    file = folder / FILE
    earlier = _object(file)["tasks"] if file.exists() else {}
    content = {
        "format": FORMAT,
        "model": evaluation.name,
        "settings": dict(evaluation.settings),
        "versions": versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "run": dict(run),
        "tasks": {**earlier, **{each.task: _task(each) for each in evaluation.tasks}},
        "calibrations": {task: calibration_json(each) for task, each in calibrations.items()},
        "comparisons": {what: [comparison_json(each) for each in found] for what, found in comparisons.items()},
    }
    _write(file, content)
    return file


def _task(results: Results) -> dict[str, Any]:
    return {
        "version": results.version,
        "notes": list(results.notes),
        "questions": len({record.id for record in results.records}),
        "errors": sum(bool(record.error) for record in results.records),
        "metrics": [metric._asdict() for metric in results.metrics],
        "totals": [total._asdict() for total in results.totals],
        "figures": [figure_json(each) for each in figures.figures(results)],
        "failures": [{"guided": guided, "kinds": dict(figures.counts(results, guided))} for guided in results.modes],
    }


def figure_json(figure: Figure) -> dict[str, Any]:
    return {"group": figure.group, "metric": figure.metric, "guided": figure.guided, **figure.value._asdict()}


def comparison_json(found: Comparison) -> dict[str, Any]:
    return {
        "task": found.task,
        "guided": found.guided,
        "common": found.common,
        "only_first": found.only_first,
        "only_second": found.only_second,
        "right_before": found.known,
        "still_right": found.known - sum(not flip.better for flip in found.flips),
        "changes": [
            {
                "group": each.group,
                "metric": each.metric,
                "first": each.first,
                "second": each.second,
                "difference": each.difference.mean,
                "low": each.difference.low,
                "high": each.difference.high,
                "n": each.difference.n,
            }
            for each in found.changes
        ],
        "flips": [
            {"id": flip.first.id, "group": flip.first.group, "to": "right" if flip.better else "wrong"}
            for flip in found.flips
        ],
    }


def load(path: Path) -> Evaluation:
    """The results in a folder, or beside a `results.json`. Raises ValueError or OSError for what is not there."""
    folder = path.parent if path.name == FILE else path
    file = folder / FILE
    if not file.is_file():
        raise ValueError(f"{path}: no results of swift eval: {FILE} is not there")
    content = _object(file)
    if content.get("format") != FORMAT:
        raise ValueError(f"{file}: not results of this version of swift eval")
    answers: dict[str, list[Record]] = {}
    for record in records.read(folder).values():
        answers.setdefault(record.task, []).append(record)
    tasks = [
        Results(
            name,
            task["version"],
            tuple(Metric(**metric) for metric in task["metrics"]),
            tuple(Total(**total) for total in task["totals"]),
            tuple(task["notes"]),
            tuple(answers.get(name, ())),
        )
        for name, task in content["tasks"].items()
    ]
    return Evaluation(content["model"], content["settings"], tuple(tasks))


def is_results(text: str) -> bool:
    """Whether `text` names a folder with results, or their file."""
    path = Path(text).expanduser()
    return (path / FILE).is_file() or (path.name == FILE and path.is_file())


def compare(first: Evaluation, second: Evaluation) -> list[Comparison]:
    """Compares the tasks of both. Raises ValueError if they have no task in common, or one in two versions."""
    others = {task.task: task for task in second.tasks}
    both = [(task, others[task.task]) for task in first.tasks if task.task in others]
    if not both:
        names = [", ".join(task.task for task in each.tasks) or "none" for each in (first, second)]
        raise ValueError(f"--compare: no task is in both results ({names[0]}; {names[1]})")
    found = []
    for one, two in both:
        if one.version != two.version:
            raise ValueError(
                f"--compare: {one.task}: the results have versions {one.version} and {two.version} of the task"
            )
        modes = [guided for guided in one.modes if guided in two.modes]
        if not modes:
            raise ValueError(f"--compare: {one.task}: one side is guided, the other is not")
        for guided in modes:
            label = "guided" if guided else "unguided"
            found.append(figures.compare(two, one.answers(guided), two.answers(guided), label))
    return found


def compare_modes(evaluation: Evaluation) -> list[Comparison]:
    """Guided against unguided answers, for the tasks that have both."""
    return [
        figures.compare(task, task.answers(False), task.answers(True), "guided against unguided")
        for task in evaluation.tasks
        if len(task.modes) > 1
    ]


def _object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: must be a JSON object")
    return value


def _write(file: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(file) as new:
        new.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}..."
