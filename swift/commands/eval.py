"""Measure how well a model calls tools, with intervals, and compare it with another."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from swift import flags
from swift.assembly.endpoint import EndpointFlags
from swift.flag_groups import BackendFlags, GenerationFlags, ModelFlags, TemplateFlags, check_guide
from swift.flags import flag

if TYPE_CHECKING:
    from swift.chat import Tool
    from swift.eval.calibration import Report
    from swift.eval.figures import Comparison
    from swift.eval.records import Record, Store, Variant
    from swift.eval.results import Evaluation
    from swift.eval.runner import Job, Model
    from swift.eval.task import Question, Task
    from swift.guided.guide import Guide

PAGE = "report.html"
FOLDERS = Path("output/eval")
UNUSED = ("stream", "do_sample", "seed")
"""Generation flags without a meaning here: --seeds has the seeds, and selects between greedy decoding and sampling."""
SAMPLED = ("temperature", "top_k", "top_p")
AT_ONCE = 16
"""Requests in flight to a server."""


@dataclass(frozen=True)
class Config:
    tasks: tuple[str, ...] = flag(("calls", "react"), commas=True)
    """What to measure: calls (tool calls of --dataset), react (ReAct steps of --dataset), bfcl (the Berkeley Function
    Calling Leaderboard), general (short questions, and the loss on held-out text), self_cognition (says its name and
    maker), lm_eval:NAME (of lm-evaluation-harness); bfcl:live_simple is one part of a task"""
    dataset: tuple[str, ...] = flag((), commas=True)
    """Held-out rows for calls and react: files, registered names or hub ids; none uses generated dialogues"""
    limit: int | None = None
    """Questions of each task, equally many of each group; none asks all"""
    model_name: tuple[str, ...] = ()
    """self_cognition: the name that the model was trained to say, Chinese, then English, or one for both; none takes it
    from the checkpoint's record"""
    model_author: tuple[str, ...] = ()
    """self_cognition: the author that the model was trained to name, in the same way"""
    guided: Literal["false", "true", "both"] = flag("false", bare="true")
    """Constrain calls to the tools and their schemas (guided decoding); both asks every question with and without"""
    seeds: tuple[int, ...] = flag((), commas=True)
    """Sample once with each of these seeds and take the mean; none decodes greedily"""
    compare: tuple[str, ...] = flag((), commas=True)
    """What to compare with: a folder of results, a checkpoint or a model; two folders of results need no model"""
    calibrate: bool = False
    """Fit the temperature of call confidence to these answers and keep it with the checkpoint, for --ask_below"""
    report: str | None = None
    """Folder for answers, results.json and report.html; none means output/eval/MODEL-HASH. A run into the same folder
    continues it"""
    model: ModelFlags = ModelFlags()
    backend: BackendFlags = BackendFlags()
    template: TemplateFlags = TemplateFlags()
    generation: GenerationFlags = GenerationFlags()
    server: EndpointFlags = EndpointFlags()

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit}: must be 1 or more")
        if not self.tasks:
            raise ValueError("--tasks is empty: name at least one task")
        if twice := next((each for each in (*self.tasks, *map(str, self.seeds)) if self._count(each) > 1), None):
            raise ValueError(f"{twice} is given twice")
        if len(self.compare) > 2:
            raise ValueError(f"--compare takes one or two values, not {len(self.compare)}")
        if self.seeds and self.generation.temperature == 0:
            raise ValueError("--seeds without effect: --temperature 0 gives the same reply with every seed")
        check_guide(self.guided != "false", self.backend)
        if self.calibrate and self.server.endpoint:
            raise ValueError("--calibrate true needs a checkpoint of this machine, not --endpoint")
        if self.server.endpoint and self.guided != "false":
            raise ValueError(f"--guided {self.guided} needs a model of this process, not --endpoint")

    def _count(self, value: str) -> int:
        return (self.tasks + tuple(map(str, self.seeds))).count(value)

    @property
    def vllm_log(self) -> Path:
        """A log file for this process."""
        from swift.assembly.backends import log_file

        return log_file()


