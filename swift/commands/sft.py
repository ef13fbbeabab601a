"""Train a model on conversations: adapters or the whole of it, in one process or several."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift import flags
from swift.assembly import model_card, next_commands, parallelism, pipeline, preflight, resuming, step_plan, tuner_setup
from swift.flag_groups import (
    DataFlags,
    LoaderFlags,
    LoraFlags,
    ModelFlags,
    ParallelFlags,
    TemplateFlags,
    TrainFlags,
    TunerFlags,
)

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from swift.assembly.training_data import Data
    from swift.model.catalog import ModelSpec
    from swift.template import Renderer
    from swift.train.lazy_datasets import Stream
    from swift.train.trainer import SftTrainer

ADAPTER_RATE, WHOLE_RATE = 1e-4, 1e-5


@dataclass(frozen=True)
class Config:
    model: ModelFlags = ModelFlags()
    template: TemplateFlags = TemplateFlags()
    data: DataFlags = DataFlags()
    lora: LoraFlags = LoraFlags()
    tuner: TunerFlags = TunerFlags()
    train: TrainFlags = TrainFlags()
    loader: LoaderFlags = LoaderFlags()
    parallel: ParallelFlags = ParallelFlags()


def main(cfg: Config) -> dict[str, Any]:
    """Trains, and returns what came of it; the same stands in the run's folder, whose path is `output_dir`."""
    import torch

    torch.set_flush_denormal(True)  # on a CPU a run of tiny numbers makes a step many times slower
    try:
        return _train(cfg)
    finally:
        torch.set_flush_denormal(False)


def _train(cfg: Config) -> dict[str, Any]:
    from transformers import set_seed

    from swift.assembly.rendering import make_renderer
    from swift.model import catalog, devices, load, location
    from swift.train import checkpoint
    from swift.train.ranks import Ranks, use_one_gpu
    from swift.tuner import peft_models
    from swift.tuner.cpu import fused

    tuner_setup.check(cfg)
    pipeline.check(cfg)
    spread = parallelism.check(cfg)
    if not spread.device_map:
        use_one_gpu(cfg.model.device)
    device = devices.pick_device(cfg.model.device)
    parallelism.check_device(spread, device)
    attention = tuner_setup.attention(cfg.train, device.type)
    tuner_setup.kernels(cfg.train, device.type)
    preflight.check(cfg, device, spread.engine)
    ranks = Ranks.join(device.type == "cpu", cfg.parallel.ddp_backend)
    say = print if ranks.first else _silence

    name = cfg.model.model_id_or_path or cfg.model.model_type
    if not name:
        raise ValueError("which model? give --model_id_or_path (a folder, hub id or name) or --model_type")
    path = location.locate(name, cfg.model.model_revision, cfg.model.use_hf, cfg.model.registry)
    spec = catalog.choose(cfg.model.model_type, name, str(path), registry=cfg.model.registry)
    preflight.check_model(cfg, path, spec)
    renderer = make_renderer(path, cfg.template, spec, cfg.model.trust_remote_code)

    say(f"model: {name} ({path})")
    data = pipeline.read(cfg, renderer, say, ranks)
    given, cfg = cfg, _derived(cfg, spec.model_type if spec else None)
    runs = _runs(cfg, path)
    versions = _versions(runs) if cfg.train.saving.add_output_dir_suffix else {0: runs}
    resume = resuming.find(cfg.train.saving.resume_from_checkpoint, runs, versions, spread.engine, say)
    cfg, plan = _planned(given, cfg, data, ranks.world, resume, say)
    folder = ranks.broadcast(lambda: _run_folder(cfg, runs, resume))

    set_seed(cfg.train.seed)
    # before the model is loaded: DeepSpeed deals out the weights as they are read
    dtype = tuner_setup.dtype(cfg, device, path)
    args = _training_arguments(cfg, folder, device.type, dtype, bool(data.val), spread.settings)
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
    model = tuner_setup.tune(
        model, cfg, spec.lora_targets if spec else (), renamed, pipeline.inputs(data, cfg.train.batch_size, device)
    )
    apart = _apart(cfg, bool(spread.engine or spread.device_map), ranks.world)
    before = resuming.recorded(resume).get("kernels", "")
    packed = tuner_setup.fuse(model, cfg, path, say, apart, _tokens(cfg, data, ranks.world), before)
    plan["kernels"] = fused.kernels(model)
    trained, whole = peft_models.trained_and_all(model)
    say(f"{cfg.train.sft_type}: {trained:,} of {whole:,} parameters are trained ({trained / whole:.2%})")

    finish = _finish(cfg, plan, renderer, path, spec, data)
    trainer = _trainer(cfg, model, data, folder, args, packed, finish)
    if ranks.first:
        _write_record(cfg, folder)
        (folder / "mixture.json").write_text(_mixture_json(data, plan["steps"]), encoding="utf-8")
    _say_header(data, trainer, plan["steps"], say)
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    result = _result(trainer, data, folder, time.perf_counter() - began)
    if ranks.first:
        _write_summary(cfg, result, data, folder)
    unmoved = trainer.unmoved()
    next_commands.say_end(result, cfg.model, say)
    if trainer.stopped or trainer.late:
        say(_why_early(trainer))
        say(resuming.how_to_go_on(given, checkpoint.newest_saved(folder)))
    ranks.leave()
    if trainer.stopped:
        raise SystemExit(128 + trainer.stopped)  # as a process that the signal ended
    if unmoved:
        raise ValueError(
            f"nothing was learned: after {result['global_step']} steps {unmoved}, so {result['last_model_checkpoint']} "
            f"answers like the base model: raise --learning_rate {cfg.train.optimizer.learning_rate:g}, or train longer"
        )
    return result


