"""Teach a small model to call tools on this machine, and measure it before and after."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from swift import flags
from swift.flag_groups import BackendFlags, DataFlags, ModelFlags, TemplateFlags
from swift.system import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from swift.chat import Delta, Message, Tool
    from swift.engine.sampling import SamplingParams
    from swift.eval.tasks.self_cognition import Hit
    from swift.eval.tool_calls import Verdict
    from swift.infer.chat import Deltas
    from swift.infer.local_chat import LocalChat

ROWS = (60, 320)
"""Minimum number of agent dialogues to learn the format, and the most that are worth the time."""
ROW_TOKENS = 590
"""Tokens of an agent dialogue and its two general rows."""
COGNITION_TOKENS = 73
"""Tokens of a self-cognition row."""
MIX_RATIO = 2.0
"""General rows for each agent row, as in the tutorial."""
SCENARIO_REPLIES = 4
SCENARIO_TOKENS = 96
"""Replies of the fire-alarm scenario, and tokens of each."""
PICTURE = "1.jpg"
GENERAL_QUESTION = "What is the capital of France, and which river runs through it?"


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift demo --minutes 5"

    output_dir: str = "output/demo"
    """Folder for the data, the adapter, the figures and the summary page"""
    model: str = "smollm2-135m-instruct"
    """Model to fine-tune: a registered name, hub id or folder"""
    template_type: str = "AUTO"
    """Chat template; AUTO selects the model's"""
    minutes: float = 7.0
    """Training time in minutes; it determines the number of dialogues, by the speed of this machine"""
    agent_rows: int | None = None
    """Number of agent dialogues, overriding --minutes; twice as many general rows are added"""
    self_cognition_sample: int = 266
    """Number of self-cognition rows, in which the model states its name and author"""
    model_name: tuple[str, ...] = ("卡卡罗特", "Kakarot")
    """The model's new name: Chinese, then English"""
    model_author: tuple[str, ...] = ("陶白白", "Taobaibai")
    """The model's new author: Chinese, then English"""
    learning_rate: float = 1e-3
    """Learning rate of the adapter"""
    lora_rank: int = 8
    """LoRA rank r"""
    num_train_epochs: float = 1.0
    """Passes over the data"""
    max_length: int = 1024
    """Maximum tokens of a row"""
    eval_cases: int = 32
    """Number of evaluation questions, with tools that are not in the training data"""
    seed: int = 42
    """Seed of the data, the row order and the initial weights"""


class Measured(NamedTuple):
    """Replies and figures of a model: shares from 0 to 1, loss in nats per token."""

    format_valid: float
    tool_correct: float
    arguments_correct: float
    general_loss: float
    self_cognition: float
    scenario: list[dict[str, str]]
    general: list[dict[str, str]]
    replies: list[dict[str, Any]]


FIGURES = {
    "format_valid": "replies in valid format",
    "tool_correct": "right tool",
    "arguments_correct": "right arguments",
    "general_loss": "loss on general text (nats/token, lower is better)",
    "self_cognition": "knows its name and maker",
}