class Target(NamedTuple):
    """A model to measure. `name`: what reports call it; `settings`: what its answers depend on, as JSON values.

    `weights`: the folder of the checkpoint or model, where its calibration is kept; None behind a server.
    """

    config: Config
    given: frozenset[str]
    name: str
    settings: dict[str, Any]
    weights: Path | None = None

    @property
    def folder(self) -> Path:
        """A folder that no other settings have."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return FOLDERS / f"{self.name.replace('/', '-')}-{digest[:8]}"


Asked = Sequence[tuple["Task", Sequence["Question"]]]


def run(argv: Sequence[str]) -> None:
    parsed = flags.parse(Config, argv, prog="swift eval")
    main(parsed.config, parsed.given)


def main(cfg: Config, given: Collection[str] = ()) -> Path | None:
    """Measures, compares, prints and writes the report. Returns the folder; None for a comparison of two folders."""
    from swift.eval import results

    if len(cfg.compare) == 2:
        _compare_folders(cfg, given)
        return None
    _check(cfg, given)
    asked = _load_tasks(cfg, given)
    target = _target(cfg, frozenset(given))
    other = _other(cfg, target) if cfg.compare else None
    folder = Path(cfg.report).expanduser() if cfg.report else target.folder
    evaluation, facts = _measure(target, asked, folder)
    comparisons: dict[str, Sequence[Comparison]] = {}
    if modes := results.compare_modes(evaluation):
        comparisons["guided against unguided"] = modes
    if isinstance(other, Target):
        beside = folder / "compared" if cfg.report else other.folder
        baseline, more = _measure(other, _load_tasks(cfg, given), beside)  # tasks may keep what they know of a model
        _write(beside, baseline, {}, _calibrations(other, baseline), more)
    elif other is not None:
        baseline = other
    if other is not None:
        title = f"{evaluation.name} against {baseline.name}"
        comparisons[title] = results.compare(baseline, evaluation)
    calibrations = _calibrations(target, evaluation)
    _write(folder, evaluation, comparisons, calibrations, facts)
    _print(evaluation, comparisons, calibrations)
    _say(f"report: {folder / PAGE}, figures: {folder / results.FILE}")
    if cfg.calibrate:
        _calibrate(target, evaluation)
    return folder


def _check(cfg: Config, given: Collection[str]) -> None:
    """Raises ValueError for flags without effect, and for wrong names."""
    from swift.assembly import endpoint
    from swift.assembly.preflight import writable
    from swift.eval import registry

    for name in cfg.tasks:
        registry.check(name)
    named = (cfg.model.model_id_or_path, cfg.model.model_type, cfg.backend.ckpt_dir, cfg.server.endpoint)
    if cfg.compare and not any(named):
        raise ValueError(
            "--compare: give two folders of results, or a model beside it (--model, --ckpt_dir, --endpoint)"
        )
    if unused := next((name for name in UNUSED if name in given), None):
        raise ValueError(f"--{unused} has no effect here: --seeds samples, and without it decoding is greedy")
    if not cfg.seeds and (unused := next((name for name in SAMPLED if name in given), None)):
        raise ValueError(f"--{unused} has no effect without --seeds: decoding is greedy")
    if cfg.dataset and not any(registry.reads_dataset(name) for name in cfg.tasks):
        raise ValueError(f"--dataset has no effect: {', '.join(cfg.tasks)} brings its own questions")
    names = [name for name in ("model_name", "model_author") if name in given]
    if names and not any(name.startswith("self_cognition") for name in cfg.tasks):
        raise ValueError(f"--{names[0]} has no effect without --tasks self_cognition")
    if cfg.server.endpoint:
        own = {item.name for item in flags.walk(Config) if item.owner is Config}
        endpoint.check(set(given) - own)
    if cfg.report:
        writable(cfg.report, "--report")


def _load_tasks(cfg: Config, given: Collection[str]) -> Asked:
    """The tasks and the questions that --limit selects. Default tasks that find no question are left out."""
    from swift.assembly import checkpoints
    from swift.eval import registry, runner
    from swift.eval.task import NoQuestions, Settings

    limit = cfg.generation.max_new_tokens if "max_new_tokens" in given else None
    record = checkpoints.recorded(checkpoints.checkpoint(cfg.backend.ckpt_dir)) if cfg.backend.ckpt_dir else {}
    settings = Settings(
        cfg.dataset,
        limit,
        cfg.limit,
        model_name=cfg.model_name or tuple(record.get("model_name") or ()),
        model_author=cfg.model_author or tuple(record.get("model_author") or ()),
        say=_say,
    )
    found: list[tuple[Task, Sequence[Question]]] = []
    reasons = []
    for name in cfg.tasks:
        try:
            task = registry.load(name, settings)
        except NoQuestions as error:
            if "tasks" in given:
                raise
            reasons.append(str(error))
            continue
        found.append((task, runner.select(task.questions, cfg.limit)))
    if not found:
        raise ValueError("; ".join(reasons))
    for reason in reasons:
        _say(f"left out: {reason}")
    if cfg.guided != "false" and not any(question.tools for _, questions in found for question in questions):
        raise ValueError(f"--guided {cfg.guided} has no effect: no question of {', '.join(cfg.tasks)} offers tools")
    return found


def _variants(cfg: Config) -> list[Variant]:
    from swift.eval.records import Variant

    modes = {"false": (False,), "true": (True,), "both": (False, True)}[cfg.guided]
    return [Variant(guided, seed) for guided in modes for seed in (cfg.seeds or (None,))]


# --- models ---


def _target(cfg: Config, given: frozenset[str]) -> Target:
    """The model of the flags. Raises ValueError or OSError where there is none; loads no weights."""
    from swift.assembly import checkpoints, endpoint
    from swift.model.location import locate

    generation = {
        "max_new_tokens": cfg.generation.max_new_tokens if "max_new_tokens" in given else None,
        "sampling": {name: getattr(cfg.generation, name) for name in SAMPLED},
        "repetition_penalty": cfg.generation.repetition_penalty,
        "stop_words": list(cfg.generation.stop_words),
    }
    if cfg.server.endpoint:
        chat = endpoint.connect(cfg.server, cfg.model, cfg.template, given)
        settings: dict[str, Any] = {
            "endpoint": cfg.server.endpoint,
            "model": chat.model,
            "template": _changed(cfg.template),
        }
        return Target(cfg, given, chat.model, {**settings, **generation})
    choice = checkpoints.choose(cfg, given)
    where = choice.merge.checkpoint if choice.merge else choice.adapter
    if choice.merge is None:  # an adapter that is still to be merged has no folder yet
        base = locate(choice.source, choice.model.model_revision, choice.model.use_hf, choice.model.registry)
        where = where or base
    name, path = checkpoints.name(choice), Path(choice.source).expanduser()
    settings = {
        "model": str(path.resolve()) if path.exists() else choice.source,
        "ckpt_dir": None,
        "weights": None,
        "loading": _changed(choice.model, without=("model_type", "model_id_or_path", "registry")),
        "template": _changed(choice.template),
        "backend": _changed(cfg.backend, without=("ckpt_dir", "max_batch")),
    }
    if cfg.backend.ckpt_dir:
        folder = checkpoints.checkpoint(cfg.backend.ckpt_dir)
        settings |= {"ckpt_dir": str(folder), "weights": _weights(folder)}
        name = f"{name}-{folder.parent.name}-{folder.name}"
    return Target(cfg, given, name, {**settings, **generation}, where)


def _changed(group: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """The flags of a group that differ from their defaults."""
    default = flags.to_dict(type(group)())
    return {
        name: value for name, value in flags.to_dict(group).items() if value != default[name] and name not in without
    }


def _weights(folder: Path) -> str:
    """Changes with the weights of a checkpoint: names, sizes and times of its files."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".gguf"))
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _other(cfg: Config, target: Target) -> Target | Evaluation:
    """What --compare names: results, a checkpoint or a model."""
    from swift.eval import results

    [text] = cfg.compare
    if results.is_results(text):
        return results.load(Path(text).expanduser())
    path = Path(text).expanduser()
    is_checkpoint = path.is_dir() and ((path / "adapter_config.json").exists() or (path / "sft_args.json").exists())
    if path.is_dir() and not is_checkpoint and not (path / "config.json").exists():
        raise ValueError(f"--compare {text}: neither results (results.json) nor a checkpoint nor a model is there")
    changes: dict[str, str | None] = {
        "ckpt_dir": None,
        "model_id_or_path": None,
        "model_type": None,
        "endpoint": None,
        "api_key": None,
    }
    changes["ckpt_dir" if is_checkpoint else "model_id_or_path"] = text
    return _target(flags.update(cfg, changes, "--compare"), target.given - changes.keys())


