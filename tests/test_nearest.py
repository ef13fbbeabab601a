"""What a user may have meant: the nearest name and the nearest path, and that each command's error names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_model_folder

from swift import cli, flags
from swift.commands import sft
from swift.system.nearest import closest, nearest, nearest_path
from swift.template.template import template

FLAGS = [name for item in flags.walk(sft.Config) for name in (item.name, *item.spec.alias)]
TUNERS = ("lora", "full", "longlora", "adalora", "ia3", "loha", "road", "prefix", "ptuning")


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("lroa", TUNERS, "lora"),  # swapped letters
        ("qlora", TUNERS, "lora"),
        ("LoRA", TUNERS, "lora"),
        ("p-tuning", TUNERS, "ptuning"),
        ("freeze", TUNERS, ""),
        ("modle", FLAGS, "model"),
        ("epochs", FLAGS, "num_train_epochs"),  # a part
        ("data", FLAGS, "dataset"),  # the beginning
        ("bs", FLAGS, "batch_size"),  # initials
        ("model_path", FLAGS, "model_id_or_path"),  # parts
        ("grad_accum", FLAGS, "gradient_accumulation_steps"),  # beginnings of parts
        ("lora", FLAGS, "lora_rank"),  # the first of several
        ("save_dir", FLAGS, ""),  # letters in common are not enough
        ("x", FLAGS, ""),
        ("", FLAGS, ""),
    ],
)
def test_the_nearest_name_is_what_a_user_may_have_meant(word: str, known: tuple[str, ...], meant: str) -> None:
    assert closest(word, known) == ([meant] if meant else [])
    assert nearest(word, known) == (f": did you mean {meant}?" if meant else "")


def test_with_a_cutoff_of_zero_there_is_always_a_name() -> None:
    assert closest("zzz", ["lora", "full"], cutoff=0.0)


def test_the_nearest_path_replaces_the_part_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "output" / "v1").mkdir(parents=True)
    (tmp_path / "rows.jsonl").touch()
    assert nearest_path(tmp_path / "row.jsonl") == f": did you mean {tmp_path / 'rows.jsonl'}?"
    assert nearest_path(tmp_path / "outptu" / "v1") == f": did you mean {tmp_path / 'output' / 'v1'}?"
    assert nearest_path(tmp_path / "outptu" / "v2") == f": did you mean {tmp_path / 'output'}?"
    assert nearest_path(tmp_path / "rows.jsonl" / "x") == ""
    assert nearest_path(tmp_path / "zzz") == ""
    assert nearest_path(tmp_path / "bows.txt") == ""  # another name with another ending
    assert nearest_path(tmp_path / "rows.jsonl") == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, rows, tools and flags, each of whose names is misspelt below."""
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("near")
    tiny_model_folder(made / "tiny-model")
    row = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(20)))
    (made / "tasks.json").write_text("{}")
    tools = 'def lamp_on(room: str) -> str:\n    """Switches a lamp on.\n\n    Args:\n        room: where\n    """\n'
    (made / "my_tools.py").write_text(tools + "    return room\n")
    (made / "train.yaml").write_text("model: tiny-model\n")
    (made / "models.toml").touch()
    (made / "output").mkdir()
    return made


SFT = "sft --model tiny-model --dataset rows.jsonl --template_type chatml --device cpu"


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("stf", "sft"),
        ("data lnt rows.jsonl", "lint"),
        ("agent rn", "run"),
        ("runs sotp v3", "stop"),
        ("sft --modl tiny-model", "--model"),
        ("sft --epochs 3", "--num_train_epochs"),
        ("sft trian.yaml", "train.yaml"),
        ("sft --model tiny-model --dataset rows.jsonl --registry model.toml", "models.toml"),
        (f"{SFT} --sft_type lroa", "lora"),
        (f"{SFT} --lr_scheduler_type cosin", "cosine"),
        (f"{SFT} --template_type chatlm", "chatml"),
        (f"{SFT} --agent_template reactt", "react_en"),
        (f"{SFT} --loss_scale hermess", "hermes"),
        (f"{SFT} --lora_target_modules q_prj", "q_proj"),
        (f"{SFT} --init_lora_weights pisa", "pissa"),
        (f"{SFT} --optim adamw", "adamw_torch"),
        (f"{SFT} --report_to tensorbord", "tensorboard"),
        (f"{SFT} --deepspeed default-zero4", "zero"),
        (f"{SFT} --resume_from_checkpoint outptu", "output"),
        (f"{SFT} --init_adapter tiny-modle", "tiny-model"),
        (f"{SFT} --device cud", "cuda"),
        (f"{SFT} --val_dataset row.jsonl", "rows.jsonl"),
        ("sft --model tiny-modle --dataset rows.jsonl", "tiny-model"),
        ("sft --model smollm2-135m-instrct --dataset rows.jsonl", "smollm2-135m-instruct"),
        ("sft --model tiny-model --dataset ms-agnt", "ms-agent"),
        ("rlhf --rlhf_type dop", "dpo"),
        ("infer --model tiny-model --template_type chatml --tools my_tool.py", "my_tools.py"),
        ("infer --model tiny-model --template_type chatml --tools my_tools.py --tool_filter lamp_no", "lamp_on"),
        ("infer --model tiny-model --template_type chatml --tools my_tools.py:lamp_on", "--tool_filter lamp_on"),
        ("infer --model tiny-model --infer_backend vlm", "vllm"),
        ("infer --ckpt_dir outptu/x", "output"),
        ("deploy --model tiny-model --lora_modules a=tiny-modle", "tiny-model"),
        ("eval --model tiny-model --tasks cals", "calls"),
        ("export --ckpt_dir outptu --to_gguf", "output"),
        ("export --model tiny-model --to_gguf Q4_K", "Q4_K_M"),
        ("export --model tiny-model --quant_bits 4 --quant_method torchoa", "torchao"),
        ("merge-lora --ckpt_dir outptu", "output"),
        ("data synth --tools my_tools.py --catalogue swfit", "swift"),
        ('data synth --tools my_tools.py --kinds {"sequental":1}', "sequential"),
        ("data synth --tools my_tools.py --examples task.json", "tasks.json"),
        ("data show row.jsonl --model tiny-model", "rows.jsonl"),
        ("data review row.jsonl", "rows.jsonl"),
        ("teach --tools my_tool.py", "my_tools.py"),
        ("practice --method rtf", "rft"),
        ("agent run --tasks task.json --tools my_tools.py --model tiny-model", "tasks.json"),
        ("models qwen2_5-7b-instrct", "qwen2_5-7b-instruct"),
        ("datasets alpca", "alpaca"),
        ("tuners lroa", "lora"),
        ("doctor --jsno", "--json"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one(
    folder: Path, line: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    assert cli.main(line.split()) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("swift: error: ")
    assert meant in said.rpartition("did you mean")[2] if "did you mean" in said else meant in said, said


def test_a_template_is_found_by_the_name_of_its_file() -> None:
    with pytest.raises(ValueError, match="did you mean 'chatml'"):
        template("chatlm")
