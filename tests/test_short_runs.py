"""Runs of few steps, stopped runs and continued ones, through `swift sft` on a two-layer model."""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sft import plain_rows, write
from tiny import tiny_model_folder

from swift import cli, flags
from swift.assembly import step_plan
from swift.commands import sft
from swift.flag_groups import TrainFlags


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pictures of a run, which take three quarters of its time."""
    torch.set_num_threads(1)
    monkeypatch.setattr("swift.train.report._picture", lambda *_: b"<svg></svg>")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_model_folder(tmp_path / "tiny")
    write(tmp_path / "rows.jsonl", plain_rows(8))
    return tmp_path


def given(place: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(place / "tiny"),
        "template_type": "chatml",
        "dataset": [str(place / "rows.jsonl")],
        "dataset_test_ratio": 0,
        "output_dir": str(place / "output"),
        "add_output_dir_suffix": False,
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "lora_dropout_p": 0.2,
        "report_to": ["none"],
        "logging_steps": 1,
        "device": "cpu",
        **changes,
    }


def train(place: Path, **changes: Any) -> dict[str, Any]:
    return sft.main(flags.from_dict(sft.Config, given(place, **changes)))


def rates(result: dict[str, Any]) -> list[float]:
    return [line["learning_rate"] for line in result["log_history"] if "loss" in line]


# --- few rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "flags_given", "world", "accumulation", "epochs", "total"),
    [
        (1, {}, 1, 1, 30, 30),
        (7, {}, 1, 1, 29, 203),
        (26, {}, 1, 1, 8, 208),
        (150, {}, 1, 1, 1, 150),
        (1_000, {}, 1, 5, 1, 200),
        (1_000, {"batch_size": 4}, 2, 1, 2, 250),
        (92_100, {}, 8, 2, 1, 5757),
        (26, {"num_train_epochs": 1}, 1, 1, 1, 26),
        (1_000, {"num_train_epochs": 2}, 1, 10, 2, 200),
        (26, {"gradient_accumulation_steps": 16}, 1, 16, 30, 60),
        (26, {"gradient_accumulation_steps": 16, "num_train_epochs": 1}, 1, 16, 1, 2),
        (26, {"max_steps": 3}, 1, 16, 1, 3),
        (None, {"max_steps": 3}, 1, 16, 1, 3),
    ],
)
def test_flags_left_open_give_a_small_set_enough_steps_and_flags_given_stay(
    rows: int | None, flags_given: dict[str, Any], world: int, accumulation: int, epochs: float, total: int
) -> None:
    steps = step_plan.steps_of(TrainFlags(**flags_given), rows, world, {})
    assert (steps.accumulation, steps.epochs, steps.total) == (accumulation, epochs, total)


def test_a_small_set_is_learned_with_default_steps_which_are_reported_and_recorded(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_open = {"batch_size": 1, "gradient_accumulation_steps": None, "num_train_epochs": None}
    result = train(place, **left_open, sft_type="full", lora_dropout_p=0.05)
    said = capsys.readouterr().out
    assert "small set: 8 rows trained in 200 steps of 1 row, 25 epochs" in said
    assert "note:" not in said
    assert result["global_step"] == 200
    record = json.loads((place / "output" / "sft_args.json").read_text())
    assert (record["gradient_accumulation_steps"], record["num_train_epochs"]) == (1, 25)
    losses = [line["loss"] for line in result["log_history"] if "loss" in line]
    assert losses[-1] < losses[0] / 2


def test_a_run_of_few_steps_says_so_before_it_starts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(place, num_train_epochs=1, warmup_ratio=0.05)
    assert rates(result) == [pytest.approx(5e-3), pytest.approx(1e-2)]
    said = capsys.readouterr().out
    line = "note: the run has 2 steps, in which a model learns little: --num_train_epochs 100 makes 200\n"
    assert said.index(line) < said.index("parameters are trained")


def test_what_is_odd_about_a_plan_is_a_line_each(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = write(place / "held_out.jsonl", plain_rows(20))
    result = train(place, warmup_steps=9, val_dataset=[str(held_out)], eval_steps=50, save_steps=70, logging_steps=60)
    said = capsys.readouterr().out
    assert "note: --warmup_steps 9 is not less than the 4 steps of the run: the learning rate rises to 0.004" in said
    assert "note: 20 rows are held out and 8 are trained" in said
    assert "--val_dataset_sample 8" in said
    assert result["best_model_checkpoint"] == result["last_model_checkpoint"] == str(place / "output" / "checkpoint-4")
    assert [line["step"] for line in result["log_history"] if "loss" in line] == [1, 4]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 1e-40}, "every lora_B is zero"),
        ({"sft_type": "full", "learning_rate": 1e-40}, "no weight has changed"),
        ({"sft_type": "ia3", "learning_rate": 1e-40}, "no weight has changed"),
    ],
)
def test_a_run_that_changed_no_weight_is_an_error(place: Path, changes: dict[str, Any], said: str) -> None:
    own = {"lora_dropout_p": 0.05, "num_train_epochs": 1, **changes}
    with pytest.raises(ValueError, match=f"nothing was learned: after 2 steps {said}, so .*checkpoint-2 answers like"):
        train(place, **own)


# --- stopped runs ---------------------------------------------------------------------------------------------------


def test_ctrl_c_saves_leaves_with_130_and_prints_the_command_that_ends_as_if_nothing_had_been(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"num_train_epochs": 60, "save_steps": 1000}
    train(place, **long, output_dir=str(place / "whole"))
    capsys.readouterr()

    def interrupt() -> None:
        log = place / "output" / "logging.jsonl"
        while not (log.exists() and len(log.read_text().splitlines()) > 2):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as stopped:
        train(place, **long)
    thread.join()
    assert stopped.value.code == 130
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("stopped after step ") and line.endswith(" of 120 by SIGINT") for line in lines)
    (command,) = [line.removeprefix("to resume: ") for line in lines if line.startswith("to resume: ")]
    program, *words = shlex.split(command)
    assert program == "swift"
    assert cli.main(words) == 0
    whole, parts = (place / name / "checkpoint-120" / "adapter_model.safetensors" for name in ("whole", "output"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_run_out_of_time_says_so_and_how_to_resume(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(place, max_minutes=1e-9, num_train_epochs=50)
    said = capsys.readouterr().out
    assert result["global_step"] == 1
    assert "stopped after step 1 of 100: the time limit of --max_minutes is reached" in said
    assert f"--resume_from_checkpoint {place / 'output' / 'checkpoint-1'}\n" in said


def test_a_stopped_run_that_saved_only_weights_says_that_it_cannot_be_resumed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(place, max_minutes=1e-9, num_train_epochs=50, save_only_model=True)
    said = capsys.readouterr().out
    assert "cannot be resumed" in said
    assert "to resume:" not in said


# --- continued runs -------------------------------------------------------------------------------------------------


def refusal(place: Path, **changes: Any) -> str:
    with pytest.raises(ValueError, match="so nothing is left to train") as error:
        train(place, resume_from_checkpoint="newest", **changes)
    return str(error.value)


def test_nothing_left_to_train_is_an_error_with_the_flag_that_helps(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(place)
    last = place / "output" / "checkpoint-4"
    said = refusal(place)
    assert said.startswith(f"--resume_from_checkpoint: {last} is at step 4 of 4, so nothing is left to train: ")
    assert said.endswith("give --num_train_epochs 3, or leave out --resume_from_checkpoint")
    capsys.readouterr()
    assert "at step 4 of 2" in refusal(place, num_train_epochs=1)
    assert "resume: --num_train_epochs is 1.0, the checkpoint's run had 2.0" in capsys.readouterr().out
    assert "at step 4 of 2" in refusal(place, batch_size=4)
    assert "resume: --batch_size is 4, the checkpoint's run had 2" in capsys.readouterr().out
    assert "give --max_steps above 4" in refusal(place, max_steps=4)
    write(place / "rows.jsonl", plain_rows(4))
    assert "at step 4 of 2" in refusal(place)
    assert "resume: the number of samples is 4, the checkpoint's run had 8" in capsys.readouterr().out
    assert refusal(place).endswith("give --num_train_epochs 5, or leave out --resume_from_checkpoint")
    assert train(place, resume_from_checkpoint="newest", num_train_epochs=5)["global_step"] == 5


def test_a_run_continued_with_another_plan_says_what_differs_and_takes_the_rates_of_its_own(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(place)
    long = train(place, num_train_epochs=4, output_dir=str(place / "long"))
    write(place / "rows.jsonl", plain_rows(9)[1:])
    capsys.readouterr()
    more = train(place, num_train_epochs=4, max_length=500, resume_from_checkpoint="newest")
    assert rates(more)[4:] == rates(long)[4:]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resume: ")]
    assert said == [
        "resume: --max_length is 500, the checkpoint's run had 2048",
        "resume: --num_train_epochs is 4.0, the checkpoint's run had 2.0",
        "resume: the rows or their tokens differ from the checkpoint's",
        "resume: the order of rows differs from the checkpoint's run, so some rows repeat and others are skipped",
        "resume: 4 of 8 steps are done",
    ]


def test_a_continued_run_keeps_the_steps_that_its_checkpoint_chose(place: Path) -> None:
    left_open = {"batch_size": 1, "gradient_accumulation_steps": None, "save_steps": 100, "report_to": ["none"]}
    write(place / "rows.jsonl", plain_rows(4))
    train(place, **left_open, num_train_epochs=1)
    result = train(place, **left_open, num_train_epochs=2, resume_from_checkpoint="newest")
    assert result["global_step"] == 8
