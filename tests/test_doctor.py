"""`swift doctor`: problems of a machine's setup, found in facts about it, and the commands that end them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import swift
from swift.assembly import diagnosis
from swift.assembly.diagnosis import GIB, Facts, Torch, problems
from swift.cli import main
from swift.system import machine, packages
from swift.system.machine import Memory
from swift.system.packages import Missing
from swift.tools.openapi import security

FINE = Facts(
    torch=Torch("2.13.0+cpu", threads=8),
    nvidia_driver=False,
    compiler="/usr/bin/g++",
    sets=("avx512", "avx2"),
    forced="",
    cpus=8,
    load=0.5,
    governor="",
    memory=Memory(16 * GIB, 12 * GIB),
    space={Path("/work"): 100 * GIB},
    caches={Path("/home/a/.cache/swift"): 2 * GIB},
    read_only=(),
    missing=(),
)


def test_a_machine_without_problems_has_none() -> None:
    assert problems(FINE) == []
    assert problems(replace(FINE, sets=(), compiler="")) == []  # the C++ does not run here anyway


@pytest.mark.parametrize(
    ("changed", "what", "fix"),
    [
        ({"torch": Torch("", "is not installed")}, "torch is not installed", "make setup"),
        ({"missing": (Missing("peft", "0.1", ">=0.18"),)}, "peft 0.1 (must be >=0.18)", "pip install swift-agents"),
        ({"nvidia_driver": True}, "a build for CPUs, but there is an NVIDIA GPU", "make TORCH=cuda setup"),
        ({"nvidia_driver": True, "torch": Torch("2", "", "CUDA 12")}, "finds no GPU", "nvidia-smi"),
        ({"compiler": ""}, "no C++ compiler", "g++"),
        ({"forced": "avx2"}, "SWIFT_KERNELS=avx2 keeps avx512 from being chosen", "unset SWIFT_KERNELS"),
        ({"torch": Torch("2", threads=32)}, "32 threads on 8 processors", "export OMP_NUM_THREADS=8"),
        ({"load": 30.0}, "load 30.0 on 8 processors", "ps aux"),
        ({"governor": "powersave"}, "governor powersave", "cpupower"),
        ({"memory": Memory(16 * GIB, GIB)}, "1.0 GiB of 16.0 GiB are free", "ps aux"),
        ({"memory": Memory(2 * GIB, GIB, limited=True)}, "1.0 GiB of this container", "ps aux"),
        ({"space": {Path("/x"): GIB}}, "1.0 GiB are free in /x", "du -sh /home/a/.cache/swift/*"),
        ({"space": {Path("/x"): GIB}, "caches": {Path("/c"): 0}}, "1.0 GiB are free in /x", "df -h /x"),
        ({"read_only": (Path("/x"),)}, "/x cannot be written", "chmod u+w /x"),
    ],
)
def test_each_problem_is_named_with_its_command(
    changed: dict[str, object], what: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (found,) = problems(replace(FINE, **changed))  # type: ignore[arg-type]
    assert what in found.what and fix in found.fix
    assert "\n" not in found.what + found.fix


@pytest.mark.parametrize(
    ("name", "value", "what", "fix"),
    [
        ("SWIFT_KERNELS", "avx1024", "SWIFT_KERNELS=avx1024 is unknown: it is one of", "unset SWIFT_KERNELS"),
        ("SWIFT_OFFLINE", "ture", "SWIFT_OFFLINE=ture is neither true nor false", "export SWIFT_OFFLINE=1"),
        ("SWIFT_CACHE", __file__, f"SWIFT_CACHE={__file__} is a file, not a folder", "export SWIFT_CACHE=FOLDER"),
        ("SWIFT_KERNEL", "avx2", "SWIFT_KERNEL has no effect: did you mean SWIFT_KERNELS?", "unset SWIFT_KERNEL;"),
        ("SWIFT_OFLINE", "1", "did you mean SWIFT_OFFLINE?", "unset SWIFT_OFLINE; export SWIFT_OFFLINE=..."),
        ("swift_cache", "/x", "did you mean SWIFT_CACHE?", "unset swift_cache"),
    ],
)
def test_a_variable_with_a_wrong_value_or_a_misspelt_name_is_a_problem(
    name: str, value: str, what: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in [*diagnosis.VARIABLES, *diagnosis.INTERNAL]:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, value)
    (found,) = diagnosis.wrong_variables(os.environ)
    assert what in found.what and found.fix.startswith(fix)
    assert problems(replace(FINE, variables=(found,))) == [found]


def test_right_variables_and_those_of_other_programs_are_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWIFT_KERNELS", raising=False)
    fine = {"SWIFT_OFFLINE": "0", "SWIFT_TOOL_SHOPKEY": "k", "SWIFT_API_KEY": "k", "SWIFT_EXEC": "/usr/bin/swiftc"}
    assert list(diagnosis.wrong_variables(fine)) == []


def test_the_doctor_knows_every_variable_that_the_program_reads() -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(swift.__file__).parent.rglob("*.py")]
    named = {name for text in sources for name in re.findall(r'"(SWIFT_[A-Z_]+[A-Z])"', text)}
    assert named == {*diagnosis.VARIABLES, *diagnosis.INTERNAL}
    assert security.VARIABLE == diagnosis.TOOL_PREFIX


def test_a_wrong_choice_of_kernels_is_a_problem_beside_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWIFT_KERNELS", "avx1024")
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "- SWIFT_KERNELS=avx1024 is unknown" in told and "\nprocessor " in told


def test_few_threads_are_a_problem_only_below_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert problems(replace(FINE, torch=Torch("2", threads=4))) == []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (found,) = problems(replace(FINE, torch=Torch("2", threads=1)))
    assert found == ("OMP_NUM_THREADS=1 uses 1 of 8 processors", "unset OMP_NUM_THREADS")


def test_problems_come_first_and_the_machine_after_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnosis, "facts", lambda: replace(FINE, compiler="", load=30.0))
    assert main(["doctor", "--measure", "false"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 problems:" and lines[1].startswith("- there is no C++ compiler")
    assert [line.partition("  ")[0] for line in lines if line.startswith(("torch", "memory"))] == ["torch", "memory"]
    assert len(lines) < 40
    assert main(["doctor", "--measure", "false", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["fix"] for each in told["problems"]][1] == "ps aux --sort=-%cpu | head"
    assert told["machine"]["memory"] == "16.0 GiB, 12.0 free"


def test_no_problem_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(diagnosis, "facts", lambda: FINE)
    assert main(["doctor", "--measure", "false"]) == 0
    assert capsys.readouterr().out.startswith("nothing is wrong with this machine's setup\n")


def test_flags_that_would_do_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--measure", "false", "--again"]) == 2
    assert "--again true does nothing with --measure false" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [(("doctor",), 0), (("sft", "--model", "a", "--dataset", "b.jsonl"), 2)])
def test_without_torch_the_doctor_works_and_other_commands_end_with_a_line(words: tuple[str, ...], code: int) -> None:
    """`-S` leaves out the installed packages; the metadata of this program says what it requires."""
    source = "import sys; from swift.cli import main; sys.exit(main(sys.argv[1:]))"
    env = {**os.environ, "PYTHONPATH": str(Path(swift.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-S", "-c", source, *words], capture_output=True, text=True, env=env)
    assert done.returncode == code, done.stderr
    if code:
        first = "torch" if sys.version_info >= (3, 11) else "tomli"
        assert done.stderr.startswith(f"swift: error: the package {first} is not installed: swift doctor")
        assert done.stderr.count("\n") == 1
    else:
        assert "- torch is not installed: no model can be loaded\n    fix: make setup" in done.stdout


def test_a_container_has_the_memory_and_processors_of_its_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 800 kB\n")
    assert machine.memory() == Memory(1000 << 10, 800 << 10)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("51200\n")
    assert machine.memory() == Memory(1000 << 10, 800 << 10)
    (tmp_path / "memory.max").write_text("102400\n")
    assert machine.memory() == Memory(102400, 51200, limited=True)
    assert machine.quota() == 0
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert (machine.quota(), machine.cpus()) == (0.5, 1)


@pytest.mark.parametrize(
    ("governor", "driver", "slow"),
    [("powersave", "acpi-cpufreq", "powersave"), ("powersave", "intel_pstate", ""), ("schedutil", "acpi-cpufreq", "")],
)
def test_a_governor_is_slow_only_where_it_holds_the_frequency(
    governor: str, driver: str, slow: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "FREQUENCY", tmp_path)
    assert machine.slow_governor() == ""
    (tmp_path / "scaling_governor").write_text(f"{governor}\n")
    (tmp_path / "scaling_driver").write_text(f"{driver}\n")
    assert machine.slow_governor() == slow


def test_the_size_of_a_folder_counts_files_and_no_links(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "inner" / "a")
    assert machine.size(tmp_path) == 5
    assert machine.size(tmp_path / "none") == 0


def test_extras_are_compared_with_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2", 'hqq>=0.2; extra == "quant"', 'scipy; extra == "quant"', 'old<1; python_version < "3"']
    versions = {"torch": "1.0", "hqq": "0.1"}
    monkeypatch.setattr(packages.metadata, "requires", lambda _: lines)
    monkeypatch.setattr(packages, "installed", lambda name: versions.get(name, ""))
    assert packages.missing() == [("torch", "1.0", ">=2")]
    assert packages.missing("quant") == [("hqq", "0.1", ">=0.2"), ("scipy", "", "")]