@contextmanager
def _loaded(target: Target) -> Iterator[Model]:
    """The model of a target, ready to be asked."""
    from swift.assembly import endpoint
    from swift.assembly.loading import load_chat, sampling
    from swift.eval.runner import Model
    from swift.guided.grammar import Rules

    cfg = target.config
    params = sampling(cfg.generation)
    if cfg.server.endpoint:
        served = endpoint.connect(cfg.server, cfg.model, cfg.template, _sent(target))
        yield Model(served, replace(params, confidence=True))
        return
    chat = load_chat(cfg, target.given, keep=True)
    chat.calibrations.clear()  # answers keep the model's own confidence

    def guide(tools: Sequence[Tool]) -> Guide:
        return chat.guide(Rules(tuple(tools)))

    try:
        yield Model(chat, replace(params, confidence=True), guide, chat.renderer.tool_format.syntax)
    finally:
        chat.engine.close()


def _sent(target: Target) -> frozenset[str]:
    """The generation flags that a server must not choose itself."""
    return (
        target.given
        | {"max_new_tokens", "temperature", "seed"}
        | (frozenset(SAMPLED) if target.config.seeds else set())
    )


# --- asking ---


def _measure(target: Target, asked: Asked, folder: Path) -> tuple[Evaluation, dict[str, Any]]:
    """(results, facts about the run). Asks what the folder does not answer yet; loads no model if that is nothing."""
    from swift.eval import results, runner
    from swift.eval.figures import Results
    from swift.eval.records import Store

    folder.mkdir(parents=True, exist_ok=True)
    results.claim(folder, target.settings)
    store = Store(folder)
    wanted = runner.jobs(asked, _variants(target.config))
    missing = runner.pending(wanted, store)
    began = time.monotonic()
    if missing:
        _say(f"{target.name}: {len(wanted):,} answers, {len(wanted) - len(missing):,} of them in {folder}")
        with _loaded(target) as model:
            _ask(model, missing, store, target.config, folder)
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
        "dataset": list(target.config.dataset),
        "limit": target.config.limit,
    }
    return results.Evaluation(target.name, target.settings, tuple(tasks)), facts


