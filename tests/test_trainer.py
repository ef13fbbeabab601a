"""The trainer on a random two-layer model and random integers: no text anywhere."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, get_scheduler

from swift.chat import Sample
from swift.runs import history
from swift.train import checkpoint, schedule
from swift.train.batch import StepBatches
from swift.train.objective import Likelihood
from swift.train.report import WriteLog
from swift.train.steps import warmup_steps
from swift.train.trainer import SftTrainer, arguments

VOCABULARY = 48


def rows(count: int, seed: int = 0, longest: int = 14) -> list[Sample]:
    chance = random.Random(seed)
    made = []
    for index in range(count):
        length = chance.randint(4, longest)
        tokens = [chance.randrange(VOCABULARY) for _ in range(length)]
        weights = [0.0, *chance.choices([0.0, 1.0, 2.0], k=length - 2), 1.0]
        made.append(Sample(tokens, weights, f"source{index % 2}"))
    return made


def base_model(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        **{"tie_word_embeddings": False, "attn_implementation": "eager", **settings},
    )
    return LlamaForCausalLM(config)


def lora(model: Any, dropout: float = 0.0, autocast: bool = True, **settings: Any) -> Any:
    torch.manual_seed(1)
    names = settings.pop("target_modules", ["q_proj", "v_proj", "down_proj"])
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=names, **settings)
    return get_peft_model(model, config, autocast_adapter_dtype=autocast)


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.5,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "seed": 7,
        **changes,
    }


def trainer(folder: Path, model: Any, samples: list[Sample], held_out: Any = (), **changes: Any) -> SftTrainer:
    ours = {
        name: changes.pop(name)
        for name in ("keep", "lora_lr_ratio", "finish", "callbacks", "objective")
        if name in changes
    }
    return SftTrainer(model, folder, arguments(folder, **settings(**changes)), samples, held_out, **ours)


def adapter(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad}


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance, msg=name)


def plain_loop(model: Any, samples: list[Sample], steps: int, rows_per_step: int, rate: float) -> list[float]:
    """The reference: one row at a time, full logits, one denominator for the step, AdamW with a linear schedule."""
    trainable = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0)
    batches = StepBatches([len(each.tokens) for each in samples], rows_per_step, seed=7)
    order = [step for epoch in range(9) for step in (batches.set_epoch(epoch), batches.steps())[1]]
    losses = []
    for step in range(steps):
        chosen = [samples[row] for row in order[step]]
        count = sum(weight != 0 for each in chosen for weight in each.weights[1:])
        loss = torch.zeros(())
        for each in chosen:
            logits = model(input_ids=torch.tensor([each.tokens])).logits[0, :-1]
            nll = -logits.log_softmax(-1)[torch.arange(len(each.tokens) - 1), torch.tensor(each.tokens[1:])]
            loss = loss + (nll * torch.tensor(each.weights[1:])).sum()
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 0.5)
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss / count).item())
    return losses


def logged(one: SftTrainer) -> list[float]:
    return [line["loss"] for line in one.state.log_history if "loss" in line]


SOURCES = ("source0", "source1")


def by_source(one: SftTrainer, key: str = "loss") -> list[dict[str, float]]:
    """Of each log line: what it says of each source."""
    lines = [line for line in one.state.log_history if key in line]
    return [{name: value for name, value in line.items() if "source" in name} for line in lines]


def plain_by_source(model: Any, steps: list[list[Sample]]) -> dict[str, float]:
    """The reference, of the rows of some steps: one row at a time, one denominator for each source."""
    loss, count = dict.fromkeys(SOURCES, 0.0), dict.fromkeys(SOURCES, 0)
    for sample in (each for step in steps for each in step):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([sample.tokens])).logits[0, :-1]
        nll = -logits.log_softmax(-1)[torch.arange(len(sample.tokens) - 1), torch.tensor(sample.tokens[1:])]
        loss[sample.source] += (nll * torch.tensor(sample.weights[1:])).sum().item()
        count[sample.source] += sum(weight != 0 for weight in sample.weights[1:])
    found = {name: number for name, number in count.items() if number}
    losses = {f"loss/{name}": loss[name] / number for name, number in found.items()}
    return {**losses, **{f"trained_tokens/{name}": number for name, number in found.items()}}


def assert_lines_have_the_losses_of_sources(one: SftTrainer, model: Any, samples: list[Sample], steps: int) -> None:
    """Of a run that changes no weight, with a log line for the first step and for every second one."""
    batches = StepBatches([len(each.tokens) for each in samples], 4, seed=7)
    order = [step for epoch in range(9) for step in (batches.set_epoch(epoch), batches.steps())[1]]
    rows_of = [[samples[row] for row in step] for step in order[:steps]]
    parts = [rows_of[:1], rows_of[1:2], *(rows_of[at : at + 2] for at in range(2, steps, 2))]
    found = by_source(one)
    assert len(found) == len(parts)
    for line, part in zip(found, parts, strict=True):
        assert line == pytest.approx(plain_by_source(model, part), rel=1e-4)


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 2), (4, 1), (1, 4)])
def test_a_log_line_has_loss_and_trained_tokens_of_each_source(tmp_path: Path, batch: int, accumulation: int) -> None:
    samples = rows(18)
    division = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    still = {"learning_rate": 0.0, "max_steps": 8, "logging_steps": 2, "logging_first_step": True}
    one = trainer(tmp_path, lora(base_model()), samples, objective=Likelihood(SOURCES), **division, **still)
    one.train()
    assert_lines_have_the_losses_of_sources(one, base_model(), samples, 8)


def test_the_losses_of_sources_join_to_the_loss_of_a_step_and_of_an_evaluation(tmp_path: Path) -> None:
    held_out = [*rows(5, seed=5), rows(1, seed=6)[0]._replace(source="elsewhere")]
    evaluations = {"eval_strategy": "steps", "eval_steps": 2}
    one = trainer(tmp_path, lora(base_model()), rows(18), held_out, objective=Likelihood(SOURCES), **evaluations)
    one.train()
    for line, whole in zip(by_source(one), logged(one), strict=True):
        tokens = [line.get(f"trained_tokens/{name}", 0) for name in SOURCES]
        losses = [line.get(f"loss/{name}", 0.0) for name in SOURCES]
        joined = sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens)
        assert joined == pytest.approx(whole, rel=1e-5)
    measured = by_source(one, "eval_loss")[-1]
    one.model.eval()
    expected = plain_by_source(one.model, [held_out[:5]])
    assert measured == pytest.approx({f"eval_loss/{name}": expected[f"loss/{name}"] for name in SOURCES}, rel=1e-4)


def test_one_source_is_not_reported_apart(tmp_path: Path) -> None:
    samples = [each._replace(source="source0") for each in rows(8)]
    one = trainer(
        tmp_path, lora(base_model()), samples, samples, objective=Likelihood(["source0"]), eval_strategy="steps"
    )
    one.train()
    assert by_source(one) == [{}] * 4
    assert by_source(one, "eval_loss")[-1] == {}


def test_training_equals_a_loop_written_by_hand(tmp_path: Path) -> None:
    samples = rows(10)
    ours, theirs = lora(base_model()), lora(base_model())
    one = trainer(tmp_path, ours, samples, max_steps=6)
    one.train()
    losses = plain_loop(theirs, samples, steps=6, rows_per_step=4, rate=1e-2)
    assert logged(one) == pytest.approx(losses, rel=1e-4)
    assert_close(adapter(ours), adapter(theirs))


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (1, 8), (4, 2), (3, 3)])
def test_how_a_step_is_divided_changes_nothing(tmp_path: Path, batch: int, accumulation: int) -> None:
    samples = rows(21)
    size = batch * accumulation
    whole, parts = lora(base_model()), lora(base_model())
    one = trainer(tmp_path / "1", whole, samples, per_device_train_batch_size=size, gradient_accumulation_steps=1)
    one.train()
    divided = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    other = trainer(tmp_path / "2", parts, samples, **divided)
    other.train()
    assert logged(one) == pytest.approx(logged(other), rel=1e-4)
    assert_close(adapter(whole), adapter(parts))


@pytest.mark.parametrize(
    "build",
    [
        lambda: lora(base_model(), target_modules=["q_proj", "lm_head"]),
        lambda: lora(base_model(), modules_to_save=["lm_head", "embed_tokens"]),
        lambda: base_model(),
        lambda: base_model(tie_word_embeddings=True),
    ],
    ids=["LoRA on the head", "head trained whole", "full", "full, tied"],
)
def test_every_tuner_gets_the_gradient_of_the_plain_loop(tmp_path: Path, build: Any) -> None:
    samples = rows(8)
    ours, theirs = build(), build()
    trainer(tmp_path, ours, samples, max_steps=3).train()
    plain_loop(theirs, samples, steps=3, rows_per_step=4, rate=1e-2)
    assert_close(adapter(ours), adapter(theirs))


def test_gradient_checkpointing_changes_no_value(tmp_path: Path) -> None:
    samples = rows(8)
    plain, saving = lora(base_model()), lora(base_model())
    trainer(tmp_path / "1", plain, samples).train()
    trainer(tmp_path / "2", saving, samples, gradient_checkpointing=True).train()
    assert_close(adapter(plain), adapter(saving))


def test_only_trained_positions_go_through_the_head(tmp_path: Path) -> None:
    samples = rows(8)
    model = lora(base_model())
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    trainer(tmp_path, model, samples, max_steps=2).train()
    assert sum(seen) == sum(weight != 0 for each in samples for weight in each.weights[1:])


def test_evaluation_loss_has_one_denominator_for_all_rows(tmp_path: Path) -> None:
    model, held_out = base_model(), rows(7, seed=3)
    results = [
        trainer(tmp_path / str(size), model, rows(4), held_out, per_device_eval_batch_size=size).evaluate()
        for size in (1, 3, 7)
    ]
    losses = plain_loop(copy.deepcopy(model), held_out, steps=1, rows_per_step=7, rate=0.0)
    for metrics in results:
        assert metrics["eval_loss"] == pytest.approx(losses[0], rel=1e-5)
        assert 0 <= metrics["eval_acc"] <= 1


def test_lora_plus_trains_b_faster_than_a(tmp_path: Path) -> None:
    one = trainer(tmp_path, lora(base_model()), rows(4), lora_lr_ratio=16.0)
    groups = one.create_optimizer().param_groups
    by_parameter = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    rates = {name: by_parameter[each] for name, each in one.model.named_parameters() if each.requires_grad}
    assert {rate for name, rate in rates.items() if "lora_A" in name} == {1e-2}
    assert {rate for name, rate in rates.items() if "lora_B" in name} == {1e-2 * 16.0}


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= state.global_step == self.step


@pytest.mark.parametrize("stop", [2, 3, 5, 6, 7])
def test_a_run_continued_ends_with_the_same_bytes_as_one_never_stopped(tmp_path: Path, stop: int) -> None:
    samples, held_out = rows(12), rows(3, seed=5)
    common = {"max_steps": 8, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 2}

    def run(folder: Path, **changes: Any) -> SftTrainer:
        return trainer(folder, lora(base_model(), dropout=0.3), samples, held_out, keep=None, **common, **changes)

    run(tmp_path / "whole").train()
    run(tmp_path / "parts", callbacks=[StopAt(stop)]).train()
    assert max(checkpoint.steps(tmp_path / "parts")) == stop
    torch.rand(17)  # whatever else a new process draws
    run(tmp_path / "parts").train(resume_from_checkpoint=str(checkpoint.newest(tmp_path / "parts")))
    whole, parts = (tmp_path / name / "checkpoint-8" / "adapter_model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


@pytest.mark.parametrize(
    "build",
    [
        lambda: lora(base_model().to(torch.bfloat16), autocast=False),
        lambda: lora(base_model(), modules_to_save=["lm_head"]),
        lambda: lora(base_model(), target_modules=["q_proj", "embed_tokens"]),
        lambda: base_model(),
    ],
    ids=["bf16", "head trained whole", "embeddings", "full"],
)
def test_every_tuner_can_be_continued_to_the_same_bytes(tmp_path: Path, build: Any) -> None:
    def run(folder: Path, **changes: Any) -> SftTrainer:
        return trainer(
            folder, build(), rows(12), max_steps=4, save_strategy="steps", save_steps=1, keep=None, **changes
        )

    run(tmp_path / "whole").train()
    run(tmp_path / "parts", callbacks=[StopAt(2)]).train()
    run(tmp_path / "parts").train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    (whole,), (parts,) = (list((tmp_path / name / "checkpoint-4").glob("*.safetensors")) for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_checkpoint_of_other_tuner_flags_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, lora(base_model()), rows(8), save_strategy="steps", save_steps=4).train()
    torch.manual_seed(1)
    wider = get_peft_model(base_model(), LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"]))
    with pytest.raises(ValueError, match="saved from another model or with other tuner flags"):
        trainer(tmp_path, wider, rows(8)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_dropout_matters_in_the_test_above(tmp_path: Path) -> None:
    for seed in (1, 2):
        model = lora(base_model(), dropout=0.3)
        trainer(tmp_path / str(seed), model, rows(12), data_seed=7, seed=seed, save_strategy="steps").train()
    one, other = (tmp_path / seed / "checkpoint-4" / "adapter_model.safetensors" for seed in "12")
    assert one.read_bytes() != other.read_bytes()


def test_the_best_and_the_last_checkpoint_are_kept(tmp_path: Path) -> None:
    class Worse(SftTrainer):
        def evaluate(self, *args: Any, **settings: Any) -> dict[str, float]:
            loss = 1.0 + abs(self.state.global_step - 2)
            self.log({"eval_loss": loss, "eval_acc": 0.0})
            return {"eval_loss": loss}

    args = arguments(
        tmp_path,
        **settings(max_steps=5, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1),
    )
    (tmp_path / "checkpoint-1-merged").mkdir()
    one = Worse(lora(base_model()), tmp_path, args, rows(8), rows(2), keep=2)
    one.train()
    assert list(checkpoint.steps(tmp_path)) == [2, 5]
    assert (tmp_path / "checkpoint-1-merged").is_dir()
    assert one.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    state = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-2")
    assert not (tmp_path / checkpoint.UNFINISHED).exists()


def test_a_run_killed_while_saving_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    def killed(folder: Path) -> None:
        if folder.name == "checkpoint-3":
            raise KeyboardInterrupt

    model = lora(base_model())
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, model, rows(8), save_strategy="steps", save_steps=1, finish=killed, keep=None).train()
    assert list(checkpoint.steps(tmp_path)) == [1, 2]
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoint-2"
    trainer(tmp_path, model, rows(8), save_strategy="steps", save_steps=1, keep=None).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-2")
    )
    assert list(checkpoint.steps(tmp_path)) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "trainer_state.json").write_text('{"step": '), "trainer_state.json is not JSON"),
        (lambda path: (path / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "it has no weights"),
        (lambda path: cut(path / "adapter_model.safetensors"), "adapter_model.safetensors"),
        (lambda path: cut(path / "optimizer.pt"), "optimizer.pt is cut short"),
        (lambda path: (path / "scheduler.pt").unlink(), "has no scheduler.pt"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_and_its_fault_is_named(tmp_path: Path, damage: Any, reason: str) -> None:
    trainer(tmp_path, lora(base_model()), rows(8), save_strategy="steps", save_steps=2).train()
    damage(tmp_path / "checkpoint-4")
    assert reason in checkpoint.fault(tmp_path / "checkpoint-4")
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoint-2"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_loss_that_is_nan_at_step_1_is_not_blamed_on_the_learning_rate(tmp_path: Path, number: str) -> None:
    model = base_model()
    with torch.no_grad():
        model.lm_head.weight[0] = float(number)
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step 1, before any training: the model's"):
        trainer(tmp_path, model, rows(4)).train()


def test_a_loss_that_becomes_nan_is_an_error_with_advice_and_the_last_checkpoint(tmp_path: Path) -> None:
    class Break(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 2:
                with torch.no_grad():
                    model.lm_head.weight[0] = float("nan")

    saves = {"save_strategy": "steps", "save_steps": 1, "callbacks": [Break()]}
    with pytest.raises(ValueError, match="the loss became nan at step 3: lower --learning_rate") as error:
        trainer(tmp_path, lora(base_model()), rows(8), **saves).train()
    assert str(error.value).endswith(f"; the last complete checkpoint is {tmp_path / 'checkpoint-2'}")


class Send(TrainerCallback):
    """Sends this process a signal at the end of a step."""

    def __init__(self, number: int, step: int = 2) -> None:
        self.number, self.step = number, step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_returns_after_the_step_under_way(
    tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    callbacks = [Send(number)]
    one = trainer(tmp_path, lora(base_model()), rows(40), max_steps=9, save_strategy="steps", callbacks=callbacks)
    one.train()
    assert one.stopped == number
    assert list(checkpoint.steps(tmp_path)) == [3]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert ("saves a checkpoint after this step" in capfd.readouterr().err) == (number == signal.SIGINT)


def test_a_signal_in_the_last_step_leaves_a_complete_run(tmp_path: Path) -> None:
    callbacks = [Send(signal.SIGINT, step=4)]
    one = trainer(tmp_path, lora(base_model()), rows(40), max_steps=4, save_strategy="steps", callbacks=callbacks)
    one.train()
    assert not one.stopped
    assert list(checkpoint.steps(tmp_path)) == [4]


TWICE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_trainer as t

class Twice(t.TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        os.kill(os.getpid(), signal.SIGINT)
        print("once", state.global_step, flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("twice", flush=True)

t.trainer(Path({folder!r}), t.lora(t.base_model()), t.rows(40), save_strategy="steps", callbacks=[Twice()]).train()
"""


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    code = TWICE.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "once 1\n"), done.stderr  # 130 in a shell
    assert checkpoint.newest(tmp_path) is None


