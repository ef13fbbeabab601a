"""A model under test -> its answers to the questions of tasks, kept in a folder that a later run continues."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift.assembly.eval_targets import Target, loaded
from swift.eval import results, runner
from swift.eval.asking import ask
from swift.eval.figures import Results
from swift.eval.records import Record, Store, Variant
from swift.eval.task import Question, Task

Asked = Sequence[tuple[Task, Sequence[Question]]]


def measure(
    target: Target, asked: Asked, variants: Sequence[Variant], folder: Path
) -> tuple[results.Evaluation, dict[str, Any]]:
    """(results, facts about the run). Asks what the folder does not answer yet; loads no model if that is nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    results.claim(folder, target.settings)
    store = Store(folder)
    wanted = runner.jobs(asked, variants)
    missing = runner.pending(wanted, store)
    began = time.monotonic()
    if missing:
        _say(f"{target.name}: {len(wanted):,} answers, {len(wanted) - len(missing):,} of them in {folder}")
        with loaded(target) as model:
            ask(model, missing, store, target.workers, folder)
    else:
        _say(f"{target.name}: all {len(wanted):,} answers are in {folder}")
    records = [store.records[job.key] for job in wanted]
    tasks = [
        Results(
            task.name,
            task.version,
            task.metrics,
            task.totals,
            task.notes,
            _in_order(questions, [record for record in records if record.task == task.name]),
        )
        for task, questions in asked
    ]
    facts = {
        "answers": len(wanted),
        "answers_of_this_run": len(missing),
        "seconds_of_this_run": round(time.monotonic() - began, 1),
        "completion_tokens": sum(record.completion_tokens for record in records),
    }
    return results.Evaluation(target.name, target.settings, tuple(tasks)), facts


def _in_order(questions: Sequence[Question], answers: Sequence[Record]) -> tuple[Record, ...]:
    """The answers in the order of the questions, in which reports list groups."""
    places = {question.id: place for place, question in enumerate(questions)}
    return tuple(sorted(answers, key=lambda record: places[record.id]))


def _say(line: str) -> None:
    print(line, file=sys.stderr)
