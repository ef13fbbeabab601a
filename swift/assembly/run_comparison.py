"""A page that compares training runs: their curves on shared axes, their figures, the settings in which they differ."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.assembly import run_charts, run_evaluations, run_page
from swift.pages import document, elements
from swift.pages.document import Section
from swift.pages.elements import Swatch
from swift.runs import contents, finding, history, outcome
from swift.runs.contents import Contents
from swift.runs.record import Run
from swift.system.atomic_write import atomic_file
from swift.system.durations import duration

FILE = "comparison.html"
SAME_QUESTION = ("dataset", "val_dataset", "dataset_test_ratio", "dataset_seed", "max_length", "train_dataset_mix_ds")
"""Flags that decide which rows are held out: held-out losses compare only where these are equal."""
NO_SETTING = ("output_dir", "resume_from_checkpoint", "add_output_dir_suffix")


def write(runs: Sequence[Run], file: Path) -> Path:
    """Writes the page. Returns the file; raises OSError."""
    with atomic_file(file) as written:
        written.write_text(page(named(runs)), encoding="utf-8", errors="replace")
    return file


def named(runs: Sequence[Run]) -> dict[str, Contents]:
    """What there is of each run, by the shortest name that tells it apart."""
    names = finding.names([run.folder for run in runs])
    return {names[run.folder]: contents.read(run) for run in runs}


def page(runs: Mapping[str, Contents]) -> str:
    lines = {name: found.history for name, found in runs.items()}
    units = {run_charts.NATS if found.run.record.verb == "sft" else "loss of the objective" for found in runs.values()}
    unit = units.pop() if len(units) == 1 else ""
    sections = [
        Section("Held-out loss", run_charts.together(lines, "eval_loss", unit)),
        Section("Training loss", run_charts.together(lines, "loss", unit)),
        Section("Reward accuracy", run_charts.together(lines, "eval_rewards/accuracies", "share of held-out pairs")),
        Section("Figures", elements.table(HEADER, _figures(runs))),
        Section("Evaluation", _evaluations(runs)),
        Section("Settings that differ", _differences(runs)),
        Section("What came of each", _each(runs)),
    ]
    return document.render(
        f"{len(runs)} training runs",
        [section for section in sections if section.body],
        lead=opening(runs),
        kind="comparison",
        head=elements.notices(warnings(runs)),
    )


def opening(runs: Mapping[str, Contents]) -> str:
    """Which run has the least held-out loss, or the least training loss where nothing was held out."""
    held = {name: outcome.held_out(found.history) for name, found in runs.items()}
    least = sorted((each.least[1], name, each.least[0]) for name, each in held.items() if each)
    if least:
        loss, name, step = least[0]
        said = f"Of {len(runs)} runs, {name} has the least held-out loss, {outcome.number(loss)} at step {step:,}"
        if len(least) > 1:
            said += f"; {least[1][1]} follows with {outcome.number(least[1][0])}"
        missing = len(runs) - len(least)
        return said + (f". {_runs(missing)} evaluated nothing." if missing else ".")
    ends = sorted((curve[-1][1], name) for name, found in runs.items() if (curve := _curve(found)))
    if not ends:
        return f"None of {len(runs)} runs has logged a loss."
    return f"Of {len(runs)} runs, {ends[0][1]} has the least training loss at its end, {outcome.number(ends[0][0])}."


def _runs(count: int) -> str:
    return "One run" if count == 1 else f"{count} runs"


def _curve(found: Contents) -> history.Points:
    return history.smoothed(outcome.losses(found.history))


def warnings(runs: Mapping[str, Contents]) -> list[str]:
    """Why figures may not compare."""
    said = []
    differing = differences(runs)
    if "verb" in differing or "rlhf_type" in differing:
        said.append("The runs minimise different objectives: their losses do not compare.")
    elif "model" in differing:
        said.append("The runs train different models: with other tokenizers, losses per token do not compare.")
    elif names := [name for name in SAME_QUESTION if name in differing]:
        said.append(f"The runs differ in --{names[0]}: their losses may be of different rows.")
    if active := [name for name, found in runs.items() if found.run.is_active]:
        said.append(f"Still under way: {', '.join(active)}.")
    return said


HEADER = ("run", "state", "steps", "training loss", "least held-out loss", "at step", "last", "tokens/s", "time")


def _figures(runs: Mapping[str, Contents]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for at, (name, found) in enumerate(runs.items()):
        record, curve, held = found.run.record, _curve(found), outcome.held_out(found.history)
        speeds = [value for _, value in outcome.losses(found.history, "tokens_per_second")]
        seconds = max((record.ended or record.heartbeat) - record.started, 0)
        least = (held.least[1], int(held.least[0]), held.last[1]) if held else ("", "", "")
        rows.append(
            (
                Swatch(name, at % run_charts.COLOURS + 1),
                found.run.state,
                record.progress.step,
                curve[-1][1] if curve else "",
                *least,
                round(statistics.median(speeds)) if speeds else "",
                duration(seconds),
            )
        )
    return rows


def differences(runs: Mapping[str, Contents]) -> dict[str, list[Any]]:
    """Setting -> its value in each run, for those that differ. A run without a record of its flags has None."""
    of_each = [
        {"verb": found.run.record.verb, "model": found.run.record.model, **found.flags} for found in runs.values()
    ]
    names = dict.fromkeys(name for each in of_each for name in each)
    found = {name: [each.get(name) for each in of_each] for name in names if name not in NO_SETTING}
    return {name: values for name, values in found.items() if len({json.dumps(each) for each in values}) > 1}


def _differences(runs: Mapping[str, Contents]) -> str:
    found = differences(runs)
    machines = {found.machine.get("processor", "") for found in runs.values()} - {""}
    note = elements.note("The runs were on different machines.") if len(machines) > 1 else ""
    if not found:
        return elements.text("None: the runs have the same flags.") + note
    rows = [
        (name, *("" if each is None else elements.shown(each) for each in values)) for name, values in found.items()
    ]
    return elements.table(("flag", *runs), rows) + note


def _evaluations(runs: Mapping[str, Contents]) -> str:
    parts = []
    for name, found in runs.items():
        shown = "".join(run_evaluations.shown(each) for each in run_evaluations.of(found.run.folder))
        parts.append(elements.details(name, shown) if shown else "")
    return "".join(parts)


def _each(runs: Mapping[str, Contents]) -> str:
    parts = []
    for name, found in runs.items():
        body = elements.text(outcome.opening(found)) + elements.notices(outcome.warnings(found))
        parts.append(elements.details(name, body + elements.commands([run_page.command(found.run)]), opened=True))
    return "".join(parts)
