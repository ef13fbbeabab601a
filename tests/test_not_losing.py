"""What a run leaves when it is killed, when the disk is full, when numbers break: the last good checkpoint."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import test_trainer as t
import torch
from torch.multiprocessing import reductions
from transformers import TrainerCallback

from swift.train import checkpoint, stopping

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
import test_trainer as t
from swift.train import checkpoint
torch.set_num_threads(1)
STEPS = 80

def train(folder):
    resume = checkpoint.newest(folder)
    t.trainer(folder, t.lora(t.base_model(), dropout=0.3), t.rows(40), keep=2, max_steps=STEPS, save_strategy="steps",
        save_steps=1).train(resume_from_checkpoint=str(resume) if resume else None)

def child(folder):
    pid = os.fork()  # of an interpreter that has imported everything already
    if not pid:
        code = 1
        try:
            train(folder)
            code = 0
        finally:
            os._exit(code)
    return pid

def last(folder):
    return max(checkpoint.steps(folder), default=0)

whole, parts = Path({folder!r}) / "whole", Path({folder!r}) / "parts"
assert os.waitpid(child(whole), 0)[1] == 0
chance, reached = random.Random({seed}), []
for number in range(20):
    begun, pid = last(parts), child(parts)
    while number % 4 and last(parts) == begun and not os.waitpid(pid, os.WNOHANG)[0]:
        time.sleep(0.001)  # a start takes long; most deaths are to come among steps and savings
    time.sleep(chance.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    reached.append(last(parts))
assert os.waitpid(child(parts), 0)[1] == 0
print(*reached)
"""


def test_a_run_killed_at_twenty_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    code = KILLS.format(tests=str(Path(__file__).parent), folder=str(tmp_path), seed=random.randrange(10**6))
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reached = [int(step) for step in done.stdout.split()[-20:]]
    assert len(set(reached)) > 10, reached  # each got further
    assert reached[-1] < 80, reached
    whole, parts = (tmp_path / name / "checkpoint-80" for name in ("whole", "parts"))
    for file in ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json"):
        assert _comparable(whole / file) == _comparable(parts / file), reached


def _comparable(file: Path) -> bytes:
    """A file's bytes; of the trainer's state what is no measurement of time and memory, and no path."""
    if file.suffix != ".json":
        return file.read_bytes()
    lines = json.loads(file.read_text(encoding="utf-8"))["log_history"]
    return json.dumps([{name: line[name] for name in ("step", "loss", "grad_norm")} for line in lines]).encode()


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Writing beyond `size` fails within, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


class At(TrainerCallback):
    """Does something once a step is done."""

    def __init__(self, step: int, deed: Any) -> None:
        self.step, self.deed = step, deed

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.deed()


@pytest.mark.parametrize("size", [500, 5_000, 15_000], ids=["every file", "the optimizer", "the random state"])
def test_a_full_disk_is_an_error_of_one_line_and_leaves_the_last_checkpoint(tmp_path: Path, size: int) -> None:
    limit = files_no_longer_than(size)
    one = t.trainer(
        tmp_path,
        t.lora(t.base_model()),
        t.rows(8),
        save_strategy="steps",
        save_steps=1,
        callbacks=[At(3, limit.__enter__)],
    )
    try:
        with pytest.raises(OSError) as error:
            one.train()
    finally:
        limit.__exit__(None, None, None)
    stands = tmp_path / "checkpoint-2"
    said = str(error.value)
    assert said.startswith(f"the checkpoint of step 3 cannot be saved in {tmp_path}: "), said
    assert said.endswith(f"; the last complete one is {stands}") and "\n" not in said
    assert checkpoint.newest(tmp_path) == stands
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_weights_that_broke_after_a_good_loss_are_not_saved(tmp_path: Path) -> None:
    model = t.lora(t.base_model())

    def damage() -> None:
        with torch.no_grad():
            next(each for each in model.parameters() if each.requires_grad)[0, 0] = float("inf")

    one = t.trainer(tmp_path, model, t.rows(8), save_strategy="steps", save_steps=1, callbacks=[At(3, damage)])
    with pytest.raises(ValueError, match=r"lora_A.* is NaN or infinite after step 3: lower --learning_rate"):
        one.train()
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoint-2"


def _kill_one(of: list[Any]) -> None:
    os.kill(of[0].pid, signal.SIGKILL)


def _kill_one_as_it_hands_over(of: list[Any]) -> None:
    def broken(*_: Any) -> None:
        _kill_one(of)
        raise ConnectionResetError  # as the socket does, before the process counts as dead

    reductions.rebuild_storage_fd = broken


@pytest.mark.parametrize("deed", [_kill_one, _kill_one_as_it_hands_over])
def test_a_dead_process_that_makes_batches_is_one_line(
    tmp_path: Path, deed: Callable[[list[Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = multiprocessing.active_children()
    monkeypatch.setattr(reductions, "rebuild_storage_fd", reductions.rebuild_storage_fd)
    one = t.trainer(
        tmp_path,
        t.lora(t.base_model()),
        t.rows(400),
        max_steps=90,
        save_strategy="steps",
        save_steps=2,
        dataloader_num_workers=2,
        callbacks=[At(4, lambda: deed([each for each in multiprocessing.active_children() if each not in others]))],
    )
    with pytest.raises(ChildProcessError, match=r"step \d+: a data loader process .*; the last complete checkpoint"):
        one.train()
    assert checkpoint.newest(tmp_path)


def test_a_death_that_is_reported_again_while_it_is_told_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told = partial(stopping.deaths_told, lambda reason: f"step 3: {reason}")
    quiet, again = signal.signal, ["DataLoader worker (pid 7) is killed by signal: Killed."]

    def signal_of_child(*settings: Any) -> Any:
        if again:
            raise RuntimeError(again.pop())  # as torch's handler of SIGCHLD does, wherever the main thread is
        return quiet(*settings)

    monkeypatch.setattr("swift.train.stopping.signal.signal", signal_of_child)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        with pytest.raises(ChildProcessError, match=r"^step 3: a data loader process .* died"), told(), told():
            raise ConnectionResetError
    finally:
        quiet(signal.SIGCHLD, before)


def test_an_error_in_a_data_loader_process_is_reported_as_what_it_is(tmp_path: Path) -> None:
    one = t.trainer(tmp_path, t.lora(t.base_model()), t.rows(40), dataloader_num_workers=1)
    one.collate = _too_large
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        with pytest.raises(RuntimeError, match="the picture is too large"):
            one.train()
        assert callable(signal.getsignal(signal.SIGCHLD))  # as it was
    finally:
        signal.signal(signal.SIGCHLD, before)


def _too_large(samples: Any) -> Any:
    raise RuntimeError("the picture is too large")


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_changed_or_missing_bytes_are_found_and_reported(tmp_path: Path, file: str) -> None:
    t.trainer(tmp_path, t.lora(t.base_model()), t.rows(8), save_strategy="steps", save_steps=2).train()
    newest = tmp_path / "checkpoint-4"
    kept = (newest / file).read_bytes()
    middle = len(kept) // 2
    (newest / file).write_bytes(kept[:middle] + bytes([kept[middle] ^ 1]) + kept[middle + 1 :])
    said: list[str] = []
    assert checkpoint.newest(tmp_path, said.append) == tmp_path / "checkpoint-2"
    assert said == [f"skipped: {newest} is damaged: {file} does not match its checksum"]
    (newest / file).unlink()
    assert newest.name in checkpoint.fault(newest)
    (newest / file).write_bytes(kept)
    assert checkpoint.fault(newest) == ""
    shutil.rmtree(newest)
