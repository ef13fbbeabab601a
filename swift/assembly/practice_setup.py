"""What `swift practice` is made of: the model to sample, its figures, the supply of tasks, the words of a training."""

from __future__ import annotations

import copy
import gc
import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from swift import flags
from swift.assembly import checkpoints
from swift.flag_groups import BackendFlags, ModelFlags, TemplateFlags

if TYPE_CHECKING:
    from swift.chat import Tool
    from swift.infer.local_chat import LocalChat
    from swift.practice.clusters import Supply
    from swift.practice.figures import Measured
    from swift.practice.sampling import Sampler, Tools
    from swift.practice.tasks import Task

ROWS_AT_ONCE = 10
"""Rows of general text in a batch."""


class Policy(NamedTuple):
    """The model that practises, as flags of `load_chat`: a model and the checkpoint of its adapter, if there is one."""

    model: ModelFlags
    template: TemplateFlags
    ckpt_dir: str | None
    max_batch: int
    given: frozenset[str] = frozenset()
    vllm_log: None = None

    @property
    def backend(self) -> BackendFlags:
        return BackendFlags(ckpt_dir=self.ckpt_dir, max_batch=self.max_batch, infer_backend="pt")

    @property
    def choice(self) -> checkpoints.Choice:
        """The base model, the template with what the checkpoint recorded, and the adapter."""
        return checkpoints.choose(self, self.given)


def check_adapter(policy: Policy) -> None:
    """Raises ValueError for an adapter that `swift sft` cannot train further."""
    from swift.tuner import adapter_files

    adapter = policy.choice.adapter
    if adapter and (kind := adapter_files.check(adapter)) != "LORA":
        raise ValueError(f"--ckpt_dir {adapter}: an adapter of type {kind}: LoRA alone can be trained further")


@contextmanager
def opened(policy: Policy) -> Iterator[LocalChat]:
    """The model behind an engine; its memory is freed at the end."""
    from swift.assembly.loading import load_chat

    chat = load_chat(policy, policy.given, keep=True)
    chat.calibrations.clear()  # attempts need every call, however doubtful
    try:
        yield chat
    finally:
        chat.engine.close()
        del chat
        gc.collect()


def measure(sampler: Sampler, tasks: Sequence[Task], samples: int, seed: int, workers: int) -> Measured:
    """The model on held-out tasks and, if its engine computes in this process, on held-out general text.

    Raises ValueError if it can be asked none of the tasks.
    """
    from swift.eval.task import ERROR
    from swift.practice import figures, sampling

    began = time.monotonic()
    results = list(sampling.sample(sampler, tasks, samples, seed, workers))
    attempts = [each for result in results for each in result.attempts]
    if all(each.failure == ERROR for each in attempts):
        raise ValueError(f"no held-out task can be asked: {attempts[0].detail}")
    sampled = time.monotonic()
    loss = general_loss(sampler)
    return figures.Measured(figures.outcomes(results), loss, time.monotonic() - began, sampled - began)


def general_loss(sampler: Sampler) -> float | None:
    """The mean loss on held-out general text, in nats per token: the figure of `swift eval --tasks general:text`.

    Rows are computed in batches of similar length, in fp32 on CPUs. None for a model that is not in this process.
    """
    from swift.data.general import general_rows
    from swift.data.rows import conversation
    from swift.engine.torch_engine import TorchEngine
    from swift.infer.local_chat import LocalChat
    from swift.train import reference
    from swift.train.batch import collate
    from swift.train.loss import output_head

    chat = sampler.chat
    if not isinstance(chat, LocalChat) or not isinstance(chat.engine, TorchEngine):
        return None
    model: Any = chat.engine.model
    if model.device.type == "cpu" and "float32" not in str(model.dtype):
        model = copy.deepcopy(model).float()  # bf16 is slow on many processors, and the engine still needs its own
    samples = [sample for row in general_rows("test") for sample in chat.renderer.samples(conversation(dict(row)))]
    samples.sort(key=lambda sample: len(sample.tokens))
    total = 0.0
    for start in range(0, len(samples), ROWS_AT_ONCE):
        part = samples[start : start + ROWS_AT_ONCE]
        batch = {name: each.to(model.device) for name, each in collate(part).items()}
        found = reference.log_likelihoods(model, output_head(model), batch).tolist()
        total -= sum(each / sample.trained for each, sample in zip(found, part, strict=True))
    return total / len(samples)


def made_tasks(seed: int, prefix: str, held_out: bool, seen: Collection[str]) -> Supply:
    """Tasks of the catalogue's domains: those that are held out, or those to practise. None to practise repeats a
    question of an installed benchmark."""
    from swift.assembly.benchmark_questions import questions
    from swift.data.general import general_rows
    from swift.practice.made_tasks import MadeTasks
    from swift.synth.catalogue import domains
    from swift.synth.overlap import Overlap

    own = [domain for domain in domains() if domain.held_out == held_out]
    if held_out:
        return MadeTasks(own, general_rows("test"), seed, prefix, seen)
    return MadeTasks(own, general_rows(), seed, prefix, seen, overlaps=Overlap(questions()))


def open_tools(files: Sequence[str]) -> Tools:
    """The tools of Python files. Raises ValueError for another kind of source."""
    from swift.practice.sampling import Tools
    from swift.tools.python.source import PythonFile
    from swift.tools.toolbox import Toolbox

    paths = [Path(file).expanduser() for file in files]
    for path in paths:
        if path.suffix != ".py":
            raise ValueError(f"--tools {path}: swift practice runs the functions of Python files (.py) alone")
    return Tools(lambda: Toolbox([PythonFile(path) for path in paths]))


def running(tools: Tools | None) -> tuple[Tool, ...]:
    """The descriptions of the tools that run."""
    return tuple(bound.tool for bound in tools.offered) if tools else ()


def words(group: Any) -> list[str]:
    """The flags of a group that differ from their defaults, as words of a command line."""
    usual = flags.to_dict(type(group)())
    found: list[str] = []
    for name, value in flags.to_dict(group).items():
        if value is None or value == usual[name]:
            continue
        values = value if isinstance(value, list) else [value]
        found += [f"--{name}", *map(_text, values)]
    return found


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def adapter_words(policy: Policy, rank: int) -> list[str | Path]:
    """The flags that train the adapter of a policy further, or a new one on all linear layers."""
    choice = policy.choice
    named: list[str | Path] = [*words(choice.model), *words(choice.template)]
    if choice.adapter:
        return [*named, "--init_adapter", choice.adapter]
    return [
        *named,
        *("--lora_rank", str(rank), "--lora_alpha", str(2 * rank)),
        *("--lora_dropout_p", "0", "--lora_target_modules", "ALL"),
    ]
