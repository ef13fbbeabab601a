"""transformers' Trainer with our batches, loss, evaluation and checkpoints. Knows no chat and no template."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from swift.chat import Sample
from swift.train import checkpoint, prefixes, schedule, sharding
from swift.train.batch import (
    Batch,
    StepBatches,
    StepLoader,
    batches_of_rank,
    round_length,
)
from swift.train.lazy_datasets import Stream, StreamLoader, lengths
from swift.train.loss import output_head, trained
from swift.train.micro_batches import Job, ParallelMicroBatches, Sums
from swift.train.objective import Likelihood, Objective
from swift.train.reference import log_likelihoods
from swift.train.report import peak_memory
from swift.train.signals import Signals
from swift.train.splitting import split_for_workers
from swift.train.steps import warmup_steps
from swift.train.stopping import StopControl, deaths_told
from swift.train.throughput import Throughput
from swift.train.weight_change import StartWeights


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    """TrainingArguments for `SftTrainer` in a run's folder; `settings` are transformers' own.

    Raises ValueError for settings that transformers refuses.
    """
    settings = {"report_to": "none", **settings}
    return TrainingArguments(
        output_dir=str(folder / checkpoint.UNFINISHED),
        disable_tqdm=True,
        logging_nan_inf_filter=False,  # NaN and infinite losses are errors here
        gradient_checkpointing_kwargs={"use_reentrant": False},
        metric_for_best_model=None,
        remove_unused_columns=False,
        **settings,
    )


def _nothing() -> None:
    pass


def _tokens(batch: Batch) -> int:
    """Without padding."""
    return batch["input_ids"].numel() if "rows" in batch else int(batch["attention_mask"].sum())


_STABILITY_HINT = "lower --learning_rate or --max_grad_norm, or use --dtype bf16 or fp32"


class Store(NamedTuple):
    """Saves and restores trained weights that neither PEFT nor transformers can."""

    save: Callable[[Any, Path, Mapping[str, Tensor] | None], None]
    """(model, folder, gathered tensors); the last is None unless the ranks hold shards."""
    restore: Callable[[Any, Path], None]


class SftTrainer(Trainer):  # type: ignore[misc]
    """Trains on `Sample`s, whose loss `objective` computes over all micro-batches and ranks of a step.

    - `folder` receives the checkpoints, at most `keep` of them (None: all), each completed by `finish(folder)`.
    - `callbacks` see every log line, evaluation and step.
    - `penalty(model)` is added to the loss of each step.
    - `packed`: the model takes rows without padding; `any_length`: it needs no rounding of their lengths;
      `share_prefixes`: it takes groups of rows that begin alike (prefixes); `group_by_prefix`: steps have such rows.
    - `refresh` runs before weights are used that may have changed.
    """

    loss_is_scaled_for_ga = True
    optimizer: Any
    control: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: Any,
        folder: Path,
        args: TrainingArguments,
        samples: Sequence[Sample],
        held_out: Sequence[Sample] = (),
        *,
        keep: int | None = 2,
        lora_lr_ratio: float | None = None,
        max_minutes: float | None = None,
        finish: Callable[[Path], None] = lambda folder: None,
        callbacks: Sequence[TrainerCallback] = (),
        store: Store | None = None,
        penalty: Callable[[Any], Tensor] | None = None,
        packed: bool = False,
        any_length: bool = False,
        share_prefixes: bool = False,
        group_by_prefix: bool = False,
        refresh: Callable[[], None] | None = None,
        stream: Stream[Any] | None = None,
        objective: Objective | None = None,
    ) -> None:
        """`objective` None: `Likelihood`."""
        self.folder = folder
        self.objective: Objective = objective or Likelihood()
        self.samples, self.held_out, self.lora_lr_ratio = samples, held_out, lora_lr_ratio
        self.store, self.penalty, self.stream = store, penalty, stream
        self.packed, self.collate = packed, self.objective.pack if packed else self.objective.collate
        self.any_length, self.share_prefixes, self.refresh = any_length, share_prefixes, refresh or _nothing
        self.group_by_prefix = group_by_prefix
        self.head = output_head(model)
        self.throughput, self.stop_control, self.start_weights = Throughput(), StopControl(), StartWeights()
        self.signals = Signals()
        self._minutes = float("inf") if max_minutes is None else max_minutes
        self._began = time.monotonic()
        self._batches_in_step = 1
        self._totals: Sequence[float] = ()
        self._figures: list[Tensor] = []
        self._micro_batches: ParallelMicroBatches | None = None
        callbacks = [
            self.start_weights,
            self.throughput,
            self.stop_control,
            checkpoint.Publish(folder, keep, finish),
            *callbacks,
        ]
        super().__init__(model, args, train_dataset=samples, eval_dataset=held_out or None, callbacks=callbacks)
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        args = self.args
        workers, pin = args.dataloader_num_workers, args.dataloader_pin_memory
        if self.stream is not None:
            return StreamLoader(self.stream, workers, pin, self.collate)
        batches = StepBatches(
            lengths(self.samples),
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps,
            rank=args.process_index,
            world=args.world_size,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            drop_last=args.dataloader_drop_last,
            packed=self.packed,
            clusters=prefixes.clusters(self.samples) if self.group_by_prefix else None,
        )
        return StepLoader(self.samples, batches, workers, pin, self.collate)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """The micro-batches of one step, and the number of trained tokens of the step over all ranks."""
        batches = list(islice(epoch_iterator, num_batches))
        self._batches_in_step = len(batches)
        self._totals = self._reduced(self.objective.totals(batches, self._log_likelihoods))
        counts = [
            sum(int(trained(batch["weights"]).sum()) for batch in batches),
            sum(_tokens(batch) for batch in batches),
            sum(batch["input_ids"].numel() for batch in batches),
            # ranks receive a signal at different moments, and have to stop at the same step
            int(self.signals.received == signal.SIGTERM),
            int(self.signals.received == signal.SIGINT),
            int(time.monotonic() - self._began > self._minutes * 60),
        ]
        counts = self.accelerator.reduce(torch.tensor(counts, device=device), "sum").tolist()
        counted, tokens, area, terminated, interrupted, late = counts
        self.throughput.trained += counted
        self.throughput.tokens += tokens
        self.throughput.area += area
        self.stop_control.stop = signal.SIGINT if interrupted else signal.SIGTERM if terminated else 0
        self.stop_control.late = bool(late)
        return batches, torch.tensor(max(counted, 1), device=device)

    def _reduced(self, numbers: Sequence[float]) -> list[float]:
        """The sums over all ranks."""
        device = self.args.device
        exact = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no fp64
        made = torch.tensor(numbers, dtype=exact, device=device)
        found: list[float] = self.accelerator.reduce(made, "sum").tolist()
        return found

    def _log_likelihoods(self, batch: Batch) -> Tensor:
        """Of each row of a batch, under the model as it is."""
        self.model.eval()
        self.refresh()
        return log_likelihoods(self.model, self.head, {name: each.to(self.args.device) for name, each in batch.items()})

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        assert not return_outputs, "evaluate() does not use this"
        loss, figures = self.objective.loss(model, self.head, inputs, self._totals)
        self._figures.append(figures.detach())  # read when a line is logged: steps do not wait for a GPU
        # DDP averages the gradients of the ranks; this loss is a share of a sum
        loss = loss * float(self.accelerator.num_processes)
        return loss + self.penalty(self.model) / self._batches_in_step if self.penalty else loss

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Tensor | None = None) -> Tensor:
        if self.packed and self.args.world_size == 1:
            loss = self._packed_step(model, inputs, num_items_in_batch)
        else:
            self.refresh()
            loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise ValueError(self._not_finite(loss.item()))
        return loss

    def _not_finite(self, loss: float) -> str:
        step = self.state.global_step + 1
        if step == 1:
            return (
                f"the loss is {loss} at step 1, before any training: the model's weights are damaged, or too large for "
                "fp16 (--dtype bf16 or fp32)"
            )
        return f"the loss became {loss} at step {step}: {_STABILITY_HINT}; {self._last_checkpoint()}"

    def _last_checkpoint(self) -> str:
        last = checkpoint.newest(self.folder)
        return f"the last complete checkpoint is {last}" if last else "there is no complete checkpoint yet"

    def _packed_step(self, model: Any, inputs: Batch, num_items_in_batch: Tensor | None) -> Tensor:
        """A step of a single process without padding, on a CPU."""
        if not inputs["weights"].any():
            return torch.zeros(())  # its rows are in another batch
        model.train()
        self.refresh()
        round_up, threads = int if self.any_length else round_length, torch.get_num_threads()
        size = self.args.per_device_train_batch_size
        serial, parallel = split_for_workers(inputs, size, round_up, threads, self.share_prefixes)

        def job(batch: Batch) -> Job:
            seed = torch.randint(2**62, ())  # drawn here, so that the order of seeds is that of the batches

            def loss(sums: Sums) -> Tensor:
                inputs: dict[str, Any] = {**batch, "seed": seed, "sums": sums}
                return self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)

            return loss

        parameters = [each for each in self.model.parameters() if each.requires_grad]
        self._micro_batches = self._micro_batches or ParallelMicroBatches()
        jobs = [list(map(job, each)) for each in parallel]
        return self._micro_batches.add_gradients(list(map(job, serial)), jobs, parameters)

    def create_optimizer(self, model: Any = None) -> Any:
        if self.lora_lr_ratio is None or self.optimizer is not None:
            return super().create_optimizer(model)
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = create_loraplus_optimizer(
            self.model,
            kind,
            loraplus_lr_ratio=self.lora_lr_ratio,
            loraplus_weight_decay=self.args.weight_decay,
            **settings,
        )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            args = self.args
            warmup = warmup_steps(args.warmup_steps, num_training_steps)
            name, steps = str(args.lr_scheduler_type.value), num_training_steps
            at = schedule.learning_rate_factor(name, warmup, steps, args.learning_rate)
            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, at)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # DeepSpeed has loaded its optimizer by then, and the scheduler of its own wrapper is not ours
        fresh = [{**group} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and isinstance(self.lr_scheduler, LambdaLR):
            schedule.follow_flags(self.lr_scheduler, fresh)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with checkpoint.saving(self.folder, self.state.global_step):
            self._check_finite()
            super()._save_checkpoint(model, trial)

    def _check_finite(self) -> None:
        """Raises ValueError before NaN or infinite weights reach a checkpoint."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(sharding.local(parameter)).all():
                raise ValueError(f"{name} is NaN or infinite after step {self.state.global_step}: {_STABILITY_HINT}")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        plain = not self.store and not isinstance(self.model, PeftModel)
        if plain and not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        folder, gathered = Path(output_dir or self.args.output_dir), self._gathered(everything=plain)
        if not self.args.should_save:
            pass  # another rank saves
        elif plain:
            self.model.save_pretrained(folder, state_dict=gathered)
        elif self.store:
            self.store.save(self.model, folder, gathered)
        else:
            # by default PEFT asks a hub for the base model to find out whether its embeddings have grown
            self.model.save_pretrained(folder, save_embedding_layers=False, state_dict=gathered)

    def _gathered(self, everything: bool) -> dict[str, Tensor] | None:
        """The trained tensors, or all, in the rank that saves; None where no tensor is sharded."""
        if self.is_fsdp_enabled:
            return sharding.gather_fsdp(self.model, self.args.should_save, everything)
        if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3:
            return sharding.gather_zero3(self.model_wrapped)
        return None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            sharding.distribute_checkpoint(self.model, Path(resume_from_checkpoint))
            return
        if self.store:
            self.store.restore(self.model, Path(resume_from_checkpoint))
            return
        if not isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # transformers would use PEFT's load_adapter, which casts bf16 adapters to fp32
        saved = load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors")
        try:
            set_peft_model_state_dict(self.model, saved)
        except RuntimeError as error:
            raise ValueError(
                f"{resume_from_checkpoint} was saved from another model or with other tuner flags: {error}"
            ) from error

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """What the objective measures on all held-out rows: its loss first of all."""
        samples = sorted(eval_dataset or self.held_out, key=lambda sample: len(sample.tokens), reverse=True)
        args, began = self.args, time.perf_counter()
        self.model.eval()
        self.refresh()
        parts = batches_of_rank(
            range(len(samples)), args.per_device_eval_batch_size, args.process_index, args.world_size
        )

        def batches() -> Iterator[Batch]:
            for rows in parts:
                self.control = self.callback_handler.on_prediction_step(args, self.state, self.control)
                batch = self.collate([samples[row] for row in rows])
                yield {name: each.to(args.device) for name, each in batch.items()}

        measured = self.objective.evaluate(self.model, self.head, batches, self._reduced)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        metrics[f"{metric_key_prefix}_runtime"] = time.perf_counter() - began
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # in an order that does not depend on threads, so that runs are reproducible
            rows = torch.stack(self._figures).tolist() if self._figures else []
            sums = [math.fsum(column) for column in zip(*rows, strict=True)]
            self._figures.clear()
            logs |= self.objective.report(self._reduced(sums)) if sums else {}
            logs |= {"tokens_per_second": self.throughput.lap(), "memory_gib": peak_memory() / 2**30}
        super().log(logs, start_time)

    def train(self, *args: Any, **settings: Any) -> Any:
        """Trains as transformers does; SIGTERM and Ctrl-C save a checkpoint and return after the current step.

        A resumed run skips what it has read of a stream. Raises ChildProcessError when another process of the run dies.
        """
        self._began = time.monotonic()
        if self.stream is not None and (resumed := settings.get("resume_from_checkpoint")):
            done = TrainerState.load_from_json(str(Path(resumed) / checkpoint.STATE)).global_step
            self.stream.skip(done * self.args.gradient_accumulation_steps)
        told = partial(deaths_told, self._death)
        try:
            with told(), told(), self.signals.listening(aloud=self.args.process_index == 0):
                return super().train(*args, **settings)
        finally:
            if self._micro_batches:
                self._micro_batches.close()
                self._micro_batches = None

    def _death(self, reason: str) -> str:
        return f"step {self.state.global_step + 1}: {reason}; {self._last_checkpoint()}"

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled |= sharding.enable_fsdp_on_cpu(self.accelerator, self.args)

    @property
    def stopped(self) -> int:
        """The number of the signal that stopped the run before its last step; 0 for none."""
        return self.stop_control.stop if self.state.global_step < self.state.max_steps else 0

    def unmoved(self) -> str:
        """Why the trained weights count as unchanged; empty if they changed. All ranks have to call this."""
        reason = self.start_weights.unchanged(self.model)
        same = self.accelerator.reduce(torch.tensor(int(bool(reason)), device=self.args.device), "sum")
        return reason if int(same) == self.accelerator.num_processes else ""

    @property
    def late(self) -> bool:
        """Whether `max_minutes` stopped the run before its last step."""
        return self.stop_control.late and self.state.global_step < self.state.max_steps
