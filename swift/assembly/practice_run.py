"""The rounds of `swift practice`: tasks are drawn and tried, the model is trained on what succeeded, and measured."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from swift import flags
from swift.assembly import practice_report, practice_setup
from swift.assembly.practice_setup import Policy
from swift.flag_groups import ModelFlags, RoundFlags
from swift.system import invocation

if TYPE_CHECKING:
    from swift.practice.clusters import Supply
    from swift.practice.figures import Measured
    from swift.practice.record import Round
    from swift.practice.sampling import Result, Sampler, Tools
    from swift.practice.tasks import Task

FEWEST, MOST = 16, 1000
"""Tasks of a round, where their number follows from the time."""
SAMPLING = 0.5
"""Share of a round's time for attempts; the rest is for training."""
PROGRESS = 10.0
"""Seconds between two lines about the attempts."""


class PracticeConfig(Protocol):
    """The flags of `swift practice` that its rounds read."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def model(self) -> ModelFlags: ...
    @property
    def training(self) -> RoundFlags: ...
    @property
    def method(self) -> Literal["rft", "dpo"]: ...
    @property
    def minutes(self) -> float: ...
    @property
    def patience(self) -> int: ...
    @property
    def tasks_per_round(self) -> int | None: ...
    @property
    def samples(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def max_batch(self) -> int: ...
    @property
    def tools(self) -> tuple[str, ...]: ...
    @property
    def max_turns(self) -> int: ...
    @property
    def tool_timeout(self) -> float: ...
    @property
    def general_loss_limit(self) -> float: ...
    @property
    def seed(self) -> int: ...


class Practice(NamedTuple):
    """A practice under way. `start`: the model that it begins with; `began`: when, on the monotonic clock; `train_by`:
    trains by the words of a command and returns its result."""

    cfg: PracticeConfig
    start: Policy
    folder: Path
    tools: Tools | None
    pool: Sequence[Task]
    held_out: Sequence[Task]
    began: float
    train_by: Callable[[Sequence[str | Path]], dict[str, Any]]

    @property
    def left(self) -> float:
        """Seconds that are left of --minutes."""
        return 60 * self.cfg.minutes - (time.monotonic() - self.began)

    def policy_of(self, number: int) -> Policy:
        """The model after a round; 0 is the start."""
        from swift.practice.record import Round

        checkpoint = Round(self.folder, number).checkpoint if number else None
        return self.start._replace(ckpt_dir=str(checkpoint)) if checkpoint else self.start

    def why_end(self, rounds: Sequence[Measured]) -> str:
        """Why no further round begins, in one line; "" if one does."""
        from swift.practice import figures

        if figures.is_settled(rounds, self.cfg.patience):
            return f"no gain outside its interval in {self.cfg.patience} rounds: practice ends"
        from swift.practice.record import Round

        known = Round(self.folder, len(rounds)).measured() is not None
        if not known and self.left < 2 * rounds[-1].seconds:
            return f"--minutes {self.cfg.minutes:g} leaves no time for another round: practice ends"
        return ""

    def round(self, at: Round, policy: Policy, before: Sequence[Measured], rounds_left: int) -> Measured | None:
        """Draws tasks, tries them, trains on what succeeded, and measures; None if there is nothing to train on."""
        if (known := at.measured()) is not None:
            practice_report.say_round(at.number, known, before[-1])
            return known
        seconds = self.seconds_of_a_round(before[-1].seconds, rounds_left)
        print(f"\nround {at.number}: {_described(policy)}")
        if not at.is_trained:
            results = self.attempts(at, policy, before[-1], seconds * SAMPLING)
            if not self.train(at, policy, results, seconds * (1 - SAMPLING)):
                return None
        checkpoint = at.checkpoint
        return self.measure(at, self.start._replace(ckpt_dir=str(checkpoint)), before[-1]) if checkpoint else None

    def seconds_of_a_round(self, measuring: float, rounds_left: int) -> float:
        """Seconds for the attempts and the training of a round. So that measuring takes at most a third of the time,
        fewer than `rounds_left` rounds are planned where they would be short."""
        planned = max(1, min(rounds_left, int(self.left / (3 * measuring)))) if measuring else rounds_left
        return max(1.0, self.left / planned - measuring)

    # the steps of a round

    def attempts(self, at: Round, policy: Policy, before: Measured, seconds: float) -> list[Result]:
        """The attempts of a round; those that an earlier run made are not made again."""
        from swift.practice import sampling

        tasks = at.tasks()
        if tasks is None:
            tasks = self.draw(at, self.number_of_tasks(before, seconds))
            at.keep_tasks(tasks)
        done = at.results()
        known = {result.task.id for result in done}
        left = [task for task in tasks if task.id not in known]
        print(f"{len(left)} tasks, {self.cfg.samples} attempts each, for at most {seconds:.0f} s")
        began = shown = time.monotonic()
        with self.sampler(policy) as sampler:
            for result in sampling.sample(
                sampler, left, self.cfg.samples, self.cfg.seed + at.number, self.cfg.max_batch, seconds
            ):
                at.keep(result)
                done.append(result)
                if time.monotonic() > shown + PROGRESS:
                    shown = time.monotonic()
                    print(f"  {len(done)} of {len(tasks)} tasks, {shown - began:.0f} s")
        for line in practice_report.failures_table(done):
            print(f"  {line}")
        return done

    def number_of_tasks(self, before: Measured, seconds: float) -> int:
        """As many tasks as fit into the time, at the speed of the last measurement."""
        if self.cfg.tasks_per_round is not None:
            return self.cfg.tasks_per_round
        of_one = before.sampling_seconds / len(before.outcomes) * self.cfg.samples / before.samples
        return max(FEWEST, min(MOST, int(seconds / max(of_one, 1e-3))))

    def draw(self, at: Round, number: int) -> list[Task]:
        """The tasks of a round: most are like those that failed in earlier rounds."""
        from swift.practice import clusters
        from swift.practice.record import Round

        earlier = [result for each in range(1, at.number) for result in Round(self.folder, each).results()]
        counts = clusters.failures(earlier)
        if counts:
            print(f"drawn most often: {practice_report.shown_failures(counts)}")
        seed = self.cfg.seed + at.number
        supply: Supply
        if self.pool:
            last = {result.task.id: result for result in earlier}
            solved = [name for name, result in last.items() if result.right == len(result.attempts)]
            supply = clusters.Pool(self.pool, solved, seed)
        else:
            seen = {result.task.content for result in earlier}
            supply = practice_setup.made_tasks(seed, f"{at.number}-", held_out=False, seen=seen)
        return supply.draw(clusters.wanted(counts, number, seed))

    def train(self, at: Round, policy: Policy, results: Sequence[Result], seconds: float) -> bool:
        """Trains on what succeeded. False if that is nothing."""
        from swift.practice import selection

        cfg, offered = self.cfg, practice_setup.running(self.tools)
        keep, show = cfg.training.keep, cfg.training.show_answers
        chosen = selection.select(results, offered, keep, cfg.training.always_share, cfg.seed, show)
        pairs = selection.pairs(results, offered, keep, show) if cfg.method == "dpo" else None
        number = at.keep_rows(chosen, pairs)
        print(
            f"solved always {chosen.always}, sometimes {chosen.sometimes}, never {chosen.never}"
            f"{f' (the answers of {chosen.shown} are shown)' if chosen.shown else ''}: "
            f"{number} {'pairs' if cfg.method == 'dpo' else 'rows'} in {invocation.display_path(at.rows_file)}"
        )
        if chosen.unread:
            print(f"{chosen.unread} tasks where no call is right have no 'reply', so nothing checks what they train")
        if not number:
            print("no task to train on is solved sometimes, so there is nothing to learn from: practice ends")
            return False
        words = [*_METHODS[cfg.method](self), *self.training_words(policy, at, seconds)]
        print(f"$ {invocation.command(*words)}")
        trained = self.train_by(words)
        checkpoint = Path(trained["last_model_checkpoint"])
        counts = {"always": chosen.always, "sometimes": chosen.sometimes, "never": chosen.never, "rows": number}
        at.keep_checkpoint(checkpoint, {**counts, "steps": trained["global_step"], "seconds": trained["train_time"]})
        return True

    def training_words(self, policy: Policy, at: Round, seconds: float) -> list[str | Path]:
        """The flags of a training that both methods share."""
        cfg = self.cfg
        rate = cfg.training.learning_rate or {"rft": 5e-4, "dpo": 1e-5}[cfg.method]
        micro = next(size for size in (4, 2, 1) if cfg.training.batch_size % size == 0)
        return [
            *practice_setup.adapter_words(policy, cfg.training.lora_rank),
            *("--dataset", at.rows_file, "--dataset_test_ratio", "0"),
            *("--batch_size", str(micro), "--gradient_accumulation_steps", str(cfg.training.batch_size // micro)),
            *("--num_train_epochs", f"{cfg.training.epochs:g}", "--learning_rate", f"{rate:g}"),
            *("--max_minutes", f"{max(seconds, 1) / 60:.2f}", "--seed", str(cfg.seed + at.number)),
            *("--eval_strategy", "no", "--save_only_model", "true", "--report_to", "none"),
            *("--output_dir", at.folder / "train"),
        ]

    def measure(self, at: Round, policy: Policy, before: Measured | None = None) -> Measured:
        """The figures of a model on the held-out tasks, printed and kept."""
        found = at.measured()
        if found is None:
            print(f"{len(self.held_out)} held-out tasks, {self.cfg.samples} attempts each: {_described(policy)}")
            with self.sampler(policy) as sampler:
                found = practice_setup.measure(
                    sampler, self.held_out, self.cfg.samples, self.cfg.seed, self.cfg.max_batch
                )
            at.keep_measured(found)
        practice_report.say_round(at.number, found, before)
        return found

    @contextmanager
    def sampler(self, policy: Policy) -> Iterator[Sampler]:
        """The model, ready to be sampled."""
        from swift.engine.sampling import SamplingParams
        from swift.practice.sampling import Sampler
        from swift.tools.call import Limits

        cfg = self.cfg
        params = SamplingParams(max_tokens=cfg.max_new_tokens, clip=True, temperature=cfg.temperature)
        with practice_setup.opened(policy) as chat:
            syntax = chat.renderer.tool_format.syntax
            yield Sampler(chat, params, syntax, self.tools, cfg.max_turns, Limits(cfg.tool_timeout))

    def end(self, rounds: Sequence[Measured]) -> dict[str, Any]:
        """Keeps the adapter of the best round, writes the page, and says how to use what was learned."""
        from swift.assembly import next_commands
        from swift.practice import figures

        top = figures.best(rounds, self.cfg.general_loss_limit)
        print(f"\n{practice_report.table(rounds)}")
        page = self.folder / "practice.html"
        page.write_text(practice_report.page(self.folder, flags.to_dict(self.cfg), rounds, top), encoding="utf-8")
        print(f"report: {invocation.display_path(page)}")
        result: dict[str, Any] = {
            "output_dir": str(self.folder),
            "best_round": top,
            "best_checkpoint": self.policy_of(top).ckpt_dir,
            "rounds": [each.as_json() for each in rounds],
        }
        if not top:
            print("no round is better than the start, whose model stays the best")
            return result
        best = self.folder / "best"
        source = Path(str(self.policy_of(top).ckpt_dir))
        if best.exists():
            shutil.rmtree(best)
        shutil.copytree(source, best)
        result["best_checkpoint"] = str(best)
        print(f"best: round {top}, in {invocation.display_path(best)}")
        more = ("--tools", *self.cfg.tools) if self.cfg.tools else ()
        print("next:", *next_commands.commands(best, self.cfg.model, more), sep="\n  ")
        return result


def _rft(work: Practice) -> list[str | Path]:
    """The words of `swift sft`, with general rows beside those that were kept."""
    from swift.data.general import general_rows

    if not work.cfg.training.general_ratio:
        return ["sft"]
    general = work.folder / "general.jsonl"
    general.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in general_rows()), encoding="utf-8")
    return [
        *("sft", "--train_dataset_mix_ratio", f"{work.cfg.training.general_ratio:g}"),
        *("--train_dataset_mix_ds", general),
    ]


def _dpo(work: Practice) -> list[str | Path]:
    """The words of `swift rlhf`, with the likelihood of successes beside the preference."""
    return ["rlhf", "--rlhf_type", "dpo", "--rpo_alpha", "1"]


_METHODS = {"rft": _rft, "dpo": _dpo}


def _described(policy: Policy) -> str:
    checkpoint = policy.ckpt_dir
    return invocation.display_path(checkpoint) if checkpoint else str(policy.choice.source)
