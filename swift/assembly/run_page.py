"""The page of one training run, from the files in its folder alone. Loads no model and no trainer."""

from __future__ import annotations

import importlib
import math
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift import flags
from swift.assembly import run_charts, run_evaluations
from swift.assembly.run_charts import COLOURS
from swift.pages import document, elements
from swift.pages.document import Section
from swift.pages.elements import Fact
from swift.runs import contents, history, outcome
from swift.runs.contents import Contents
from swift.runs.history import Points
from swift.runs.record import Run
from swift.system import invocation
from swift.system.atomic_write import atomic_file
from swift.system.durations import duration

FILE = "report.html"
TONES: Mapping[str, elements.Tone] = {"finished": "good", "failed": "bad", "killed": "bad", "stalled": "bad"}
VERBS = {"sft": "fine-tuning", "rlhf": "preference training"}
MOST_FINDINGS = 50


def write(run: Run, file: Path | None = None) -> Path:
    """Writes the page of a run into `file`, or its folder. Returns the file; raises OSError."""
    target = file or run.folder / FILE
    with atomic_file(target) as written:
        written.write_text(page(contents.read(run)), encoding="utf-8", errors="replace")
    return target


def page(found: Contents) -> str:
    record, tone = found.run.record, TONES.get(found.run.state, "plain")
    sections = [
        Section("Loss", run_charts.losses(found.history, _unit(found)) or elements.text("No loss was logged.")),
        Section("Loss by source", _by_source(found)),
        Section("Other curves", run_charts.others(found.history)),
        Section("Evaluation", _evaluation(found.run)),
        Section("Data", _data(found)),
        Section("Checkpoints", _checkpoints(found)),
        Section("Command", _command(found)),
        Section("Flags", _flags(found)),
        Section("Machine", elements.settings(found.machine) if found.machine else ""),
    ]
    return document.render(
        f"{record.model}, {record.tuner}",
        [section for section in sections if section.body],
        lead=outcome.opening(found),
        kind=f"{VERBS.get(record.verb, record.verb)} · {found.run.folder.name}",
        head=facts(found) + elements.notices(outcome.warnings(found), "bad" if tone == "bad" else "warning"),
    )


# --- at a glance ------------------------------------------------------------------------------------------------------


def facts(found: Contents) -> str:
    record, progress = found.run.record, found.run.record.progress
    lines, held = found.history, outcome.held_out(found.history)
    raw = outcome.losses(lines)
    train, smooth = history.smoothed(raw), len(raw) >= history.SMOOTHED
    end = record.ended or record.heartbeat
    speeds = [value for _, value in outcome.losses(lines, "tokens_per_second")]
    memory = [value for _, value in outcome.losses(lines, "memory_gib")]
    total = found.mixture.get("total", {})
    listed = [Fact("state", found.run.state, tone=TONES.get(found.run.state, "plain"))]
    listed.append(Fact("steps", f"{progress.step:,}", f"of {progress.steps:,}{_epochs(progress.epoch)}"))
    if held:
        listed.append(Fact("held-out loss", outcome.number(held.least[1]), f"least, at step {held.least[0]:,}"))
    if train:
        listed.append(Fact("training loss", outcome.number(train[-1][1]), "at the end" + ", smoothed" * smooth))
    listed.append(Fact("time", duration(max(end - record.started, 0)), time.strftime("%d %b %Y", _local(record))))
    if speeds:
        listed.append(Fact("tokens/s", f"{statistics.median(speeds):,.0f}", "median of log lines"))
    if total.get("tokens"):
        share = total["trained_tokens"] / total["tokens"]
        listed.append(Fact("trained tokens", f"{share:.0%}", f"of {total['tokens']:,}"))
    if memory:
        listed.append(Fact("memory", f"{max(memory):.1f} GiB", "peak"))
    return elements.facts(listed)


def _unit(found: Contents) -> str:
    return run_charts.NATS if found.run.record.verb == "sft" else "loss of the objective"


