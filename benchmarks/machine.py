"""What the benchmarks say of the machine, and how all programs are held to less than its processor has.

The Pythons of the peers import it too: what of this project it imports needs the standard library alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from swift.native import processor


class Held(NamedTuple):
    """Names of an instruction set for oneDNN, with which torch, vLLM and OpenVINO multiply, and for torch's kernels."""

    onednn: str
    aten: str


HELD = {
    "amx": Held("AVX512_CORE_AMX", "avx512"),
    "avx512_bf16": Held("AVX512_CORE_BF16", "avx512"),
    "avx512": Held("AVX512_CORE_VNNI", "avx512"),
    "avx2": Held("AVX2", "avx2"),
}
"""What this project calls an instruction set -> what others call it."""
NOT_HELD = {
    "openvino": "OpenVINO's own kernels (attention, sums) take the best that the processor has; its oneDNN is held",
    "mistralrs": "mistral.rs takes the best that the processor has",
    "onnxruntime": "ONNX Runtime takes the best that the processor has",
    "llamacpp": "llama.cpp is compiled for the whole processor",
    "ikllama": "ik_llama.cpp's wheel is compiled for AVX2 and takes no more from any processor",
}
"""Peers whose instruction set cannot be chosen, or not wholly."""


def best() -> str:
    """The class of this machine's processor: the most able set that C++ of this project is compiled for."""
    return next(iter(processor.sets()), platform.machine())


def holds(kernels: str | None) -> bool:
    """Whether that is less than the processor has."""
    return kernels in HELD and kernels != best()


def held_to(kernels: str | None) -> dict[str, str]:
    """Variables of the environment that hold this project and its peers to an instruction set; none: to nothing."""
    if kernels is None:
        return {}
    ours = {processor.VARIABLE: kernels}
    if kernels == processor.TORCH:
        return ours
    held = HELD[kernels]
    return {
        **ours,
        "ONEDNN_MAX_CPU_ISA": held.onednn,
        "OV_CPU_MAX_ISA": held.onednn,  # OpenVINO's own kernels; read by debug builds and by releases after 2026.4
        "ATEN_CPU_CAPABILITY": held.aten,
    }


def hold_vllm() -> None:
    """vLLM picks its compiled kernels by what torch says of the processor: torch says what `held_to` asks for."""
    kernels = os.environ.get(processor.VARIABLE)
    if kernels not in HELD:
        return
    import torch

    sets = list(HELD)
    for question, needed in (
        ("_is_amx_tile_supported", "amx"),
        ("_is_avx512_bf16_supported", "avx512_bf16"),
        ("_is_avx512_supported", "avx512"),
    ):
        if sets.index(kernels) > sets.index(needed):
            setattr(torch.cpu, question, lambda: False)


def openvino_properties(threads: int) -> dict[str, int | str]:
    """What OpenVINO is told. Held to a set without bf16 it computes in fp32, as it does on such processors."""
    kernels = os.environ.get(processor.VARIABLE)
    in_fp32 = kernels in HELD and "avx512_bf16" not in processor.SETS[kernels].needs
    return {"INFERENCE_NUM_THREADS": threads, **({"INFERENCE_PRECISION_HINT": "f32"} if in_fp32 else {})}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--cache and --kernels, which all speed benchmarks have."""
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/swift-benchmarks"), help="models and peers")
    parser.add_argument(
        "--kernels",
        choices=[*HELD, processor.TORCH],
        help="hold everybody to this instruction set; torch: this project alone, to torch's operations",
    )


def check(parser: argparse.ArgumentParser, kernels: str | None) -> None:
    """Ends the program where the processor does not have the set."""
    if kernels and kernels not in (*processor.sets(), processor.TORCH):
        parser.error(f"--kernels {kernels}: this processor's best is {best()}")


def headline(kernels: str | None, threads: int, versions: dict[str, str]) -> str:
    """What every table begins with: processor, class, what it is held to, date, versions and command."""
    held = f", held to {kernels}" if kernels else ""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return "\n".join(
        (
            f"{processor.name()} ({best()}{held}), {threads} thread(s), {now}",
            ", ".join(f"{name} {number}" for name, number in versions.items()),
            "python " + " ".join((Path(sys.argv[0]).as_posix(), *sys.argv[1:])),
        )
    )


def versions(*packages: str) -> dict[str, str]:
    """The installed of these packages and their versions, with Python's."""
    found = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_gib(pid: int | str = "self") -> float:
    """The most memory that a process has had so far, in GiB; 0 where it is gone.

    VmHWM of the kernel. Unlike ru_maxrss it begins with the program, not with the process that started it.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM:")), 0.0)


def tree_peak_gib(pid: int) -> float:
    """The peaks of a process and of all that it has started and that still run, added up, in GiB."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    waiting, total = [pid], 0.0
    while waiting:
        each = waiting.pop()
        total += peak_gib(each)
        waiting += children.get(each, [])
    return total


def default_threads() -> int:
    return len(os.sched_getaffinity(0))