def test_the_last_step_is_evaluated_so_that_a_best_checkpoint_is_chosen(tmp_path: Path) -> None:
    often = {
        "eval_strategy": "steps",
        "eval_steps": 50,
        "save_strategy": "steps",
        "save_steps": 50,
        "logging_steps": 50,
    }
    one = trainer(tmp_path, lora(base_model()), rows(12), rows(30, seed=5), max_steps=3, **often)
    one.train()
    assert one.state.best_model_checkpoint == str(tmp_path / "checkpoint-3")
    assert [line["step"] for line in one.state.log_history if "eval_loss" in line] == [3]
    assert [line["step"] for line in one.state.log_history if "loss" in line] == [3]


def test_the_log_has_a_line_for_every_step_and_none_twice_after_a_stop(tmp_path: Path) -> None:
    def run(**changes: Any) -> SftTrainer:
        changes["callbacks"] = [WriteLog(tmp_path), *changes.get("callbacks", [])]
        return trainer(
            tmp_path, lora(base_model()), rows(12), max_steps=5, save_strategy="steps", save_steps=2, **changes
        )

    run(callbacks=[StopAt(3)]).train()
    run().train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    lines = [line for line in history.read(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    expected = {"loss", "grad_norm", "learning_rate", "epoch", "tokens_per_second", "memory_gib"}
    assert all(expected <= line.keys() for line in lines)
    assert {"train_loss.png", "learning_rate.png"} <= {path.name for path in (tmp_path / "images").iterdir()}


def test_the_last_step_is_logged_whatever_the_interval(tmp_path: Path) -> None:
    one = trainer(tmp_path, lora(base_model()), rows(12), max_steps=5, logging_steps=3)
    one.train()
    assert [line["step"] for line in one.state.log_history if "loss" in line] == [3, 5]


def test_a_step_without_a_trained_token_changes_nothing(tmp_path: Path) -> None:
    model = lora(base_model())
    before = adapter(model)
    trainer(tmp_path, model, [Sample([1, 2, 3], [0.0] * 3)] * 4, max_steps=1, weight_decay=0.0).train()
    assert_close(before, adapter(model), tolerance=0)


TWO_PROCESSES = """
import shutil, sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_trainer as t
torch.set_num_threads(1)

def run(resume=None):
    return t.trainer(Path({folder!r}), t.lora(t.base_model()), t.rows(9), t.rows(3, seed=5), keep=None,
        objective=t.Likelihood(t.SOURCES),
        gradient_accumulation_steps=1, max_steps=-1, num_train_epochs=2, ddp_backend="gloo",
        save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=2).train(resume_from_checkpoint=resume)

run()
if torch.distributed.get_rank() == 0:
    shutil.copytree({folder!r} + "/checkpoint-6", {folder!r} + "/first")
torch.distributed.barrier()
run({folder!r} + "/checkpoint-4")
torch.distributed.destroy_process_group()
"""


def test_two_processes_equal_one_with_twice_the_accumulation_even_where_rows_run_out(tmp_path: Path) -> None:
    model = lora(base_model())
    evaluations = {"eval_strategy": "steps", "eval_steps": 2}
    changes = {"max_steps": -1, "num_train_epochs": 2, "objective": Likelihood(SOURCES), **evaluations}
    one = trainer(tmp_path / "one", model, rows(9), rows(3, seed=5), **changes)
    one.train()
    assert one.state.global_step == 6  # 9 rows, 4 a step: two processes share a last step of one row

    script, two = tmp_path / "two.py", tmp_path / "two"
    script.write_text(TWO_PROCESSES.format(tests=str(Path(__file__).parent), folder=str(two)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

    saved = load_file(two / "checkpoint-6" / "adapter_model.safetensors")
    assert_close({name.replace(".default", ""): each for name, each in adapter(model).items()}, saved)
    state = json.loads((two / "checkpoint-6" / "trainer_state.json").read_text())
    for theirs, ours in zip(state["log_history"], one.state.log_history, strict=False):
        names = [name for name in ours if "loss" in name or "source" in name]
        assert len(names) > 2 and {name: theirs[name] for name in names} == pytest.approx(
            {name: ours[name] for name in names}, rel=1e-4
        )
    first, again = (two / name / "adapter_model.safetensors" for name in ("first", "checkpoint-6"))
    assert first.read_bytes() == again.read_bytes()


def test_a_run_that_is_out_of_time_saves_and_ends_well(tmp_path: Path) -> None:
    args = arguments(tmp_path, **settings(max_steps=100000, save_strategy="no"))
    one = SftTrainer(lora(base_model()), tmp_path, args, rows(8), max_minutes=0.02)
    one.train()
    assert 0 < one.state.global_step < 100000
    assert (one.stopped, one.late) == (0, True)
    assert checkpoint.newest(tmp_path)


KINDS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt")


def rates(one: SftTrainer) -> list[float]:
    return [line["learning_rate"] for line in one.state.log_history if "loss" in line]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0, 0.05, 0.5, 1, 3])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_no_step_has_rate_0_warm_up_ends_at_the_peak_and_the_rest_is_transformers_own(
    kind: str, warmup: float, steps: int
) -> None:
    rising = warmup_steps(warmup, steps)
    ours = [schedule.learning_rate_factor(kind, rising, steps, 1e-3)(step) for step in range(steps + 1)]
    assert all(rate > 0 for rate in ours[:-1])
    if kind == "constant":
        assert ours == [1.0] * (steps + 1)
        return
    begun = min(rising, steps)
    assert ours[:begun] == pytest.approx([(step + 1) / (rising + 1) for step in range(begun)])
    if warmup < 1:
        assert 1.0 in ours[:-1]  # a share leaves a step at the peak
    if rising < steps:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
        theirs = get_scheduler(kind, optimizer, rising, steps).lr_lambdas[0]
        assert ours[rising:] == pytest.approx([theirs(step) for step in range(rising, steps + 1)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_takes_its_steps_at_the_rates_of_the_schedule(tmp_path: Path, kind: str) -> None:
    one = trainer(tmp_path, lora(base_model()), rows(8), lr_scheduler_type=kind, max_steps=5, warmup_steps=2)
    one.train()
    assert rates(one) == [1e-2 * schedule.learning_rate_factor(kind, 2, 5, 1e-2)(step) for step in range(5)]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_run_continued_with_more_steps_follows_the_schedule_of_all_of_them(tmp_path: Path, kind: str) -> None:
    def run(folder: str, steps: int, begin: str | None = None, **changes: Any) -> SftTrainer:
        given = {"max_steps": steps, "lr_scheduler_type": kind, "warmup_steps": 0.25, **changes}
        one = trainer(tmp_path / folder, lora(base_model()), rows(12), save_strategy="steps", save_steps=4, **given)
        one.train(resume_from_checkpoint=begin)
        return one

    first = run("short", 4)
    more = run("short", 8, str(tmp_path / "short" / "checkpoint-4"))
    long = run("long", 8)
    assert rates(more) == rates(first) + rates(long)[4:]
    rates_of_optimizer = [group["lr"] for group in more.optimizer.param_groups]
    assert rates_of_optimizer == [group["lr"] for group in long.optimizer.param_groups]


def test_a_run_continued_with_other_rates_and_weight_decay_takes_them(tmp_path: Path) -> None:
    common = {"save_strategy": "steps", "save_steps": 2, "keep": None}
    trainer(tmp_path, lora(base_model()), rows(12), **common).train()
    one = trainer(tmp_path, lora(base_model()), rows(12), **common, learning_rate=1e-3, weight_decay=0.3)
    one.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert rates(one) == [1e-2, 7.5e-3, 5e-4, 2.5e-4]
    assert {group["weight_decay"] for group in one.optimizer.param_groups} == {0.3, 0.0}