def _epochs(epoch: float | None) -> str:
    return f", {epoch:.2f} epochs" if epoch else ""


def _local(record: Any) -> time.struct_time:
    return time.localtime(record.started)


# --- evaluation, data, checkpoints ------------------------------------------------------------------------------------


def _evaluation(run: Run) -> str:
    return "".join(run_evaluations.shown(each) for each in run_evaluations.of(run.folder))


def _data(found: Contents) -> str:
    mixture = found.mixture
    sources, total = mixture.get("sources", {}), mixture.get("total", {})
    if not sources or not total:
        return ""
    trained, names = max(total["trained_tokens"], 1), _names(sources)
    parts = [
        (names[name], share["trained_tokens"] / trained, at % COLOURS + 1)
        for at, (name, share) in enumerate(sources.items())
    ]
    rows = [
        (
            elements.Swatch(names[name], at % COLOURS + 1),
            share["rows"],
            share["samples"],
            share["tokens"],
            f"{share['trained_tokens'] / max(share['tokens'], 1):.0%}",
            f"{share['trained_tokens'] / trained:.1%}",
        )
        for at, (name, share) in enumerate(sources.items())
    ]
    header = ("source", "rows", "samples", "tokens", "of them trained", "share of all trained tokens")
    body = elements.stack(parts) + elements.table(header, rows)
    held = mixture.get("held_out_rows")
    body += elements.note(f"{held:,} rows are held out and not among these.") if held else ""
    if lengths := mixture.get("sample_lengths"):
        body += _lengths(lengths, found.flags.get("max_length"))
    if pieces := mixture.get("first_row"):
        row = elements.weighted(elements.Piece(str(text), float(weight)) for text, weight in pieces)
        note = elements.note("Marked text is trained, the darker one counts more in the loss. The rest is only read.")
        body += elements.details("The first row, as the model reads it", row + note, opened=True)
    return body + _left_out(mixture)


def _by_source(found: Contents) -> str:
    """Of a mixture: the curves of its data sets, and what was trained of each."""
    unit, nats = "trained tokens", f", {run_charts.NATS}"
    if not (counted := _of_sources(found, "trained_tokens")):
        unit, nats, counted = "rows", "", _of_sources(found, "rows")  # of preferences, whose loss is one of rows
    counts = {name: sum(value for _, value in points) for name, points in counted.items()}
    if not counts:
        return ""
    train, held = _of_sources(found, "loss"), _of_sources(found, "eval_loss")
    rows = [
        (
            elements.Swatch(name, at % COLOURS + 1),
            count,
            f"{count / max(sum(counts.values()), 1):.1%}",
            outcome.number(history.smoothed(train[name])[-1][1]) if train.get(name) else "",
            outcome.number(held[name][-1][1]) if held.get(name) else "",
        )
        for at, (name, count) in enumerate(counts.items())
    ]
    header = ("source", f"{unit} so far", "share", "training loss", "held-out loss")
    return (
        run_charts.by_source(train, True, f"training loss{nats}")
        + run_charts.by_source(held, False, f"held-out loss{nats}")
        + elements.table(header, rows)
        + elements.note("The losses are the last ones; training losses are smoothed. Repeated rows count each time.")
    )


def _of_sources(found: Contents, key: str) -> dict[str, Points]:
    """The finite points of each data set, in the order of the mixture, by the name that is shown."""
    points = history.by_source(found.history, key)
    known = found.mixture.get("sources", {})
    names = _names([*known, *(name for name in history.by_source(found.history) if name not in known)])
    return {shown: history.finite(points.get(name, ())) for name, shown in names.items()} if points else {}


def _names(sources: Iterable[str]) -> dict[str, str]:
    """Files by name, without their folders, unless two have the same."""
    short = {source: _source(source) for source in sources}
    counts = Counter(short.values())
    return {source: shown if counts[shown] == 1 else source for source, shown in short.items()}


