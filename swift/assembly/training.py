"""A training run from flags to its result, whatever it minimises: the steps that the training commands share."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from swift import flags
from swift.assembly import (
    checkpoints,
    dry_run,
    fast_path,
    parallelism,
    pipeline,
    preflight,
    resuming,
    run_folder,
    run_journal,
    run_records,
    run_summary,
    step_plan,
    trainer_setup,
    tuner_setup,
)
from swift.assembly.training_config import ADAPTER_RATE, FULL_RATE, TrainingConfig, with_defaults

if TYPE_CHECKING:
    from swift.assembly.training_data import Data
    from swift.template import Renderer
    from swift.train.objective import Objective
    from swift.train.ranks import Ranks

Say = Callable[[str], None]
C = TypeVar("C", bound=TrainingConfig)


class Start(NamedTuple):
    """The model before its first step. `packed`: it takes rows without padding."""

    model: Any
    packed: bool
    ranks: Ranks
    say: Say


def _check_nothing(cfg: TrainingConfig) -> None:
    pass


def _likelihood(cfg: TrainingConfig, data: Data, start: Start) -> tuple[Data, Objective]:
    from swift.train.objective import Likelihood

    return data, Likelihood(data.sources)


class Method(NamedTuple):
    """What the training commands differ in; the defaults are those of `swift sft`.

    `rates`: default learning rates of adapters and of full fine-tuning. `most_epochs`: of a small data set, where no
    number is given. `check` raises ValueError for wrong flags before anything is read. `objective` returns what is
    minimised, and the data with what it needs to know of them.
    """

    verb: str = "sft"
    rates: tuple[float, float] = (ADAPTER_RATE, FULL_RATE)
    most_epochs: int = step_plan.MOST_EPOCHS
    check: Callable[[TrainingConfig], None] = _check_nothing
    read: Callable[[TrainingConfig, Renderer, Say, Ranks], Data] = pipeline.read
    objective: Callable[[TrainingConfig, Data, Start], tuple[Data, Objective]] = _likelihood


LIKELIHOOD = Method()
"""The likelihood of replies: `swift sft`."""


def run(cfg: TrainingConfig, method: Method = LIKELIHOOD) -> dict[str, Any]:
    """Trains and returns the result (`run_summary.result`); the run's folder, `output_dir`, has a page about it."""
    import torch

    torch.set_flush_denormal(True)  # on a CPU denormal numbers make a step many times slower
    journal = run_journal.Journal()
    try:
        with journal, ExitStack() as cleanup:
            return _train(cfg, method, journal, cleanup)
    finally:
        torch.set_flush_denormal(False)
        if journal.folder:  # its record says by now how the run ended
            run_summary.write_page(journal.folder)


