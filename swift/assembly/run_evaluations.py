"""The evaluations of a run's checkpoints: finds the results of `swift eval`, and shows their figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swift.pages import elements
from swift.pages.elements import Bar
from swift.system import invocation

FILE = "results.json"
MOST_GROUPS = 12


def of(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(file, content) of the results for checkpoints in `folder`, the oldest first.

    They are searched where commands write them: below the run's folder and those around it, and in ./output/eval.
    """
    found = {}
    for file in sorted({each.resolve() for each in _candidates(folder)}):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            checkpoint = content["settings"].get("ckpt_dir")
            if checkpoint and Path(checkpoint).expanduser().resolve().is_relative_to(folder.resolve()):
                found[file] = content
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged, or of another program
    return sorted(found.items(), key=lambda each: str(each[1].get("date", "")))


def _candidates(folder: Path) -> Iterator[Path]:
    for place in (folder, folder.parent, folder.parent.parent, Path.cwd() / "output" / "eval"):
        yield from place.glob(f"*/{FILE}")


def shown(evaluation: tuple[Path, Mapping[str, Any]]) -> str:
    """Shares as bars with their intervals, other metrics in a table."""
    file, content = evaluation
    checkpoint = Path(content["settings"]["ckpt_dir"])
    parts = [
        elements.note(f"{checkpoint.name}, {str(content.get('date', ''))[:16].replace('T', ' ')}, from {_at(file)}")
    ]
    for task, results in content.get("tasks", {}).items():
        groups, others = task_bars(task, results)
        parts.append(elements.bars(groups) if groups else "")
        parts.append(elements.table(("", "group", "mean", "95 % interval", "questions"), others) if others else "")
    return "".join(parts)


def _at(file: Path) -> str:
    return invocation.display_path(file.parent)


def task_bars(
    task: str, results: Mapping[str, Any]
) -> tuple[list[tuple[str, list[Bar]]], list[tuple[str, str, float, str, int]]]:
    """(title, bars) of the shares of a task, and rows of its other figures. `results`: of the task in results.json."""
    groups, others = [], []
    for metric in results["metrics"]:
        figures = [each for each in results["figures"] if each["metric"] == metric["name"]][:MOST_GROUPS]
        if metric["share"]:
            bars = [_bar(each) for each in figures]
            groups += [(f"{task}: {metric['title']}", bars)] if bars else []
        else:
            others += [
                (f"{task}: {metric['title']}", each["group"], each["mean"], f"{each['low']:.3f} to {each['high']:.3f}",
                 each["n"])
                for each in figures
            ]  # fmt: skip
    return groups, others


def _bar(figure: Mapping[str, Any]) -> Bar:
    mean, low, high = (figure[name] for name in ("mean", "low", "high"))
    label = f"{figure['group']}, guided" if figure["guided"] else figure["group"]
    text = f"{mean:.0%} ({low:.0%} to {high:.0%}) of {figure['n']:,}"
    return Bar(label, mean, text, low, high, 3 if figure["guided"] else 1)
