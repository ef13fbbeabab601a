"""Flags that cannot work are refused in one line before a row is read or a model is loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from test_sft import plain_rows, write
from tiny import tiny_model_folder

from swift import cli
from swift.data import mix
from swift.model import load


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and rows, where reading the rows or the weights is a mistake."""

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("rows were read, or a model was loaded")

    monkeypatch.setattr(mix, "load_datasets", never)
    monkeypatch.setattr(load, "load_model", never)
    monkeypatch.chdir(tmp_path)
    tiny_model_folder(tmp_path / "tiny")
    write(tmp_path / "rows.jsonl", plain_rows(4))
    (tmp_path / "a_file").write_text("")
    return tmp_path


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    find = importlib.util.find_spec
    for module in (
        "swift.model.quantise",
        "swift.assembly.preflight",
        "swift.tuner.lora",
        "swift.engine.openvino_engine",
    ):
        if importlib.util.find_spec(module):
            monkeypatch.setattr(
                f"{module}.find_spec", lambda name: None if name in packages else find(name), raising=False
            )


TRAIN = ("sft", "--model", "tiny", "--template_type", "chatml", "--device", "cpu", "--dataset", "rows.jsonl")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--report_to clearml_x", "--report_to clearml_x is not installed"),
        ("--optim adamw_torhc", "--optim adamw_torhc: transformers has no such optimizer: did you mean adamw_torch?"),
        ("--optim adamw_8bit", "--optim adamw_8bit needs the package bitsandbytes"),
        ("--optim lomo", "--optim lomo needs the package lomo-optim"),
        ("--optim galore_adamw", "use --use_galore true"),
        ("--quantization_bit 4 --quant_method hqq", "needs the package hqq"),
        ("--quantization_bit 4", "needs the package bitsandbytes"),
        ("--loss_scale none_such.json", "loss scale none_such.json: no such file"),
        ("--loss_scale reakt", "did you mean 'react'?"),
        ("--template_type chatlm", "unknown template 'chatlm'"),
        ("--agent_template raect_en", "react_en"),
        ("--dataset rows.jsonl gone.jsonl", "gone.jsonl: no such file"),
        ("--val_dataset gone.jsonl", "gone.jsonl: no such file"),
        ("--dataset_test_ratio 1.5", "--dataset_test_ratio 1.5: must be 0 or more and below 1"),
        ("--output_dir a_file/out", "a_file is a file, not a folder"),
        ("--logging_dir a_file", "--logging_dir a_file: "),
        ("--lora_target_modules q_porj", "q_porj"),
        ("--lora_rank 0", "--lora_rank 0: must be 1 or more"),
        ("--lora_dropout 1", "must be 0 or more and below 1"),
        ("--learning_rate -1", "--learning_rate -1.0: must be 0 or more"),
        ("--init_lora_weights piissa", "unknown initialisation 'piissa'"),
        ("--init_lora_weights loftq", "'loftq'"),
        ("--dtype fp16", "fp16 does not work on a CPU"),
        ("--max_steps 0", "--max_steps 0: must be 1 or more, or -1"),
        ("--save_total_limit 0", "--save_total_limit 0: must be 1 or more, or -1"),
        ("--learning_rate inf", "--learning_rate inf: must be 0 or more"),
        ("--neftune_noise_alpha -1", "--neftune_noise_alpha -1.0: must be 0 or more"),
        ("--seed -1", "--seed -1: must be from 0 to 4294967295"),
        ("--ddp_backend gloo", "--ddp_backend has no effect in one process"),
        ("--resume_from_checkpoint gone", "--resume_from_checkpoint gone: no such folder"),
        ("--registry gone.toml", "gone.toml: cannot be read"),
        ("--config gone.yaml", "gone.yaml"),
        ("--deepspeed gone.json", "--deepspeed gone.json: neither a file nor a JSON object"),
        ("--fsdp_config gone.json --fsdp full_shard", "--fsdp_config gone.json: neither a file nor a JSON object"),
    ],
)
def test_training_flags_that_cannot_work_are_refused_before_anything_is_read(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    without(monkeypatch, "bitsandbytes", "hqq", "lomo_optim")
    assert cli.main([*TRAIN, *words.split()]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and said in told[0], told
    assert not (place / "output").exists()


def test_a_disk_too_small_for_a_checkpoint_is_an_error_before_rows_are_read(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    assert cli.main([*TRAIN, "--sft_type", "full"]) == 2
    assert "are free, and a checkpoint of the full model takes about" in capsys.readouterr().err


def test_a_folder_without_write_permission_is_an_error(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert cli.main([*TRAIN, "--output_dir", "out"]) == 2
    assert f"--output_dir out: this account may not write to {place}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("infer --ckpt_dir gone --dataset rows.jsonl", "--ckpt_dir gone: no such folder"),
        ("infer --ckpt_dir tiny --dataset rows.jsonl --result_dir a_file", "--result_dir a_file: "),
        (
            "deploy --model tiny --port 0 --lora_modules a=gone",
            "--lora_modules a=gone: it has no adapter_config.json",
        ),
        ("export --model tiny --to_gguf F16 --output_dir a_file/out", "a_file is a file, not a folder"),
        ("export --model tiny --quant_bits 3 --output_dir out", "--quant_bits"),
    ],
)
def test_other_commands_refuse_such_flags_as_early(
    place: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    assert cli.main(words.split()) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and said in told[0], told
