"""Flags -> transformers' TrainingArguments and the trainer with its callbacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.assembly import tuner_setup
from swift.assembly.training_config import TrainingConfig

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from swift.assembly.run_journal import Journal
    from swift.assembly.training_data import Data
    from swift.train.lazy_datasets import Stream
    from swift.train.objective import Objective
    from swift.train.trainer import SftTrainer


def training_arguments(
    cfg: TrainingConfig, folder: Path, device: str, dtype: str, evaluates: bool, sharding: dict[str, Any]
) -> TrainingArguments:
    """`cfg` has its defaults filled in; `sharding` has the settings of FSDP or DeepSpeed."""
    from swift.train.trainer import arguments
    from swift.tuner.registry import TUNERS

    train, tuner = cfg.train, TUNERS[cfg.train.sft_type]
    trackers = [name for name in train.logging.report_to if name not in ("tensorboard", "none")]
    recompute = train.kernels.gradient_checkpointing
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
        **tuner_setup.optimizer(cfg, one_pass=device == "cpu" and tuner.full_model and not sharding),
        **tuner_setup.kernels(train, device),
        adam_beta1=train.optimizer.adam_beta1,
        adam_beta2=train.optimizer.adam_beta2,
        adam_epsilon=train.optimizer.adam_epsilon,
        gradient_checkpointing=device != "cpu" and tuner.recomputes if recompute is None else recompute,
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
        bf16=dtype == "bf16" and "deepspeed" in sharding,  # otherwise the model itself is in bf16
        use_cpu=device == "cpu",
        ddp_backend=cfg.parallel.ddp_backend,
        ddp_find_unused_parameters=bool(cfg.parallel.ddp_find_unused_parameters),
        ignore_data_skip=cfg.loader.streaming,  # a stream skips without making samples
        **sharding,
    )


def make_trainer(
    cfg: TrainingConfig,
    model: Any,
    data: Data,
    folder: Path,
    args: TrainingArguments,
    packed: bool,
    finish: Callable[[Path], None],
    objective: Objective,
    journal: Journal,
) -> SftTrainer:
    """The trainer of a run. `packed`: the model takes rows without padding. `finish(folder)` completes checkpoints.

    `journal` receives signs of life and the lines of progress.
    """
    from swift.train.heartbeat import Heartbeat
    from swift.train.progress import ShowProgress
    from swift.train.report import WriteLog
    from swift.train.trainer import SftTrainer
    from swift.tuner.cpu import fused

    logging, extra = cfg.train.logging, tuner_setup.loop(model, cfg)
    progress = ShowProgress(live=not logging.disable_tqdm, note=journal.note)
    callbacks = [WriteLog(folder), Heartbeat(folder, journal.beat), progress, *extra.callbacks]
    if "tensorboard" in logging.report_to and args.process_index == 0:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        callbacks.append(TensorBoardCallback(SummaryWriter(logging.logging_dir or str(folder / "runs"))))
    limit = cfg.train.saving.save_total_limit
    shares = packed and fused.takes_branches(model)
    if cfg.loader.group_by_prefix and not (shares and args.world_size == 1):
        raise ValueError(
            "--group_by_prefix has no effect here: only LoRA on a CPU, in one process and without a sliding window, "
            "computes common beginnings once. Leave it out"
        )
    return SftTrainer(
        model,
        folder,
        args,
        data.train,
        data.val,
        keep=None if limit < 0 else limit,
        lora_lr_ratio=cfg.lora.lora_lr_ratio,
        max_minutes=cfg.train.max_minutes,
        finish=finish,
        callbacks=callbacks,
        store=extra.store,
        penalty=extra.penalty,
        stream=_stream(data, args),
        packed=packed,
        any_length=fused.takes_any_length(model),
        share_prefixes=shares,
        group_by_prefix=cfg.loader.group_by_prefix,
        refresh=partial(fused.refresh, model) if packed else None,
        objective=objective,
    )


def _stream(data: Data, args: TrainingArguments) -> Stream[Any] | None:
    if data.stream is None:
        return None
    return data.stream(
        args.per_device_train_batch_size, args.gradient_accumulation_steps, args.process_index, args.world_size
    )
