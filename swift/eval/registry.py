"""The names of evaluation tasks -> the modules that make them. Imports a task when it is asked for.

A module of a task has `load(settings: Settings) -> Task`. It raises ValueError or OSError for questions that cannot be
read, and for a package that is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from swift.eval.task import Settings, Task
from swift.system.nearest import closest

TASKS: Mapping[str, str] = {
    "bfcl": "swift.eval.tasks.bfcl.task",
    "calls": "swift.eval.tasks.calls",
    "general": "swift.eval.tasks.general",
    "lm_eval": "swift.eval.tasks.lm_harness",
    "react": "swift.eval.tasks.react",
    "self_cognition": "swift.eval.tasks.self_cognition",
}
"""Name -> module."""
_WITH_DATASET = ("calls", "react")


def check(text: str) -> None:
    """Raises ValueError with the most similar name for an unknown task. `text`: a value of --tasks."""
    name = text.partition(":")[0]
    if name not in TASKS:
        near = closest(name, TASKS, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise ValueError(f"--tasks {name}: no such task{hint} (known: {', '.join(TASKS)})")


def reads_dataset(text: str) -> bool:
    """Whether the questions of a task come from --dataset."""
    return text.partition(":")[0] in _WITH_DATASET


def load(text: str, settings: Settings) -> Task:
    """The task of a value of --tasks: `name` or `name:variant`. Raises ValueError for an unknown one."""
    check(text)
    name, _, variant = text.partition(":")
    return cast(Task, import_module(TASKS[name]).load(settings._replace(variant=variant)))