def _train(cfg: C, method: Method, journal: run_journal.Journal, cleanup: ExitStack) -> dict[str, Any]:
    from transformers import set_seed

    from swift.assembly.rendering import make_renderer
    from swift.model import catalog, devices, load, location
    from swift.train.ranks import Ranks, use_one_gpu
    from swift.tuner import peft_models
    from swift.tuner.cpu import fused

    # what is wrong with the flags, before anything is read
    method.check(cfg)
    dry_run.check(cfg)
    tuner_setup.check(cfg)
    pipeline.check(cfg)
    spread = parallelism.check(cfg)
    if not spread.device_map:
        use_one_gpu(cfg.model.device)
    device = devices.pick_device(cfg.model.device)
    parallelism.check_device(spread, device, cfg.parallel.ddp_backend)
    attention = tuner_setup.attention(cfg.train, device.type)
    preflight.check(cfg, device, spread.engine)

    # the processes, the model's files, the data
    ranks = Ranks.join(device.type == "cpu", cfg.parallel.ddp_backend)
    say = journal.say if ranks.first else _silence
    name = cfg.model.model_id_or_path or cfg.model.model_type
    if not name:
        raise ValueError("no model is named: give --model_id_or_path (a folder, hub id or name) or --model_type")
    path = location.locate(name, cfg.model.model_revision, cfg.model.use_hf, cfg.model.registry)
    spec = catalog.choose(cfg.model.model_type, name, str(path), registry=cfg.model.registry)
    cfg = replace(cfg, template=checkpoints.named_template(cfg.model, cfg.template))
    preflight.check_model(cfg, path, spec)
    renderer = make_renderer(path, cfg.template, spec, cfg.model.trust_remote_code)
    say(f"model: {name} ({path})")
    data = method.read(cfg, renderer, say, ranks)

    # the run: its folder, its steps, the checkpoint that it resumes
    given, cfg = cfg, with_defaults(cfg, spec.model_type if spec else None, method.rates)
    saving = cfg.train.saving
    runs = run_folder.runs_of(saving, cfg.model, path)
    versions = run_folder.versions(saving, runs)
    resume = resuming.find(saving.resume_from_checkpoint, runs, versions, spread.engine, say)
    cfg, plan = _planned(given, cfg, method, data, ranks.world, resume, say)
    whole, expected = data, pipeline.expected_tokens(cfg.train, data, ranks.world)
    if cfg.train.dry_run:
        cfg, data = dry_run.shortened(cfg, data, ranks.world)
        folder = ranks.broadcast(lambda: cleanup.enter_context(dry_run.folder()))
    else:
        folder = ranks.broadcast(lambda: run_journal.free(run_folder.create(saving, runs, resume)))
        if ranks.first:
            journal.begin(folder, run_journal.begun(method.verb, given, cfg, plan["steps"], resume))

    # the model with its tuner
    set_seed(cfg.train.seed)
    dtype = tuner_setup.dtype(cfg, device, path)
    # before the model is loaded: DeepSpeed shards the weights while they are read
    args = trainer_setup.training_arguments(cfg, folder, device.type, dtype, bool(data.val), spread.settings)
    model = load.load_model(
        path,
        dtype,
        cfg.model.device,
        cfg.model.trust_remote_code,
        attention,
        quantisation=tuner_setup.quantisation(cfg.model, spread.engine),
        device_map=spread.device_map,
        shards=spread.shards,
        spec=spec,
    )
    renamed = partial(load.targets, path, trust_remote_code=cfg.model.trust_remote_code, spec=spec)
    batches = pipeline.inputs(data, cfg.train.batch_size, device)
    model = tuner_setup.tune(model, cfg, spec.lora_targets if spec else (), renamed, batches)
    packed = fast_path.apply(
        model,
        cfg,
        path,
        say,
        fast_path.why_spread(cfg, bool(spread.engine or spread.device_map), ranks.world),
        expected,
        resuming.recorded(resume).get("kernels", ""),
    )
    plan["kernels"] = fused.kernels(model)
    trained, total = peft_models.trained_and_all(model)
    say(f"{cfg.train.sft_type}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%})")

    # training
    data, objective = method.objective(cfg, data, Start(model, packed, ranks, say))
    finish = run_records.checkpoint_finisher(cfg, plan, renderer, path, spec, data)
    trainer = trainer_setup.make_trainer(cfg, model, data, folder, args, packed, finish, objective, journal)
    if ranks.first:
        run_records.write(cfg, data, plan["steps"], folder)
    run_summary.say_start(whole, trainer, plan["steps"], say)
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if cfg.train.dry_run:
        return dry_run.end(trainer, whole, plan["steps"], device, ranks, say)
    return _end(given, cfg, method, trainer, data, folder, time.perf_counter() - began, ranks, journal, say)


def _planned(
    given: C, cfg: C, method: Method, data: Data, world: int, resume: Path | None, say: Say
) -> tuple[C, dict[str, Any]]:
    """The flags with the number of steps filled in, and the plan that checkpoints record.

    `given`: the flags before defaults were filled in. Raises ValueError where no step is left to train.
    """
    before = resuming.recorded(resume)
    rows = None if data.stream else len(data.train)
    steps = step_plan.steps_of(cfg.train, rows, world, before, method.most_epochs)
    cfg = flags.update(
        cfg,
        {"gradient_accumulation_steps": steps.accumulation, "num_train_epochs": steps.epochs},
        "derived flags",
    )
    plan = resuming.plan(steps, data.train, streaming=data.stream is not None)
    if resume:
        resuming.check(resume, before, {**flags.to_dict(cfg), **plan}, steps, say)
    step_plan.say_plan(given.train, cfg.train, steps, len(data.val), say, run_summary.unit(data))
    return cfg, plan


def _end(
    given: C,
    cfg: C,
    method: Method,
    trainer: Any,
    data: Data,
    folder: Path,
    seconds: float,
    ranks: Ranks,
    journal: run_journal.Journal,
    say: Say,
) -> dict[str, Any]:
    """Reports and returns the result. SystemExit for a run that a signal stopped, ValueError if no weight changed."""
    from swift.train import checkpoint

    result = run_summary.result(trainer, data, folder, seconds)
    unmoved = trainer.unmoved()
    run_summary.say_end(result, cfg.model, say)
    if trainer.stopped or trainer.late:
        journal.stopped(run_summary.why_stopped(trainer))
        say(f"stopped {run_summary.why_stopped(trainer)}")
        say(resuming.how_to_resume(method.verb, given, checkpoint.newest_saved(folder)))
    ranks.leave()
    if trainer.stopped:
        raise SystemExit(128 + trainer.stopped)  # the exit code of a process that the signal ended
    if unmoved:
        raise ValueError(
            f"nothing was learned: after {result['global_step']} steps {unmoved}, so {result['last_model_checkpoint']} "
            f"answers like the base model: raise --learning_rate {cfg.train.optimizer.learning_rate:g}, or train longer"
        )
    return result


def _silence(_: str) -> None:
    pass
