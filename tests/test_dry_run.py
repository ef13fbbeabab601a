"""`--dry_run`: what it says is measured on the longest rows and adds up, and it leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sft import plain_rows, train, write
from tiny import tiny_model_folder

from swift import cli
from swift.train.batch import Batch
from swift.train.trainer import SftTrainer


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def estimated(here: Path, **changes: Any) -> dict[str, Any]:
    rows = [*plain_rows(29), {"query": "long?", "response": "yes " * 100}]
    model = tiny_model_folder(here / "tiny")
    settings = {"dry_run": True, "max_steps": 40, "dataset_test_ratio": 0.0, "tuner_backend": "peft", **changes}
    return train(here, model, write(here / "rows.jsonl", rows), **settings)


def test_a_dry_run_measures_the_longest_rows_and_writes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    widths: list[int] = []
    step = SftTrainer.training_step

    def watched(self: SftTrainer, model: Any, inputs: Batch, *rest: Any) -> Any:
        widths.append(inputs["input_ids"].shape[-1])
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(SftTrainer, "training_step", watched)
    found = estimated(here)
    assert sorted(path.name for path in here.iterdir()) == ["rows.jsonl", "tiny"]
    assert len(widths) == 3 * 2  # micro-batches of 3 steps
    assert found["longest_row"] > 400 and max(widths) >= found["longest_row"]
    assert found["steps"] == 40
    assert found["seconds"] == pytest.approx(found["tokens"] / found["tokens_per_second"], rel=0.01)
    said = capsys.readouterr().out
    assert "mixture: rows.jsonl: 30 rows" in said or "rows.jsonl: 30 rows" in said
    assert "steps: 40 of 2 x 2 x 1 rows" in said and "first row:\n" in said
    assert f"(up to {found['longest_row']:,} tokens)" in said and "time: about " in said
    assert "dry run: nothing is written" in said and "next:" not in said


def test_preferences_are_estimated_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [{"query": f"twice {n}?", "response": f"{2 * n}.", "rejected_response": "No."} for n in range(9)]
    words = ["--model", str(tiny_model_folder(here / "tiny")), "--dataset", str(write(here / "pairs.jsonl", pairs))]
    words += ["--template_type", "chatml", "--device", "cpu", "--tuner_backend", "peft", "--num_train_epochs", "2"]
    assert cli.main(["rlhf", *words, "--dry_run"]) == 0
    assert re.search(r"^time: about \d+:\d\d for \d+ steps of [\d,]+ tokens", capsys.readouterr().out, re.MULTILINE)
    assert sorted(path.name for path in here.iterdir()) == ["pairs.jsonl", "tiny"]


def test_only_a_dry_run_is_refused_what_cannot_be_estimated(here: Path) -> None:
    estimated(here, dry_run=False, max_steps=1, save_steps=1)
    with pytest.raises(ValueError, match="nothing is left to train"):
        estimated(here, dry_run=False, max_steps=1, resume_from_checkpoint="newest")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"streaming": True}, "--dry_run counts tokens before training, which --streaming does not"),
        ({"resume_from_checkpoint": "newest"}, "leave out --resume_from_checkpoint"),
    ],
)
def test_a_run_that_cannot_be_estimated_is_refused(here: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        estimated(here, **changes)
