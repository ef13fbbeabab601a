"""`swift sft` in several processes: nodes, shards, signals, deaths. All of it over gloo on this machine's CPU."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model_folder

from swift import flags
from swift.commands import sft
from swift.system import torchrun
from swift.train import checkpoint
from swift.tuner.cpu import block

ROOT = Path(__file__).parent.parent
STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    # wide enough for blocks in C++, where the machine has a compiler
    tiny_model_folder(
        folder / "tiny", hidden_size=64, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1
    )
    rows = [{"query": f"twice {n}?", "response": f"It is {2 * n}." + "!" * (n % 7)} for n in range(19)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def settings(work: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(work / "tiny"),
        "template_type": "chatml",
        "dataset": [str(work / "rows.jsonl")],
        "dataset_test_ratio": 0,
        "output_dir": str(output),
        "add_output_dir_suffix": False,
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "lora_dropout_p": 0,
        "logging_steps": 1,
        "save_steps": 2,
        "save_total_limit": -1,
        "report_to": "none",
        "device": "cpu",
        **changes,
    }


def start(given: dict[str, Any], verb: str = "sft", **env: str) -> subprocess.Popen[str]:
    words = [
        word
        for name, value in given.items()
        for word in (f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)]))
    ]
    clean = {name: value for name, value in os.environ.items() if name not in torchrun.SETTINGS}
    process = subprocess.Popen(
        [sys.executable, "-m", "swift.cli", verb, *words],
        env={**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    return out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"optim": "adamw_torhc"},
            "--optim adamw_torhc: transformers has no such optimizer: did you mean adamw_torch?",
        ),
        ({"model": "owner/name"}, "model 'owner/name' was not found"),
    ],
    ids=["a flag", "a hub out of reach"],
)
def test_an_error_of_all_processes_is_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "twice 1?", "response": "2"}\n' * 4)
    given = {"model": str(tmp_path), "template_type": "chatml", "dataset": str(rows), "device": "cpu", **changes}
    here = {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:9", "HF_ENDPOINT": "http://127.0.0.1:9"}
    process = start(given, NPROC_PER_NODE="2", **here)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 2
    (line,) = err.splitlines()
    assert line.startswith(f"swift: error: {said}")
    if "model" in changes:
        assert "copy its folder to this machine and pass --model FOLDER" in line
        assert line.endswith("smollm2-135m-instruct")


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def alone(work: Path) -> list[float]:
    """The losses of one process with twice the accumulation."""
    sft.main(flags.from_dict(sft.Config, settings(work, work / "alone", gradient_accumulation_steps=4)))
    return losses(work / "alone")


def test_two_nodes_train_as_one_process_with_twice_the_accumulation(work: Path, alone: list[float]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"NNODES": "2", "NPROC_PER_NODE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given = settings(work, work / "nodes")
    said = [finished(each) for each in [start(given, NODE_RANK=rank, **where) for rank in "01"]]
    assert any("instead of C++" in text for text in said) == bool(block.why_not(torch.float32))
    assert losses(work / "nodes") == pytest.approx(alone, rel=1e-4)
    assert [" of 2 x 2 x 2 rows (batch" in text for text in said] == [True, False]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_fsdp_trains_the_same_saves_gathered_weights_and_resumes_to_the_same_bytes(work: Path, kind: str) -> None:
    def by(folder: str, **changes: Any) -> dict[str, Any]:
        given = settings(work, work / folder, sft_type=kind, save_only_model=False, **changes)
        return {name: value for name, value in given.items() if kind == "lora" or name != "lora_dropout_p"}

    sft.main(flags.from_dict(sft.Config, by(f"one-{kind}", gradient_accumulation_steps=4)))
    given = by(f"fsdp-{kind}", fsdp="full_shard auto_wrap")
    finished(start(given, NPROC_PER_NODE="2"))
    assert losses(work / f"fsdp-{kind}") == pytest.approx(losses(work / f"one-{kind}"), rel=1e-4)
    name = "model.safetensors" if kind == "full" else "adapter_model.safetensors"
    last = work / f"fsdp-{kind}" / "checkpoint-6" / name
    ours, theirs = load_file(last), load_file(work / f"one-{kind}" / "checkpoint-6" / name)
    assert {name: each.shape for name, each in ours.items()} == {name: each.shape for name, each in theirs.items()}
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)
    whole = last.read_bytes()
    before = {"resume_from_checkpoint": str(last.parent.with_name("checkpoint-4"))}
    finished(start({**given, **before}, NPROC_PER_NODE="2"))
    assert last.read_bytes() == whole
    with pytest.raises(ValueError, match="was saved with --fsdp: add that flag"):
        sft.main(flags.from_dict(sft.Config, {**by(f"fsdp-{kind}"), **before}))


def test_a_dead_process_ends_the_run_with_one_line_and_signals_save_on_all(work: Path) -> None:
    folder = work / "killed"
    given = settings(work, folder, max_steps=100_000, save_steps=20, save_total_limit=2)

    def begun(process: subprocess.Popen[str], step: int) -> list[int]:
        """The processes of a run, once it has saved the step or a later one."""
        while process.poll() is None and not any(each >= step for each in checkpoint.steps(folder)):
            time.sleep(0.05)
        found = (each.name for each in Path("/proc").iterdir() if each.name.isdigit())
        return sorted(int(pid) for pid in found if _parent(pid) == process.pid)

    killed = start(given, NPROC_PER_NODE="2")
    os.kill(begun(killed, 20)[-1], signal.SIGKILL)
    out, err = killed.communicate(timeout=500)
    assert killed.returncode == 137, err
    (line,) = [line for line in err.splitlines() if "error" in line.lower()]
    assert "was killed by SIGKILL" in line
    assert "Traceback" not in out + err

    stood = checkpoint.newest(folder)
    assert stood
    step = int(stood.name.removeprefix(checkpoint.PREFIX))
    told = start({**given, "resume_from_checkpoint": "newest"}, NPROC_PER_NODE="2")
    begun(told, step + 40)
    told.send_signal(signal.SIGTERM)
    out, err = told.communicate(timeout=500)
    assert (told.returncode, "Traceback" in out + err) == (143, False), err
    assert f"resuming from {stood}" in out
    last = checkpoint.newest(folder)
    assert last and not (folder / checkpoint.UNFINISHED).exists()
    assert int(last.name.removeprefix(checkpoint.PREFIX)) > step + 40

    step = int(last.name.removeprefix(checkpoint.PREFIX))
    interrupted = start({**given, "resume_from_checkpoint": "newest"}, NPROC_PER_NODE="2")
    begun(interrupted, step + 20)
    interrupted.send_signal(signal.SIGINT)  # to the launcher alone, as its processes have sessions of their own
    out, err = interrupted.communicate(timeout=500)
    assert (interrupted.returncode, "Traceback" in out + err) == (130, False), err
    assert err.count("saves a checkpoint after this step") == 1
    assert "death signal" not in err
    last = checkpoint.newest(folder)
    assert last and int(last.name.removeprefix(checkpoint.PREFIX)) > step + 20
    (command,) = [line for line in out.splitlines() if line.startswith("to resume: ")]
    assert command.startswith("to resume: NPROC_PER_NODE=2 swift sft --model_id_or_path ")
    assert command.endswith(f"--resume_from_checkpoint {last}")


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended meanwhile
        return 0
