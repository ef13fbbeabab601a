"""What a run leaves behind and says last: modes of files, the model card, the commands that come next."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_sft import plain_rows, train, write
from tiny import tiny_model_folder

from swift import cli
from swift.assembly import model_card
from swift.assembly.next_commands import commands
from swift.flag_groups import ModelFlags
from swift.infer.calibration_file import write_calibration
from swift.infer.confidence import Calibration
from swift.model import catalog


@pytest.fixture(autouse=True)
def _outside_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(tmp_path: Path) -> dict[str, Any]:
    rows = write(tmp_path / "rows.jsonl", plain_rows(30))
    return train(tmp_path, tiny_model_folder(tmp_path / "tiny"), rows, max_steps=2)


def front(readme: Path) -> dict[str, Any]:
    _, matter, _ = readme.read_text(encoding="utf-8").split("---\n", 2)
    found = yaml.safe_load(matter)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


def test_files_of_checkpoints_and_merged_folders_have_the_mode_that_the_umask_gives(
    umask: None, trained: dict[str, Any]
) -> None:
    checkpoint = trained["last_model_checkpoint"]
    assert cli.main(["export", "--ckpt_dir", checkpoint, "--merge_lora", "true", "--output_dir", "merged"]) == 0
    for folder, weights in ((Path(checkpoint), "adapter_model.safetensors"), (Path("merged"), "model.safetensors")):
        found = modes(folder)
        assert weights in found
        assert set(found.values()) == {0o640}, found


def test_the_last_lines_name_the_best_checkpoint_and_commands_to_paste(
    capsys: pytest.CaptureFixture[str], trained: dict[str, Any]
) -> None:
    said = capsys.readouterr().out
    best = Path(trained["best_model_checkpoint"])
    assert f"best: {best.relative_to(Path.cwd())} (held-out loss " in said
    pasted = [shlex.split(line) for line in said.partition("next:\n")[2].splitlines()]
    place = ["--ckpt_dir", str(best.relative_to(Path.cwd()))]
    wanted = [["infer", *place], ["deploy", *place], ["export", *place, "--merge_lora", "true"]]
    assert [words[-len(want) :] for words, want in zip(pasted, wanted, strict=True)] == wanted


@pytest.mark.parametrize("start", ["init_adapter", "model_id_or_path"])
def test_where_the_start_had_a_minimum_confidence_a_command_finds_one_for_the_checkpoint(
    start: str, tmp_path: Path
) -> None:
    began, last = tmp_path / "began", tmp_path / "run/checkpoint-3"
    began.mkdir()
    last.mkdir(parents=True)
    (last / "sft_args.json").write_text(json.dumps({"model_type": "llama", start: str(began)}), encoding="utf-8")
    plain = commands(last, ModelFlags())
    write_calibration(began, Calibration(1.5, 0.09), 200, (0.2, 0.1), "calls")
    *same, added = commands(last, ModelFlags())
    assert same == plain
    place = shlex.split(plain[0])[-1]
    assert added.endswith(f"eval --ckpt_dir {place} --tasks calls --calibrate true --min_confidence 0.09")
    write_calibration(last, Calibration(), 60, (0.2, 0.1), "calls")
    assert commands(last, ModelFlags()) == plain


@pytest.mark.parametrize(
    ("started", "shown"),
    [("bin/swift", "bin/swift"), ("{here}/bin/swift", "bin/swift"), ("{here}/path/swift", "swift")],
)
def test_commands_to_paste_name_the_program_as_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: str, shown: str
) -> None:
    from swift.system import invocation

    for folder in ("bin", "path"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "swift").write_text("#!/bin/sh\n")
        (tmp_path / folder / "swift").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv(invocation.VARIABLE, raising=False)
    monkeypatch.setattr("sys.argv", [started.format(here=tmp_path)])
    assert invocation.command("infer", "--ckpt_dir", tmp_path / "a b") == f"{shown} infer --ckpt_dir 'a b'"


def test_a_run_that_saves_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write(tmp_path / "rows.jsonl", plain_rows(8))
    train(tmp_path, tiny_model_folder(tmp_path / "tiny"), rows, max_steps=1, save_strategy="no")
    said = capsys.readouterr().out
    assert "no checkpoint was saved" in said
    assert "infer" not in said and "None" not in said


def test_the_card_says_what_was_trained_on_what_and_holds_no_path_of_this_machine(
    tmp_path: Path, trained: dict[str, Any]
) -> None:
    checkpoint = Path(trained["last_model_checkpoint"])
    text = (checkpoint / model_card.README).read_text(encoding="utf-8")
    head = front(checkpoint / model_card.README)
    assert (head["base_model"], head["library_name"]) == ("tiny", "peft")
    assert {"base_model:adapter:tiny", "lora"} <= set(head["tags"])
    assert "| rows.jsonl | 29 |" in text
    assert "| learning_rate | 0.001 |" in text
    held_out = [line["eval_loss"] for line in trained["log_history"] if "eval_loss" in line][-1]
    assert f"| held-out loss | {held_out:.4f} |" in text
    assert "PeftModel.from_pretrained" in text
    assert "More Information Needed" not in text
    assert str(tmp_path) not in text


def test_the_card_of_a_merged_model_tells_what_its_adapter_was_trained_on(
    tmp_path: Path, trained: dict[str, Any]
) -> None:
    checkpoint = trained["last_model_checkpoint"]
    assert cli.main(["export", "--ckpt_dir", checkpoint, "--merge_lora", "true", "--output_dir", "merged"]) == 0
    text = Path("merged", model_card.README).read_text(encoding="utf-8")
    assert front(Path("merged", model_card.README))["library_name"] == "transformers"
    assert "| rows.jsonl | 29 |" in text
    assert "AutoModelForCausalLM" in text and "peft" not in text
    assert str(tmp_path) not in text


def test_the_card_of_a_full_model_names_transformers(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", plain_rows(8))
    result = train(tmp_path, tiny_model_folder(tmp_path / "tiny"), rows, max_steps=1, sft_type="full")
    head = front(Path(result["last_model_checkpoint"], model_card.README))
    assert head["library_name"] == "transformers"
    assert "base_model:finetune:tiny" in head["tags"]


def test_an_adapter_notes_the_hub_id_of_a_known_model_and_is_found_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write(tmp_path / "rows.jsonl", plain_rows(8))
    base = tiny_model_folder(tmp_path / "SmolLM2-135M-Instruct")
    result = train(tmp_path, base, rows, max_steps=1)
    checkpoint = Path(result["last_model_checkpoint"])
    spec = catalog.by_name("smollm2-135m-instruct")
    assert spec is not None
    note = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))
    assert note["base_model_name_or_path"] == spec.hf == front(checkpoint / model_card.README)["base_model"]
    assert str(tmp_path) not in (checkpoint / "adapter_config.json").read_text(encoding="utf-8")
    assert cli.main(["export", "--ckpt_dir", str(checkpoint), "--merge_lora", "true", "--output_dir", "merged"]) == 0
    assert not re.search("error", capsys.readouterr().err)
