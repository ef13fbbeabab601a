"""C++ never takes the process down: sizes are compared at load, failures are exceptions, memory is in bounds."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_torch_runner import made, prompt

from swift import native
from swift.engine.cpu import native_runner
from swift.engine.cpu.native_runner import NativeRunner
from swift.engine.runner import Chunk
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.native import processor
from swift.tuner.cpu import block, head

WIDE = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32, "vocab_size": 100}
MISSING = native_runner.missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "there")


def model():
    return made("llama", **WIDE).bfloat16()


@pytest.fixture
def limited(monkeypatch):
    """C++ whose buffers cannot be larger than 256 KiB."""
    load = native.load
    monkeypatch.setattr(
        native, "load", lambda *given, **defined: load(*given, **defined, SWIFT_ALLOCATION_LIMIT=256 << 10)
    )
    block._library.cache_clear()
    head._library.cache_clear()
    yield
    block._library.cache_clear()
    head._library.cache_clear()


def test_a_structure_of_another_size_is_refused_at_load(monkeypatch):
    class _Step(ctypes.Structure):
        _fields_ = native_runner._Step._fields_[:-1]

    others = [each for each in native_runner.STRUCTURES if each.__name__ != "_Step"]
    monkeypatch.setattr(native_runner, "STRUCTURES", (*others, _Step))
    assert "disagree on Step" in native_runner.missing()
    monkeypatch.setattr(native_runner, "STRUCTURES", others)
    assert "disagree on Step" in native_runner.missing()


def test_memory_that_a_step_does_not_get_is_an_error_of_that_step_alone(limited):
    runner = NativeRunner(model())
    small, large = runner.open(), runner.open()
    before = runner.step([Chunk(small, prompt(9))]).clone()
    with pytest.raises(MemoryError, match=r"^native_runner: out of memory$"):
        runner.step([Chunk(large, prompt(900))])
    again = runner.open()
    assert torch.equal(runner.step([Chunk(again, prompt(9))]), before)


def test_the_engine_answers_others_while_one_request_gets_no_memory(limited):
    engine = TorchEngine(model(), (), max_batch=4)
    assert type(engine._runner) is NativeRunner
    replies = [engine.submit(prompt(length), SamplingParams(max_tokens=3, temperature=0)) for length in (480, 8, 9)]
    # The long prompt is first: beside replies that decode already, it would be computed in chunks that fit.
    counts = []
    for reply in replies:
        try:
            counts.append(len(list(reply)))
        except MemoryError as error:
            counts.append(str(error))
    engine.close()
    assert counts == ["native_runner: out of memory", 3, 3]


def test_threads_that_the_system_does_not_start_are_an_error(monkeypatch):
    runner = NativeRunner(model())
    state = runner.open()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5000)
    with pytest.raises(RuntimeError, match=r"5000 threads: it is 1 to 4096"):
        runner.step([Chunk(state, prompt(9))])
    monkeypatch.undo()
    assert len(runner.step([Chunk(state, prompt(9))])) == 1


def test_a_token_beyond_the_vocabulary_is_an_error_and_not_read(monkeypatch):
    runner = NativeRunner(model())
    with pytest.raises(RuntimeError, match="token 100 is not in a vocabulary of 100"):
        runner.step([Chunk(runner.open(), [1, 100])])


def test_targets_beyond_the_vocabulary_are_an_error_of_the_head():
    linear = torch.nn.Linear(64, 100, bias=False).requires_grad_(False)
    if reason := head.why_not(linear):
        pytest.skip(reason)
    with pytest.raises(RuntimeError, match="target 100 is not in a vocabulary of 100"):
        head.Head(linear).nll(torch.randn(3, 64), 1.0, torch.tensor([1, 2, 100]), False)


def _sanitizer(name: str) -> str:
    """The path of a sanitizer's library; empty where the compiler has none."""
    found = subprocess.run([native.compiler(), f"-print-file-name={name}"], capture_output=True, text=True)
    return found.stdout.strip() if Path(found.stdout.strip()).is_absolute() else ""


@pytest.mark.timeout(1500)  # five libraries are compiled, once
@pytest.mark.parametrize("kernels", processor.sets()[:1])
def test_kernels_stay_within_their_memory(kernels):
    """The kernels' own tests, in a process whose C++ is compiled with AddressSanitizer and UBSan.

    With the set that this processor prefers: a second one would take minutes more for the same addresses.
    """
    libraries = [_sanitizer(name) for name in ("libasan.so", "libubsan.so")]
    if not all(libraries):
        pytest.skip("the compiler has no libasan or libubsan")
    tests = Path(__file__).parent
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join([*libraries, _sanitizer("libstdc++.so")]),  # asan catches exceptions by it
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
        "OMP_WAIT_POLICY": "passive",
    }
    chosen = [
        f"{tests / 'test_native_runner.py'}::test_its_numbers_do_not_depend_on_how_many_threads_compute_them",
        f"{tests / 'test_native_runner.py'}::test_only_rows_that_are_wanted_have_logits",
        f"{tests / 'test_native_runner.py'}::test_adapters_in_one_step_count_as_if_each_were_merged",
        f"{tests / 'test_block.py'}::test_adapters_of_any_rank",
        f"{tests / 'test_block.py'}::test_a_head_gives_likelihoods_gradients_and_hits_as_fp64_does",
    ]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "sanitized", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "-k", kernels, *chosen], env=environment, capture_output=True, text=True)
    report = (done.stdout + done.stderr)[-6000:]
    assert done.returncode == 0 and "100%" in done.stdout, report
