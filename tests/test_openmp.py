"""Threads that nobody needs any more end, and come back when they are needed."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, threading, torch
from swift.engine import openmp

def count():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(3)
x = torch.randn(512, 512)
alone = count()
expected = x @ x
torch.ones(1 << 20).exp_()
helped = count()
openmp.release()
released = count()
assert torch.equal(x @ x, expected)
torch.ones(1 << 20).exp_()
print(helped - alone, released - alone, count() - alone)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux tells them")
def test_threads_that_wait_for_the_next_loop_end_and_come_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "0", "2"]