def main(cfg: Config) -> dict[str, Any]:
    """Returns the content of `summary.json`."""

    from swift.assembly import demo_page, next_commands
    from swift.commands import sft
    from swift.model.location import locate

    console = terminal.console(highlight=False)
    folder = Path(cfg.output_dir)
    began = time.perf_counter()
    with _step(console, "1. The model"):
        console.print(f"{cfg.model}: {locate(cfg.model)}")
    with _step(console, "2. The data"):
        plan = _write_data(cfg, folder / "data", console)
    with _step(console, "3. Before training"):
        base = _measure(cfg, folder / "data", None, console)
    with _step(console, "4. Training"):
        trained = sft.main(_training(cfg, folder, plan))
    with _step(console, "5. After training"):
        best = Path(trained["best_model_checkpoint"] or trained["last_model_checkpoint"])
        tuned = _measure(cfg, folder / "data", str(best), console)
    with _step(console, "6. Before and after"):
        summary = {
            "base": base._asdict(),
            "tuned": tuned._asdict(),
            "training": {name: value for name, value in trained.items() if name != "log_history"},
            "seconds": round(time.perf_counter() - began, 1),
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        lines = next_commands.commands(best, ModelFlags(), ("--stop_words", "Observation:"))
        page = demo_page.page(summary, trained["log_history"], folder / PICTURE, lines)
        (folder / "summary.html").write_text(page, encoding="utf-8")
        _print_table(console, base, tuned, cfg.eval_cases)
        console.print(f"figures: {folder / 'summary.json'}, report: {folder / 'summary.html'}", soft_wrap=True)
        console.print("next:", *lines, sep="\n  ", markup=False, soft_wrap=True)
    return summary


@contextmanager
def _step(console: Console, title: str) -> Iterator[None]:
    began = time.perf_counter()
    console.rule(f"[bold]{title}", align="left")
    yield
    console.print(f"[dim]{time.perf_counter() - began:.0f} s[/dim]")


# --- data -----------------------------------------------------------------------------------------------------------


def _write_data(cfg: Config, folder: Path, console: Console) -> DataFlags:
    """Writes agent rows, general rows and held-out rows to files, and returns the flags that name them."""
    from swift.data.demo_rows import agent_rows
    from swift.data.general import general_rows
    from swift.data.row_writer import write_jsonl

    folder.mkdir(parents=True, exist_ok=True)
    agent, tools = folder / "agent.jsonl", folder / "tools.jsonl"
    general, test = folder / "general.jsonl", folder / "general_test.jsonl"
    count = cfg.agent_rows or _rows_for(cfg, console)
    # half of the tools are described in the system prompt, as in the tutorial, half passed as `tools`, as APIs do
    write_jsonl(agent_rows(count - count // 2, cfg.seed), agent)
    write_jsonl(agent_rows(count // 2, cfg.seed + 1, style="messages"), tools)
    for path, split in ((general, "train"), (test, "test")):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in general_rows(split)]
        path.write_text("".join(lines), encoding="utf-8")
        console.print(f"{path}: {len(lines)} rows")
    console.print(f"{agent}, {tools}: {count} dialogues with tools")
    return DataFlags(
        dataset=(str(agent), str(tools)) if count > 1 else (str(agent),),
        dataset_test_ratio=0.04,
        train_dataset_mix_ratio=MIX_RATIO,
        train_dataset_mix_ds=(str(general),),
        self_cognition_sample=cfg.self_cognition_sample,
        model_name=cfg.model_name,
        model_author=cfg.model_author,
        dataset_seed=cfg.seed,
    )


def _rows_for(cfg: Config, console: Console) -> int:
    """The number of agent dialogues that fit into the training time, estimated from the prefill speed."""
    from swift.assembly.training_speed import tokens_per_second

    speed = tokens_per_second(cfg.model)
    tokens_left = cfg.minutes * 60 * speed - COGNITION_TOKENS * cfg.self_cognition_sample
    rows = max(ROWS[0], min(ROWS[1], int(tokens_left / ROW_TOKENS)))
    console.print(f"this machine will train on about {speed:,.0f} tokens/s: {rows} agent dialogues")
    return rows


def _training(cfg: Config, folder: Path, data: DataFlags) -> Any:
    from swift.commands import sft

    return flags.update(
        sft.Config(data=data),
        {
            "model_id_or_path": cfg.model,
            "template_type": cfg.template_type,
            "max_length": cfg.max_length,
            "lora_rank": cfg.lora_rank,
            "lora_alpha": 4 * cfg.lora_rank,
            "lora_dropout_p": 0.0,  # dropout limits memorisation, and nearly every row is seen only once here
            "lora_target_modules": ["ALL"],
            "output_dir": str(folder / "train"),
            "batch_size": 2,
            "eval_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_minutes": 1.3 * cfg.minutes,  # for a machine that turns out slower than measured
            "learning_rate": cfg.learning_rate,
            "num_train_epochs": cfg.num_train_epochs,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.05,
            "max_grad_norm": 1.0,
            "eval_steps": 40,
            "logging_steps": 2,
            "seed": cfg.seed,
        },
    )


# --- measuring ------------------------------------------------------------------------------------------------------


def _measure(cfg: Config, data: Path, adapter: str | None, console: Console) -> Measured:
    from swift.assembly.loading import load_chat
    from swift.chat import Message
    from swift.data.demo_rows import evaluation_cases
    from swift.eval.tasks import self_cognition
    from swift.eval.tool_calls import Case, judge_all, scores

    chat = load_chat(_ChatConfig(cfg, adapter), keep=True)
    console.print("[dim]the fire-alarm scenario, a general question, who it is ...[/]")
    scenario = _scenario(chat, data.parent)
    general = _ask(chat, (Message("user", GENERAL_QUESTION),), 48)
    hits = self_cognition.ask(chat, cfg.model_name, cfg.model_author, max_tokens=32)
    console.print(f"[dim]{cfg.eval_cases} questions with tools that are not in the training data ...[/]")
    asked = evaluation_cases(cfg.eval_cases - cfg.eval_cases // 2, cfg.seed)
    asked += evaluation_cases(cfg.eval_cases // 2, cfg.seed + 1, style="messages")
    cases = [Case(row.messages, row.tools, call) for row, call in asked]
    verdicts = judge_all(chat, cases, max_tokens=64)
    console.print("[dim]the loss on held-out general text ...[/]")
    loss = _general_loss(chat, data / "general_test.jsonl")
    chat.engine.close()
    _show(console, "the fire-alarm scenario", scenario)
    _show(console, "who it is", [turn for hit in hits[:4] for turn in _exchange(hit.question, hit.reply)])
    _show(console, "a general question", _exchange(GENERAL_QUESTION, general))
    found = scores(verdicts)
    return Measured(
        *found,
        general_loss=loss,
        self_cognition=sum(hit.hit for hit in hits) / len(hits),
        scenario=scenario,
        general=[*_exchange(GENERAL_QUESTION, general), *_said(hits)],
        replies=_replies(cases, verdicts),
    )


class _ChatConfig(NamedTuple):
    """The flags of `load_chat` for the demo's model, with or without an adapter."""

    demo: Config
    adapter: str | None
    vllm_log: None = None

    @property
    def model(self) -> ModelFlags:
        return ModelFlags(model_id_or_path=self.demo.model)

    @property
    def template(self) -> TemplateFlags:
        return TemplateFlags(template_type=self.demo.template_type)

    @property
    def backend(self) -> BackendFlags:
        return BackendFlags(ckpt_dir=self.adapter)


def _scenario(chat: LocalChat, folder: Path) -> list[dict[str, str]]:
    """The fire-alarm dialogue about a picture in `folder`: the model calls the tools until it answers."""
    from swift.agent.reply import write_reply
    from swift.chat import Message
    from swift.data import scenario
    from swift.engine.sampling import SamplingParams
    from swift.tools import fire_alarm, loop
    from swift.tools.bound_tool import from_function

    image = folder / PICTURE
    scenario.draw_room(image, burns=True)
    asked = [Message("system", scenario.SYSTEM), Message("user", scenario.question(image))]
    named = (fire_alarm.fire_recognition, fire_alarm.fire_alert, fire_alarm.call_police, fire_alarm.call_fireman)
    tools = [from_function(each) for each in named]
    params = SamplingParams(temperature=0.0, max_tokens=SCENARIO_TOKENS, stop=("Observation:",))
    with _environment(fire_alarm.LOG_VARIABLE, str(folder / "fire_alarm.log")):
        trace = loop.run(_calls_in_text(chat), tools, asked, SCENARIO_REPLIES, params=params)
    return [
        {"role": message.role, "content": write_reply(chat.renderer.tool_format, message)}
        for message in trace.messages[1:]
    ]


def _calls_in_text(chat: LocalChat) -> Callable[[Sequence[Message], Sequence[Tool], SamplingParams], Deltas]:
    """The chat for tools that the system prompt describes already: they are not offered, and calls are read."""
    from swift.chat import Delta
    from swift.infer.chat import collect

    def ask(messages: Sequence[Message], tools: Sequence[Tool], params: SamplingParams) -> Generator[Delta, None, None]:
        reply = collect(chat(messages, (), params))
        content, calls = chat.renderer.tool_format.parse(reply.message.content, tools)
        yield Delta(content)
        for call in calls:
            yield Delta(tool_call=call)
        yield Delta(finish="tool_calls" if calls else reply.finish, usage=reply.usage)

    return ask


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable within the block."""
    former = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if former is None:
            del os.environ[name]
        else:
            os.environ[name] = former


def _ask(chat: LocalChat, messages: Sequence[Message], max_tokens: int, stop: tuple[str, ...] = ()) -> str:
    from swift.engine.sampling import SamplingParams
    from swift.infer.chat import collect

    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, stop=stop)
    return collect(chat(messages, (), params)).message.content


def _general_loss(chat: LocalChat, file: Path) -> float:
    """Mean loss over the reply tokens of held-out general rows, in nats."""
    from swift.data.linting import Report, checked
    from swift.data.sources import resolve
    from swift.engine.torch_engine import TorchEngine
    from swift.train.batch import collate
    from swift.train.loss import no_grad_scores, output_head

    assert isinstance(chat.engine, TorchEngine), "the demo needs the model in this process"
    model = chat.engine.model.float()  # bf16 takes minutes a row on a processor without it
    rows = checked(resolve(str(file)), "error", Report(), print)
    samples = sorted(
        (each for row in rows for each in chat.renderer.samples(row)), key=lambda sample: len(sample.tokens)
    )
    total, count = 0.0, 0
    for start in range(0, len(samples), 8):
        scores = no_grad_scores(model, output_head(model), collate(samples[start : start + 8]))
        total, count = total + float(scores.nll.sum()), count + len(scores.nll)
    return total / count


def _exchange(question: str, reply: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def _said(hits: Sequence[Hit]) -> list[dict[str, str]]:
    return [turn for hit in hits for turn in _exchange(hit.question, hit.reply)]


def _replies(cases: Sequence[Any], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [
        {
            "question": case.messages[-1].content,
            "expected": {"name": case.expected.name, "arguments": case.expected.arguments},
            **verdict._asdict(),
        }
        for case, verdict in zip(cases, verdicts, strict=True)
    ]


# --- reporting ------------------------------------------------------------------------------------------------------

STYLES = {"user": "cyan", "assistant": "green", "tool": "yellow"}


def _show(console: Console, title: str, turns: Sequence[Mapping[str, str]]) -> None:
    from rich.markup import escape

    console.print(f"[bold]{title}")
    for turn in turns:
        console.print(f"  [{STYLES[turn['role']]}]{turn['role']:>9}[/] {escape(turn['content'].strip())}")


def _print_table(console: Console, base: Measured, tuned: Measured, cases: int) -> None:
    from rich.table import Table

    table = Table(title=f"{cases} questions with tools that are not in the training data, and held-out general text")
    for header in ("", "before", "after"):
        table.add_column(header, justify="left" if not header else "right")
    for row in _rows(base._asdict(), tuned._asdict()):
        table.add_row(*row)
    console.print(table)


def _rows(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    def cell(name: str, value: float) -> str:
        return f"{value:.3f}" if name.endswith("_loss") else f"{value:.0%}"

    return [(title, cell(name, base[name]), cell(name, tuned[name])) for name, title in FIGURES.items()]