def _planned(
    given: Config, cfg: Config, data: Data, world: int, resume: Path | None, say: Callable[[str], None]
) -> tuple[Config, dict[str, Any]]:
    """The flags with the steps of the run filled in, and what its checkpoints record. ValueError for none to train."""
    before = resuming.recorded(resume)
    rows = None if data.stream else len(data.train)
    steps = step_plan.steps_of(cfg.train, rows, world, before)
    cfg = flags.update(
        cfg,
        {"gradient_accumulation_steps": steps.accumulation, "num_train_epochs": steps.epochs},
        "derived flags",
    )
    plan = resuming.plan(steps, data.train, streaming=data.stream is not None)
    if resume:
        resuming.check(resume, before, {**flags.to_dict(cfg), **plan}, steps, say)
    step_plan.say_plan(given.train, cfg.train, steps, len(data.val), say, _unit(data))
    return cfg, plan


def _why_early(trainer: SftTrainer) -> str:
    step = f"step {trainer.state.global_step} of {trainer.state.max_steps}"
    if trainer.late:
        return f"stopped after {step}: the time of --max_minutes is over"
    return f"stopped after {step} by {signal.Signals(trainer.stopped).name}"


def _apart(cfg: Config, spread: bool, world: int) -> str:
    """Why the run does not take the fast path, by how it is spread; empty where nothing speaks against it."""
    from swift.tuner.registry import TUNERS

    if spread:
        return "its weights are spread"
    return "several processes train all weights" if TUNERS[cfg.train.sft_type].whole and world > 1 else ""


def _tokens(cfg: Config, data: Data, world: int) -> float:
    """How many tokens the run will see, about."""
    from swift.train.lazy_datasets import lengths

    train, each = cfg.train, lengths(data.train)
    passes = train.num_train_epochs or 1
    if train.max_steps > 0:
        passes = train.max_steps * train.batch_size * (train.gradient_accumulation_steps or 1) * world / len(each)
    return sum(each) * passes


# --- flags -> settings ----------------------------------------------------------------------------------------------


def _derived(cfg: Config, model_type: str | None) -> Config:
    """The flags with what follows from others filled in."""
    from swift.tuner.registry import TUNERS

    train = cfg.train
    adapters = not TUNERS[train.sft_type].whole
    rate = ADAPTER_RATE if adapters else WHOLE_RATE
    name = cfg.model.model_id_or_path
    here = name is not None and Path(name).expanduser().exists()
    return flags.update(
        cfg,
        {
            "model_type": model_type,
            # the record of the run is read from other folders too
            "model_id_or_path": str(Path(str(name)).expanduser().resolve()) if here else name,
            "registry": [str(Path(file).expanduser().resolve()) for file in cfg.model.registry],
            "learning_rate": rate if train.optimizer.learning_rate is None else train.optimizer.learning_rate,
            "eval_batch_size": train.evaluation.eval_batch_size or train.batch_size,
            "save_steps": train.saving.save_steps or train.evaluation.eval_steps,
            "save_only_model": not adapters if train.saving.save_only_model is None else train.saving.save_only_model,
        },
        "derived flags",
    )


