"""Describes the machine of a benchmark, and restricts all programs to an instruction set.

The Pythons of the peers import it too, so it imports only those parts of SWIFT that need no package.
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


class Restriction(NamedTuple):
    """Names of an instruction set for oneDNN (products of torch, vLLM and OpenVINO) and for torch's own kernels."""

    onednn: str
    aten: str


RESTRICTIONS = {
    "amx": Restriction("AVX512_CORE_AMX", "avx512"),
    "avx512_bf16": Restriction("AVX512_CORE_BF16", "avx512"),
    "avx512": Restriction("AVX512_CORE_VNNI", "avx512"),
    "avx2": Restriction("AVX2", "avx2"),
}
"""SWIFT's name of an instruction set -> the names in other libraries."""
UNRESTRICTED = {
    "openvino": "OpenVINO's own kernels (attention, sums) use the processor's best set; its oneDNN is restricted",
    "mistralrs": "mistral.rs uses the processor's best set",
    "onnxruntime": "ONNX Runtime uses the processor's best set",
    "llamacpp": "llama.cpp is compiled for the whole processor",
    "ikllama": "ik_llama.cpp's wheel is compiled for AVX2 and uses no more on any processor",
}
"""Peers whose instruction set cannot be chosen, or only in part."""


def best_set() -> str:
    """The class of this machine's processor: the most capable set that SWIFT's C++ is compiled for."""
    return next(iter(processor.sets()), platform.machine())


def restricts(kernels: str | None) -> bool:
    """Whether `kernels` is a lesser set than the processor's best."""
    return kernels in RESTRICTIONS and kernels != best_set()


def restricted_to(kernels: str | None) -> dict[str, str]:
    """Environment variables that restrict SWIFT and its peers to an instruction set; empty without `kernels`."""
    if kernels is None:
        return {}
    ours = {processor.VARIABLE: kernels}
    if kernels == processor.TORCH:
        return ours
    names = RESTRICTIONS[kernels]
    return {
        **ours,
        "ONEDNN_MAX_CPU_ISA": names.onednn,
        "OV_CPU_MAX_ISA": names.onednn,  # OpenVINO's own kernels; read by debug builds and by releases after 2026.4
        "ATEN_CPU_CAPABILITY": names.aten,
    }


def restrict_vllm() -> None:
    """Makes torch report the features of the restricted set, by which vLLM selects its compiled kernels."""
    kernels = os.environ.get(processor.VARIABLE)
    if kernels not in RESTRICTIONS:
        return
    import torch

    sets = list(RESTRICTIONS)
    for question, needed in (
        ("_is_amx_tile_supported", "amx"),
        ("_is_avx512_bf16_supported", "avx512_bf16"),
        ("_is_avx512_supported", "avx512"),
    ):
        if sets.index(kernels) > sets.index(needed):
            setattr(torch.cpu, question, lambda: False)


def openvino_properties(threads: int) -> dict[str, int | str]:
    """Properties for OpenVINO. Restricted to a set without bf16 it computes in fp32, as it does on such processors."""
    kernels = os.environ.get(processor.VARIABLE)
    in_fp32 = kernels in RESTRICTIONS and "avx512_bf16" not in processor.SETS[kernels].needs
    return {"INFERENCE_NUM_THREADS": threads, **({"INFERENCE_PRECISION_HINT": "f32"} if in_fp32 else {})}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --cache and --kernels, common to all speed benchmarks."""
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/swift-benchmarks"), help="models and peers")
    parser.add_argument(
        "--kernels",
        choices=[*RESTRICTIONS, processor.TORCH],
        help="restrict every program to this instruction set; torch restricts only SWIFT, to torch's operations",
    )


def check(parser: argparse.ArgumentParser, kernels: str | None) -> None:
    """Exits with an error if the processor lacks the set."""
    if kernels and kernels not in (*processor.sets(), processor.TORCH):
        parser.error(f"--kernels {kernels}: this processor's best set is {best_set()}")


def headline(kernels: str | None, threads: int, versions: dict[str, str]) -> str:
    """The header of every table: processor, class, restriction, date, versions and command."""
    restriction = f", restricted to {kernels}" if kernels else ""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return "\n".join(
        (
            f"{processor.name()} ({best_set()}{restriction}), {threads} thread(s), {now}",
            ", ".join(f"{name} {number}" for name, number in versions.items()),
            "python " + " ".join((Path(sys.argv[0]).as_posix(), *sys.argv[1:])),
        )
    )


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of those of these packages that are installed."""
    found = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_gib(pid: int | str = "self") -> float:
    """Peak resident memory of a process so far, in GiB; 0 if it has ended.

    VmHWM of the kernel. Unlike ru_maxrss it starts with the program, not with the process that started it.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM:")), 0.0)


def tree_peak_gib(pid: int) -> float:
    """Sum of the peaks of a process and its running descendants, in GiB."""
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
