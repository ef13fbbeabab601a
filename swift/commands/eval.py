"""Measure how well a model calls tools, with intervals, and compare it with another."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from swift import flags
from swift.assembly.endpoint import EndpointFlags
from swift.flag_groups import BackendFlags, GenerationFlags, ModelFlags, TemplateFlags, check_engine
from swift.flags import flag

if TYPE_CHECKING:
    from swift.assembly.eval_measurement import Asked
    from swift.eval.figures import Comparison
    from swift.eval.records import Variant
    from swift.eval.task import Question, Task

UNUSED = ("stream", "do_sample", "seed")
"""Generation flags without a meaning here: --seeds has the seeds, and selects between greedy decoding and sampling."""


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift eval --model smollm2-135m-agent --compare smollm2-135m-instruct --limit 20"
    most_used: ClassVar[tuple[str, ...]] = (
        "model_id_or_path",
        "ckpt_dir",
        "tasks",
        "dataset",
        "limit",
        "compare",
        "report",
        "guided",
        "seeds",
        "endpoint",
    )

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
    """Fit the temperature of call confidence to these answers, and the confidence below which calls are not made, and
    keep both with the checkpoint, for --ask_below and --min_confidence. With --min_confidence P the confidence that is
    kept is at least P"""
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
        check_engine(self.guided != "false", self.generation, self.backend)
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


def run(argv: Sequence[str]) -> None:
    parsed = flags.parse(Config, argv, prog="swift eval")
    main(parsed.config, parsed.given)


def main(cfg: Config, given: Collection[str] = ()) -> Path | None:
    """Measures, compares, prints and writes the report. Returns the folder; None for a comparison of two folders."""
    if len(cfg.compare) == 2:
        _compare_folders(cfg, given)
        return None

    from swift.assembly.eval_measurement import measure
    from swift.assembly.eval_targets import Target, other_target, target_of
    from swift.eval import report_files, results, terminal_report
    from swift.eval.checkpoint_calibration import calibrate, calibrations

    _check(cfg, given)
    asked = _load_tasks(cfg, given)
    variants, chosen = _variants(cfg), {"dataset": list(cfg.dataset), "limit": cfg.limit}
    target = target_of(cfg, frozenset(given))
    other = other_target(cfg, target) if cfg.compare else None
    folder = Path(cfg.report).expanduser() if cfg.report else target.folder
    evaluation, facts = measure(target, asked, variants, folder)
    comparisons: dict[str, Sequence[Comparison]] = {}
    if modes := results.compare_modes(evaluation):
        comparisons["guided against unguided"] = modes
    if isinstance(other, Target):
        beside = folder / "compared" if cfg.report else other.folder
        asked = _load_tasks(cfg, given)  # again, because tasks may keep what they know of a model
        baseline, more = measure(other, asked, variants, beside)
        report_files.write(beside, baseline, {}, calibrations(other.weights, baseline), {**more, **chosen})
    elif other is not None:
        baseline = other
    if other is not None:
        title = f"{evaluation.name} against {baseline.name}"
        comparisons[title] = results.compare(baseline, evaluation)
    calibrated = calibrations(target.weights, evaluation)
    report_files.write(folder, evaluation, comparisons, calibrated, {**facts, **chosen})
    terminal_report.show(evaluation, comparisons, calibrated)
    _say(f"report: {folder / report_files.PAGE}, figures: {folder / results.FILE}")
    if cfg.calibrate:
        _say(calibrate(target.weights, evaluation, cfg.dataset, cfg.generation.min_confidence or 0.0))
    return folder


def _check(cfg: Config, given: Collection[str]) -> None:
    """Raises ValueError for flags without effect, and for wrong names."""
    from swift.assembly import endpoint
    from swift.assembly.eval_targets import SAMPLED
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
    record = checkpoints.record_of(cfg)
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


def _compare_folders(cfg: Config, given: Collection[str]) -> None:
    """Compares two folders of results."""
    from swift.eval import report_files, results, terminal_report

    if unused := sorted(set(given) - {"compare", "report"}):
        raise ValueError(f"--{unused[0]} has no effect: --compare of two folders asks no model")
    first, second = (results.load(Path(text).expanduser()) for text in cfg.compare)
    found = results.compare(first, second)
    title = f"{second.name} against {first.name}"
    terminal_report.show_comparisons({title: found})
    if cfg.report:
        folder = Path(cfg.report).expanduser()
        report_files.write_comparison(folder, title, (cfg.compare[0], cfg.compare[1]), found)
        _say(f"report: {folder / report_files.COMPARISON_PAGE}, figures: {folder / report_files.COMPARISON}")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