def _training_arguments(
    cfg: Config, folder: Path, device: str, dtype: str, evaluates: bool, spread: dict[str, Any]
) -> TrainingArguments:
    from swift.train.trainer import arguments
    from swift.tuner.registry import TUNERS

    train = cfg.train
    trackers = [name for name in train.logging.report_to if name not in ("tensorboard", "none")]
    return arguments(
        folder,
        report_to=trackers or "none",
        run_name=folder.name,
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.evaluation.eval_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        num_train_epochs=train.num_train_epochs,
        max_steps=train.max_steps,
        learning_rate=train.optimizer.learning_rate,
        weight_decay=train.optimizer.weight_decay,
        max_grad_norm=train.optimizer.max_grad_norm,
        warmup_steps=train.optimizer.warmup_steps or train.optimizer.warmup_ratio,
        lr_scheduler_type=train.optimizer.lr_scheduler_type,
        **tuner_setup.optimizer(cfg, one_pass=device == "cpu" and TUNERS[train.sft_type].whole and not spread),
        **tuner_setup.kernels(train, device),
        adam_beta1=train.optimizer.adam_beta1,
        adam_beta2=train.optimizer.adam_beta2,
        adam_epsilon=train.optimizer.adam_epsilon,
        gradient_checkpointing=device != "cpu" and TUNERS[train.sft_type].recomputes
        if train.kernels.gradient_checkpointing is None
        else train.kernels.gradient_checkpointing,
        neftune_noise_alpha=train.neftune_noise_alpha,
        eval_strategy=train.evaluation.eval_strategy if evaluates else "no",
        eval_steps=train.evaluation.eval_steps,
        save_strategy=train.saving.save_strategy,
        save_steps=train.saving.save_steps,
        save_only_model=train.saving.save_only_model,
        logging_steps=train.logging.logging_steps,
        logging_first_step=True,
        dataloader_num_workers=cfg.loader.dataloader_num_workers,
        dataloader_pin_memory=device == "cuda",
        seed=train.seed,
        fp16=dtype == "fp16",
        bf16=dtype == "bf16" and "deepspeed" in spread,  # elsewhere the model itself is in bf16
        use_cpu=device == "cpu",
        ddp_backend=cfg.parallel.ddp_backend,
        ddp_find_unused_parameters=bool(cfg.parallel.ddp_find_unused_parameters),
        ignore_data_skip=cfg.loader.streaming,  # the stream skips by itself, and makes no samples of what it skips
        **spread,
    )


def _trainer(
    cfg: Config,
    model: Any,
    data: Data,
    folder: Path,
    args: TrainingArguments,
    packed: bool,
    finish: Callable[[Path], None],
) -> SftTrainer:
    from swift.train.progress import ShowProgress
    from swift.train.report import WriteLog
    from swift.train.trainer import SftTrainer
    from swift.tuner.cpu import fused

    extra = tuner_setup.loop(model, cfg)
    callbacks = [WriteLog(folder), ShowProgress(live=not cfg.train.logging.disable_tqdm), *extra.callbacks]
    if "tensorboard" in cfg.train.logging.report_to and args.process_index == 0:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        callbacks.append(TensorBoardCallback(SummaryWriter(cfg.train.logging.logging_dir or str(folder / "runs"))))
    return SftTrainer(
        model,
        folder,
        args,
        data.train,
        data.val,
        keep=None if cfg.train.saving.save_total_limit < 0 else cfg.train.saving.save_total_limit,
        lora_lr_ratio=cfg.lora.lora_lr_ratio,
        max_minutes=cfg.train.max_minutes,
        finish=finish,
        callbacks=callbacks,
        store=extra.store,
        penalty=extra.penalty,
        stream=_stream(data, args),
        packed=packed,
        any_length=fused.takes_any_length(model),
        refresh=partial(fused.refresh, model) if packed else None,
    )


def _stream(data: Data, args: TrainingArguments) -> Stream[Any] | None:
    if data.stream is None:
        return None
    return data.stream(
        args.per_device_train_batch_size, args.gradient_accumulation_steps, args.process_index, args.world_size
    )


# --- folders --------------------------------------------------------------------------------------------------------


def _runs(cfg: Config, model: Path) -> Path:
    """The folder of all runs of this model, or of this run where no suffix is wanted."""
    root = Path(cfg.train.saving.output_dir).expanduser()
    if not cfg.train.saving.add_output_dir_suffix:
        return root
    found = model.resolve()
    return root / (cfg.model.model_type or (found.stem if found.is_file() else found.name) or "model")


def _run_folder(cfg: Config, runs: Path, resume: Path | None) -> Path:
    """The folder of this run, made. A run that is continued goes on in its own, unless another one is named."""
    if not cfg.train.saving.add_output_dir_suffix:
        folder = runs
    elif resume:
        folder = resume.parent
    else:
        number = max(_versions(runs), default=-1) + 1
        folder = runs / f"v{number}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _versions(runs: Path) -> dict[int, Path]:
    found = ((re.match(r"v(\d+)-", path.name), path) for path in runs.glob("v*-*"))
    return {int(match[1]): path for match, path in found if match}