def _in_order(questions: Sequence[Question], answers: Sequence[Record]) -> tuple[Record, ...]:
    """The answers in the order of the questions, in which reports list groups."""
    places = {question.id: place for place, question in enumerate(questions)}
    return tuple(sorted(answers, key=lambda record: places[record.id]))


def _ask(model: Model, missing: Sequence[Job], store: Store, cfg: Config, folder: Path) -> None:
    """Asks and stores. Progress: a bar in a terminal, else a line for each tenth. Ctrl-C keeps what is stored."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from swift.eval import runner

    console = Console(stderr=True)
    columns = (
        TextColumn("ask"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("right {task.fields[right]:.0%}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    done, right, began = 0, 0, time.monotonic()
    workers = AT_ONCE if cfg.server.endpoint else cfg.backend.max_batch
    try:
        with (
            Progress(*columns, console=console, disable=not console.is_terminal) as bar,
            closing(runner.run(model, missing, workers)) as records,
        ):
            shown = bar.add_task("ask", total=len(missing), right=0.0)
            for record in records:
                store.add(record)
                done, right = done + 1, right + record.correct
                bar.update(shown, completed=done, right=right / done)
                if not console.is_terminal and 10 * done // len(missing) > 10 * (done - 1) // len(missing):
                    left = (time.monotonic() - began) / done * (len(missing) - done)
                    _say(f"{done:,} of {len(missing):,} asked, right {right / done:.0%}, {left:.0f} s left")
    except KeyboardInterrupt:
        _say(f"stopped: {len(store.records):,} answers are in {folder}; the same command continues")
        raise


# --- confidence ---


def _calibrations(target: Target, evaluation: Evaluation) -> dict[str, Report]:
    """Task -> how well the confidence of its calls, as the checkpoint calibrates it, matches how many are right."""
    from swift.eval import calibration, results
    from swift.infer.calibration_file import read_calibration
    from swift.infer.confidence import UNCALIBRATED

    kept = read_calibration(target.weights) if target.weights and target.weights.is_dir() else None
    rated = {task.task: results.rated([task]) for task in evaluation.tasks}
    return {name: calibration.report(rows, kept or UNCALIBRATED) for name, rows in rated.items() if rows}


def _calibrate(target: Target, evaluation: Evaluation) -> None:
    """Fits the temperature to all tasks' answers and writes it. Raises ValueError if there are too few calls."""
    from swift.eval import calibration, results
    from swift.infer.calibration_file import write_calibration

    if target.weights is None or not target.weights.is_dir():
        raise ValueError(f"--calibrate true: {target.name} has no folder to keep a calibration in")
    rows = results.rated(evaluation.tasks)
    if not rows:
        raise ValueError("--calibrate true: no answer has a call with a confidence")
    found = calibration.report(rows)
    if found.fitted is None:
        raise ValueError(f"--calibrate true: {found.reason}")
    source = ", ".join((*(task.task for task in evaluation.tasks), *target.config.dataset))
    file = write_calibration(target.weights, found.fitted, found.rows, (found.ece, found.fitted_ece), source)
    _say(
        f"calibration: {file}: temperature {found.fitted.temperature:.3f} from {found.rows} answers with calls; "
        f"expected calibration error {found.ece:.3f}, with the temperature {found.fitted_ece:.3f} on answers that it "
        "is not fitted on"
    )