def _source(name: str) -> str:
    return Path(name).name if "/" in name and Path(name).suffix else name


def _lengths(lengths: Mapping[str, Any], limit: object) -> str:
    width = lengths["bin"]
    bins = [(f"{at * width:,} to {(at + 1) * width - 1:,} tokens", n) for at, n in enumerate(lengths["counts"])]
    figures = f"median {lengths['median']:,}, 95 % up to {lengths['p95']:,}, longest {lengths['longest']:,}"
    most = f", at most {limit:,} (--max_length)" if isinstance(limit, int) and limit > 0 else ""
    longest = f"{len(bins) * width:,}"
    return elements.histogram(f"Tokens of a sample: {figures}{most}", bins, ("0", longest))


def _left_out(mixture: Mapping[str, Any]) -> str:
    """What was dropped, and why."""
    findings = [
        f"{each['file']}:{each['line']}: {each['rule']}: {each['message']}" for each in mixture.get("findings", ())
    ]
    findings += map(str, mixture.get("left_out", ()))
    if not findings:
        return ""
    more = len(findings) - MOST_FINDINGS
    listed = findings[:MOST_FINDINGS] + ([f"... and {more:,} more (mixture.json)"] if more > 0 else [])
    return elements.details(f"Dropped rows ({len(findings):,})", elements.code("\n".join(listed)))


def _checkpoints(found: Contents) -> str:
    if not found.saved:
        return ""
    best, known = outcome.best_step(found), dict(outcome.losses(found.history, "eval_loss"))
    rows = []
    for each in found.saved:
        loss = known.get(each.step, each.eval_loss)
        words = ["the best" if each.step == best else "", "" if each.resumable else "weights only"]
        rows.append(
            (
                invocation.display_path(each.folder),
                each.step,
                "" if loss is None or not math.isfinite(loss) else f"{loss:.4f}",
                ", ".join(word for word in words if word),
            )
        )
    chosen = next((each for each in found.saved if each.step == best), found.saved[-1])
    lines = [invocation.command(verb, "--ckpt_dir", chosen.folder) for verb in ("infer", "deploy", "eval")]
    return elements.table(("checkpoint", "step", "held-out loss", ""), rows) + elements.commands(lines)


# --- how it was made --------------------------------------------------------------------------------------------------


def command(run: Run) -> str:
    """The command line of a run, with the variables that it depends on."""
    found = run.record
    words = found.command or found.training
    variables = [f"{name}={shlex.quote(value)}" for name, value in found.environment.items()]
    return " ".join([*variables, shlex.join(["swift", *words])])


def _command(found: Contents) -> str:
    record = found.run.record
    body = elements.commands([command(found.run)])
    body += elements.note(f"In {record.working_folder}, by {record.python} on {record.process.host}.")
    if not record.is_direct and record.command:
        body += elements.text("This command has several parts. The training alone:")
        body += elements.commands([shlex.join(["swift", *record.training])])
    if not record.command:
        body += elements.note("The run was started from a Python program; this command trains the same.")
    return body


def _flags(found: Contents) -> str:
    """Flags that differ from their defaults, then the others."""
    if not found.flags:
        return ""
    changed = changed_flags(found)
    rest = {name: value for name, value in found.flags.items() if name not in changed and value is not None}
    body = elements.settings(changed) if changed else elements.text("All flags have their defaults.")
    return body + elements.details(f"{len(rest)} flags with their defaults", elements.settings(rest))


def changed_flags(found: Contents) -> dict[str, Any]:
    try:
        config = importlib.import_module(f"swift.commands.{found.run.record.verb}").Config
    except (ImportError, AttributeError):  # a command of another version
        return dict(found.flags)
    defaults = {item.name: _plain(item.default) for item in flags.walk(config)}
    return {
        name: value
        for name, value in found.flags.items()
        if value is not None and (name not in defaults or _plain(value) != defaults[name])
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return [*map(_plain, value)] if isinstance(value, Sequence) and not isinstance(value, str) else value