# --- what a run leaves ----------------------------------------------------------------------------------------------


def _write_record(cfg: Config, folder: Path) -> None:
    text = json.dumps(flags.to_dict(cfg), indent=2, ensure_ascii=False)
    (folder / resuming.RECORD).write_text(text + "\n", encoding="utf-8")


def _finish(
    cfg: Config, plan: dict[str, Any], renderer: Renderer, source: Path, spec: ModelSpec | None, data: Data
) -> Callable[[Path], None]:
    """Adds to a checkpoint what infer, deploy and export need to know beside the weights."""
    from swift.model import vision
    from swift.tuner.registry import TUNERS

    name = cfg.model.model_id_or_path or cfg.model.model_type or ""
    base, hub_id = model_card.base_name(spec, name), model_card.published(spec, name)

    def finish(folder: Path) -> None:
        _write_record(cfg, folder)
        (folder / resuming.PLAN).write_text(json.dumps(plan) + "\n", encoding="utf-8")
        model_card.finish(folder, base, hub_id, data.shares, flags.to_dict(cfg))
        if TUNERS[cfg.train.sft_type].whole:
            renderer.tokenizer.save_pretrained(folder)
            if renderer.image_processor:
                vision.copy_processor(source, folder)

    return finish


def _mixture_json(data: Data, steps: int) -> str:
    from swift.train.report import total

    content = {
        "sources": {name: share._asdict() for name, share in data.shares.items()},
        "total": total(data.shares)._asdict(),
        "steps": steps,
        "held_out_rows": data.held_out,
        "held_out_samples": len(data.val),
        **data.outcomes,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _say_header(data: Data, trainer: SftTrainer, steps: int, say: Callable[[str], None]) -> None:
    from swift.train.report import counted, total

    args, everything = trainer.args, total(data.shares)
    for name, share in data.shares.items():
        part = share.trained_tokens / everything.trained_tokens
        say(f"mixture: {name}: {share.counted}, {share.trained_tokens:,} trained tokens ({part:.1%} of all)")
    part = everything.trained_tokens / everything.tokens
    say(f"mixture: {everything.counted}, {everything.tokens:,} tokens, {part:.1%} of them trained")
    size = f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps} x {args.world_size}"
    held_out = counted(data.held_out, len(data.val))
    say(f"steps: {steps:,} of {size} {_unit(data)}s (batch x accumulation x processes); held out: {held_out}")
    say(f"first row:\n{data.first_row}\n")


def _unit(data: Data) -> str:
    """What steps are counted in: samples, which are rows where no dialogue takes several."""
    return "row" if all(share.samples == share.rows for share in data.shares.values()) else "sample"


def _result(trainer: SftTrainer, data: Data, folder: Path, seconds: float) -> dict[str, Any]:
    from swift.train import checkpoint
    from swift.train.report import peak_memory, total

    everything, pace, state = total(data.shares), trainer.throughput, trainer.state
    last = checkpoint.newest_saved(folder)
    return {
        "output_dir": str(folder),
        "last_model_checkpoint": str(last) if last else None,
        "best_model_checkpoint": state.best_model_checkpoint,
        "best_metric": state.best_metric,
        "global_step": state.global_step,
        "train_time": seconds,
        "tokens_per_second": pace.tokens_per_second,
        "padding_share": pace.padding,
        "trained_token_share": everything.trained_tokens / everything.tokens,
        "memory_gib": peak_memory() / 2**30,
        "log_history": state.log_history,
    }


def _write_summary(cfg: Config, result: dict[str, Any], data: Data, folder: Path) -> None:
    from swift.train import report

    numbers = [(name, value) for name, value in result.items() if name != "log_history"]
    shares = [(name, *share) for name, share in data.shares.items()]
    drawn = report.curves(result["log_history"])
    losses = {name: points for name, points in drawn.items() if name.endswith("_loss")}
    others = {name: points for name, points in drawn.items() if not name.endswith("_loss")}
    page = report.page(
        f"{cfg.model.model_type}, {cfg.train.sft_type}",
        [
            report.Section("Outcome", report.table(("", ""), numbers)),
            report.Section("Loss", report.chart(losses)),
            report.Section("Mixture", report.table(("source", "rows", "samples", "tokens", "trained tokens"), shares)),
            report.Section("First row", report.code(data.first_row)),
            report.Section("Curves", "".join(report.chart({name: points}) for name, points in others.items())),
            report.Section("Flags", report.table(("flag", "value"), flags.to_dict(cfg).items())),
        ],
    )
    (folder / "summary.html").write_text(page, encoding="utf-8")


def _silence(_: str) -> None:
    pass