# --- reporting ---


def _compare_folders(cfg: Config, given: Collection[str]) -> None:
    """Compares two folders of results."""
    from swift.eval import report, results

    if unused := sorted(set(given) - {"compare", "report"}):
        raise ValueError(f"--{unused[0]} has no effect: --compare of two folders asks no model")
    first, second = (results.load(Path(text).expanduser()) for text in cfg.compare)
    found = results.compare(first, second)
    title = f"{second.name} against {first.name}"
    _print_comparisons({title: found})
    if cfg.report:
        folder = Path(cfg.report).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.html").write_text(report.comparison_page(title, found), encoding="utf-8")
        content = {
            "first": cfg.compare[0],
            "second": cfg.compare[1],
            "tasks": [results.comparison_json(e) for e in found],
        }
        (folder / "comparison.json").write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        _say(f"report: {folder / 'comparison.html'}, figures: {folder / 'comparison.json'}")


def _write(
    folder: Path,
    evaluation: Evaluation,
    comparisons: Mapping[str, Sequence[Comparison]],
    calibrations: Mapping[str, Report],
    facts: Mapping[str, Any],
) -> None:
    from swift.eval import report, results

    results.save(folder, evaluation, comparisons, calibrations, facts)
    page = report.page(evaluation, comparisons, calibrations)
    (folder / PAGE).write_text(page, encoding="utf-8", errors="replace")


def _print(
    evaluation: Evaluation, comparisons: Mapping[str, Sequence[Comparison]], calibrations: Mapping[str, Report]
) -> None:
    from swift.eval import report

    console = _console()
    console.print(f"{evaluation.name}: means with 95 % intervals", highlight=False, markup=False)
    for results in evaluation.tasks:
        console.print(report.table(*report.grid(results)))
        calibrated = calibrations.get(results.task)
        sure = [f"confidence of calls: {calibrated.text}"] if calibrated else []
        for line in (*report.failure_lines(results), *results.notes, *sure):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    _print_comparisons(comparisons)


def _print_comparisons(comparisons: Mapping[str, Sequence[Comparison]]) -> None:
    from swift.eval import report

    console = _console()
    for title, found in comparisons.items():
        console.print(f"{title}: second is {title.partition(' against ')[0]}", highlight=False, markup=False)
        for each in found:
            console.print(report.table(*report.change_grid(each)))
            console.print(report.flip_line(each), highlight=False, markup=False, soft_wrap=True)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
