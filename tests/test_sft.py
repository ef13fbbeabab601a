"""`swift sft` through its front door, on a two-layer model with one token a byte."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift import cli, flags
from swift.commands import sft
from swift.model.load import load_model

ROOT = Path(__file__).parent.parent

REACT = """Thought: I should look.
Action: clock
Action Input: {"zone": "UTC"}
Observation: 12:00
Thought: I know.
Final Answer: noon"""


def agent_rows(count: int) -> list[dict[str, Any]]:
    turns = [("system", "You can call: clock"), ("user", "time?"), ("assistant", REACT)]
    row = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    return [row] * count


def plain_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"query": f"twice {number}?", "response": f"It is {2 * number}." + "!" * (number % 7)}
        for number in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model_folder(tmp_path / "tiny")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", plain_rows(30))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def train(tmp_path: Path, model: Path, *data: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": str(model),
        "template_type": "chatml",
        "dataset": [str(path) for path in data],
        "output_dir": str(tmp_path / "output"),
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "eval_steps": 2,
        "logging_steps": 1,
        "max_steps": 4,
        "device": "cpu",
        **changes,
    }
    return sft.main(flags.from_dict(sft.Config, settings))


def test_a_run_leaves_all_its_files(
    tmp_path: Path, model: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agents = write(tmp_path / "agents.jsonl", agent_rows(6))
    result = train(tmp_path, model, rows, agents)
    folder = Path(result["output_dir"])
    assert re.fullmatch(r"v0-\d{8}-\d{6}", folder.name)
    assert folder.parent == tmp_path / "output" / "tiny"

    assert result["global_step"] == 4
    assert result["last_model_checkpoint"] == str(folder / "checkpoint-4")
    assert result["best_model_checkpoint"] in (str(folder / "checkpoint-2"), str(folder / "checkpoint-4"))
    losses = [line["eval_loss"] for line in result["log_history"] if "eval_loss" in line]
    assert result["best_metric"] == min(losses)
    assert len(losses) == 2

    for checkpoint in (folder / "checkpoint-2", folder / "checkpoint-4"):
        assert {"adapter_config.json", "adapter_model.safetensors", "sft_args.json"} <= names(checkpoint)
    assert {"logging.jsonl", "sft_args.json", "mixture.json", "machine.json", "report.html", "images", "runs"} <= names(
        folder
    )
    assert {"train_loss.png", "eval_loss.png"} <= names(folder / "images")
    assert any(name.startswith("events.out.tfevents") for name in names(folder / "runs"))
    steps = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == [1, 2, 3, 4]
    of_rows = [line[f"trained_tokens/{rows}"] for line in steps if f"trained_tokens/{rows}" in line]
    assert of_rows and f"trained_tokens/{rows}".encode() in next((folder / "runs").iterdir()).read_bytes()

    mixture = json.loads((folder / "mixture.json").read_text())
    assert mixture["sources"][str(rows)]["rows"] == 29
    assert mixture["sources"][str(agents)]["rows"] == 5
    assert mixture["held_out_rows"] == 2
    page = (folder / "report.html").read_text()
    assert "<h2>Loss</h2>" in page and "<h2>Loss by source</h2>" in page
    assert ("finished" in page and "loss fell from" in page.lower()) or "loss rose" in page.lower()
    assert "twice" in page

    said = capsys.readouterr()
    assert "parameters are trained" in said.out
    assert "<|im_start|>user" in said.out
    assert "% of them trained" in said.out
    assert re.search(r"4 steps in .* tokens/s, .* GiB", said.out)
    assert "step 4/4  loss" in said.err


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_the_environment_wrote_is_never_trained(tmp_path: Path, model: Path) -> None:
    result = train(tmp_path, model, write(tmp_path / "agents.jsonl", agent_rows(6)), dataset_test_ratio=0, max_steps=1)
    share = json.loads((Path(result["output_dir"]) / "mixture.json").read_text())["total"]
    trained = len(REACT.encode()) - len(" 12:00\n") - len("Observation:")
    # whether `Observation:` itself is trained is the loss scale's affair
    assert trained <= share["trained_tokens"] / share["rows"] <= trained + len("Observation:") + 2


def test_flags_left_open_follow_from_others_and_are_recorded(tmp_path: Path, model: Path, rows: Path) -> None:
    def record(**changes: Any) -> dict[str, Any]:
        common = {"gradient_accumulation_steps": None, "learning_rate": None, "max_steps": 1, **changes}
        result = train(tmp_path, model, rows, **common)
        inner = json.loads((Path(result["last_model_checkpoint"]) / "sft_args.json").read_text())
        assert inner == json.loads((Path(result["output_dir"]) / "sft_args.json").read_text())
        return inner

    lora, full = record(), record(sft_type="full", batch_size=5)
    assert (lora["learning_rate"], lora["gradient_accumulation_steps"]) == (1e-4, 8)
    assert (lora["save_steps"], lora["eval_batch_size"], lora["save_only_model"]) == (2, 2, False)
    assert (full["learning_rate"], full["gradient_accumulation_steps"]) == (1e-5, 4)
    assert full["save_only_model"] is True
    assert lora["model_id_or_path"] == str(model)
    assert [path.name[:3] for path in sorted((tmp_path / "output" / "tiny").iterdir())] == ["v0-", "v1-"]


def test_a_relative_model_path_is_recorded_as_an_absolute_one(
    tmp_path: Path, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train(tmp_path, Path("tiny"), rows, max_steps=1, add_output_dir_suffix=False)
    assert result["output_dir"] == str(tmp_path / "output")
    assert json.loads((tmp_path / "output" / "sft_args.json").read_text())["model_id_or_path"] == str(model)


def test_a_run_resumed_from_the_newest_complete_checkpoint_ends_the_same(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    common = {"max_steps": 8, "save_total_limit": -1, "lora_dropout_p": 0.2}
    folder = Path(train(tmp_path, model, rows, **common)["output_dir"])
    whole = (folder / "checkpoint-8" / "adapter_model.safetensors").read_bytes()
    log = (folder / "logging.jsonl").read_text()
    shutil.rmtree(folder / "checkpoint-8")
    (folder / "checkpoint-6" / "trainer_state.json").write_text("{")  # as if half of it had been written

    torch.rand(3)
    result = train(tmp_path, model, rows, **common, resume_from_checkpoint="newest")
    assert result["output_dir"] == str(folder)
    assert (folder / "checkpoint-8" / "adapter_model.safetensors").read_bytes() == whole
    assert [line["loss"] for line in losses(log)] == [
        line["loss"] for line in losses((folder / "logging.jsonl").read_text())
    ]

    shutil.rmtree(folder / "checkpoint-8")
    train(tmp_path, model, rows, **common, resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert (folder / "checkpoint-8" / "adapter_model.safetensors").read_bytes() == whole


def losses(log: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.splitlines()) if "loss" in line]


def test_full_fine_tuning_saves_a_model_that_transformers_loads(tmp_path: Path, model: Path, rows: Path) -> None:
    result = train(tmp_path, model, rows, sft_type="full", learning_rate=1e-2)
    last = Path(result["last_model_checkpoint"])
    tuned, base = (AutoModelForCausalLM.from_pretrained(path) for path in (last, model))
    assert not torch.equal(tuned.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert AutoTokenizer.from_pretrained(last)("hi").input_ids == AutoTokenizer.from_pretrained(model)("hi").input_ids


def test_weights_that_are_trained_themselves_stay_in_fp32_where_a_cpu_has_bf16(
    tmp_path: Path, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    published = shutil.copytree(model, tmp_path / "published")
    load_model(published, "bf16", "cpu").save_pretrained(published)
    result = train(tmp_path, published, rows, sft_type="full", max_steps=1)
    saved = load_file(Path(result["last_model_checkpoint"]) / "model.safetensors")
    assert {each.dtype for each in saved.values()} == {torch.float32}
    assert load_model(published, device="cpu").dtype == torch.bfloat16


def test_sigterm_saves_and_leaves_with_143(tmp_path: Path, model: Path, rows: Path) -> None:
    def terminate() -> None:
        # one folder deep: below, half a checkpoint's folder may vanish while it is looked through
        while not any(path.read_text() for path in (tmp_path / "output" / "tiny").glob("*/logging.jsonl")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, model, rows, max_steps=5000, eval_steps=10000)
    thread.join()
    assert stopped.value.code == 143
    (folder,) = (tmp_path / "output" / "tiny").iterdir()
    assert len([name for name in names(folder) if name.startswith("checkpoint-")]) == 1
    assert "report.html" in names(folder)


def test_every_row_that_is_cut_or_dropped_is_counted_and_named(tmp_path: Path, model: Path) -> None:
    mixed = [*plain_rows(8), {"query": "q" * 300, "response": "long"}, {"query": "no response"}]
    data = write(tmp_path / "rows.jsonl", mixed)
    result = train(tmp_path, model, data, max_length=200, max_steps=1, dataset_test_ratio=0)
    mixture = json.loads((Path(result["output_dir"]) / "mixture.json").read_text())
    assert (mixture["rows"][str(data)]["read"], mixture["rows"][str(data)]["bad"]) == (10, 1)
    assert mixture["lengths"][str(data)] == {"kept": 8, "dropped": 1}
    assert any(f"{data}:9: " in note and "--max_length 200" in note for note in mixture["left_out"])


def test_a_row_that_cannot_be_rendered_is_named_under_its_own_rule(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}
    refused = {"messages": [{"role": "user", "content": "q"}, call]}
    torn = {"query": "q", "response": "\ud83d"}
    unexamined = {"check_dataset_strategy": "none", "dataset_test_ratio": 0}
    data = write(tmp_path / "rows.jsonl", [*plain_rows(8), refused, torn])
    result = train(tmp_path, model, data, agent_template="qwen3_coder", max_steps=1, **unexamined)
    said = capsys.readouterr()
    assert f"unrendered: {data}:9: each argument has a tag" in said.out + said.err
    assert f"{data}:10: lone-surrogate: response holds \\ud83d" in said.out + said.err
    mixture = json.loads((Path(result["output_dir"]) / "mixture.json").read_text())
    assert mixture["lengths"][str(data)] == {"kept": 8, "unrendered": 1}


def failure(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert cli.main(["sft", *map(str, words)]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_wrong_input_is_one_line_that_says_what_and_where(
    tmp_path: Path, model: Path, rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    output = ("--output_dir", tmp_path / "output", "--template_type", "chatml", "--device", "cpu")
    trained = ("--model", model, *output, "--dataset", rows)
    assert "no model is named" in failure(capsys, "--dataset", rows, *output)
    assert f"there is no complete checkpoint in {tmp_path / 'output' / 'tiny'}" in failure(
        capsys, *trained, "--resume_from_checkpoint"
    )
    assert f"{tmp_path / 'nowhere'}: no such folder" in failure(
        capsys, *trained, "--resume_from_checkpoint", tmp_path / "nowhere"
    )
    assert "rows.jsonl:1: 74 tokens, more than --max_length 10" in failure(capsys, *trained, "--max_length", 10)
    assert "--report_to abacus is not installed" in failure(capsys, *trained, "--report_to", "abacus")
    unread = ("--model", model, *output, "--dataset", tmp_path / "nowhere.jsonl")  # told before rows are looked for
    assert "--batch_size 0: must be 1 or more" in failure(capsys, *unread, "--batch_size", 0)
    assert "--warmup_ratio 3.0: must be" in failure(capsys, *trained, "--warmup_ratio", 3)
    assert "did you mean" in failure(capsys, *trained, "--learning_rat", "1")
    assert not (tmp_path / "output" / "tiny" / "v0").exists()


def test_a_source_without_a_trained_token_is_refused(
    tmp_path: Path, model: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = write(
        tmp_path / "silent.jsonl",
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": False}]}] * 3,
    )
    said = failure(
        capsys, "--model", model, "--template_type", "chatml", "--dataset", rows, silent, "--dataset_test_ratio", 0
    )
    assert f"{silent}: no token of its 3 rows is trained" in said


def test_rows_that_never_train_the_closing_token_are_refused(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [("user", "a", None), ("assistant", "b", True), ("user", "c", None), ("assistant", "d", False)]
    row = {
        "messages": [
            {"role": role, "content": text} | ({} if loss is None else {"loss": loss}) for role, text, loss in turns
        ]
    }
    data = write(tmp_path / "rows.jsonl", [row] * 3)
    said = failure(capsys, "--model", model, "--template_type", "default", "--dataset", data, "--dataset_test_ratio", 0)
    assert "the stop token of a reply is never trained" in said


COMMAND = """
nproc_per_node=8
PYTHONPATH=../../.. \\
torchrun \\
--nproc_per_node=$nproc_per_node \\
--master_port 29500 \\
llm_sft.py \\
--model_id_or_path qwen/Qwen-7B-Chat \\
--model_revision master \\
--sft_type lora \\
--tuner_backend swift \\
--dtype AUTO \\
--output_dir output \\
--dataset ms-agent \\
--train_dataset_mix_ratio 2.0 \\
--train_dataset_sample -1 \\
--num_train_epochs 2 \\
--max_length 2048 \\
--check_dataset_strategy warning \\
--lora_rank 8 \\
--lora_alpha 32 \\
--lora_dropout_p 0.05 \\
--lora_target_modules ALL \\
--self_cognition_sample 3000 \\
--model_name 卡卡罗特 \\
--model_author 陶白白 \\
--gradient_checkpointing true \\
--batch_size 2 \\
--weight_decay 0.01 \\
--learning_rate 5e-5 \\
--gradient_accumulation_steps $(expr 32 / $nproc_per_node) \\
--max_grad_norm 0.5 \\
--warmup_ratio 0.03 \\
--eval_steps 100 \\
--save_steps 100 \\
--save_total_limit 2 \\
--logging_steps 10
"""


def tutorial(tmp_path: Path, processes: int) -> Path:
    """Runs the tutorial's command from the shell, fewer processes and self-cognition rows; returns the run's folder."""
    cache, work = tmp_path / "cache", tmp_path / f"work{processes}"
    if not cache.exists():
        tiny_model_folder(cache / "hub" / "qwen" / "Qwen-7B-Chat")
        write(cache / "hub" / "datasets" / "iic" / "ms_agent" / "train.jsonl", agent_rows(20))
        write(cache / "hub" / "datasets" / "iic" / "ms_bench" / "train.jsonl", bench_rows(60))
    work.mkdir()
    shutil.copy(ROOT / "examples" / "pytorch" / "llm" / "llm_sft.py", work)
    command = COMMAND
    for printed, ours in (
        ("nproc_per_node=8", f"nproc_per_node={processes}"),
        ("PYTHONPATH=../../..", f"PYTHONPATH={shlex.quote(str(ROOT))}"),
        ("torchrun", f"{shlex.quote(sys.executable)} -m torch.distributed.run"),
        ("--self_cognition_sample 3000", "--self_cognition_sample 30"),
        ("--master_port 29500", "--standalone"),  # another test may be using the port
    ):
        assert printed in command
        command = command.replace(printed, ours)
    env = {**os.environ, "MODELSCOPE_CACHE": str(cache), "SWIFT_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", command], cwd=work, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("mixture: ms-agent: 19 rows") == 1  # one process speaks
    (folder,) = (work / "output" / "qwen-7b-chat").iterdir()
    return folder


def bench_rows(count: int) -> list[dict[str, Any]]:
    turns = [("user", "hello {}"), ("assistant", "Hello to you, number {}.")]
    return [{"conversations": [{"from": role, "value": text.format(n)} for role, text in turns]} for n in range(count)]


def test_the_tutorials_command_runs_as_printed_in_two_processes(tmp_path: Path) -> None:
    folder = tutorial(tmp_path, 2)
    mixture = json.loads((folder / "mixture.json").read_text())
    shares = {name: share["rows"] for name, share in mixture["sources"].items()}
    assert shares == {"ms-agent": 19, "ms-bench": 38, "self-cognition": 30}
    record = json.loads((folder / "sft_args.json").read_text())
    assert (record["model_type"], record["gradient_accumulation_steps"]) == ("qwen-7b-chat", 16)
    # 87 rows, 2 a batch, 32 batches a step over both processes: 2 steps an epoch, the second a short one
    assert {"checkpoint-4", "logging.jsonl", "runs", "images", "report.html"} <= names(folder)
    adapter = load_file(folder / "checkpoint-4" / "adapter_model.safetensors")
    assert any("mlp" in name for name in adapter)
    assert any(matrix.any() for name, matrix in adapter.items() if "lora_B" in name)


def test_an_adapter_is_trained_further_with_its_own_rank(tmp_path: Path, model: Path, rows: Path) -> None:
    first = train(tmp_path, model, rows, lora_rank=3, lora_target_modules=["ALL"])["last_model_checkpoint"]
    small = {"max_steps": 1, "learning_rate": 1e-9}
    more = train(tmp_path, model, rows, init_adapter=first, **small)["last_model_checkpoint"]
    before, after = (load_file(Path(each) / "adapter_model.safetensors") for each in (first, more))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0)
    record = json.loads((Path(more) / "sft_args.json").read_text())
    assert (record["lora_rank"], record["init_adapter"]) == (3, first)


def test_an_adapter_that_is_trained_further_keeps_its_own_settings(tmp_path: Path, model: Path, rows: Path) -> None:
    first = train(tmp_path, model, rows, max_steps=1)["last_model_checkpoint"]
    with pytest.raises(ValueError, match="--lora_rank has no effect with --init_adapter"):
        train(tmp_path, model, rows, init_adapter=first, lora_rank=4)
    with pytest.raises(ValueError, match="--sft_type full ignores --init_adapter"):
        train(tmp_path, model, rows, init_adapter=first, sft_type="full")
    with pytest.raises(ValueError, match="no such folder"):
        train(tmp_path, model, rows, init_adapter=str(tmp_path / "nothing"))
