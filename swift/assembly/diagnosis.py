"""What would make work on this machine slow or impossible, and the command that changes it. Runs without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from swift import native
from swift.native import processor
from swift.system import hubs, invocation, machine, packages, torchrun
from swift.system.cache import cache_root, scratch_folder
from swift.system.nearest import closest

GIB = 1 << 30
LOW_MEMORY = 3 * GIB
"""Training SmolLM2-135M, the smallest of the bundled models, takes 2.3 GiB."""
LOW_DISK = 5 * GIB
"""A model of 1B parameters in bf16 takes 2 GiB, and as much again merged."""
VARIABLES = (
    *("SWIFT_API_KEY", "SWIFT_CACHE", "SWIFT_FIRE_ALARM_LOG", "SWIFT_KERNELS", "SWIFT_OFFLINE"),
    *("SWIFT_STUDIO_PASSWORD", "SWIFT_TRACEBACK"),
)
"""Of the environment, that users set."""
TOOL_PREFIX = "SWIFT_TOOL_"
"""Begins the names of others: `swift.tools.openapi.security.VARIABLE`, whose package a machine in repair may lack."""
INTERNAL = (invocation.VARIABLE, torchrun.MARK)
"""Those that processes set for each other."""
BUSY = 1.5
"""Processes per processor above which measured times are those of a busy machine."""


class Problem(NamedTuple):
    """`what` in one line, and the command or the deed that ends it."""

    what: str
    fix: str


class Torch(NamedTuple):
    """`version`: empty where torch does not work; `error` says why. `accelerator`: of its build; empty for CPUs."""

    version: str
    error: str = ""
    accelerator: str = ""
    gpus: tuple[str, ...] = ()
    threads: int = 0


@dataclass(frozen=True)
class Facts:
    """What problems are found in. `space`: folder -> free bytes; `caches`: folder -> bytes."""

    torch: Torch
    nvidia_driver: bool
    compiler: str
    sets: tuple[str, ...]
    forced: str
    cpus: int
    load: float
    governor: str
    memory: machine.Memory
    space: dict[Path, int]
    caches: dict[Path, int]
    read_only: tuple[Path, ...]
    missing: tuple[packages.Missing, ...]
    variables: tuple[Problem, ...] = ()
    """What is wrong with SWIFT_* variables."""


def facts() -> Facts:
    variables = tuple(wrong_variables(os.environ))
    folders = [Path.cwd(), cache_root(), _scratch()]
    found = {folder: machine.size(folder) for folder in (cache_root(), hubs.modelscope_root(), _hugging_face())}
    return Facts(
        torch=_torch(),
        nvidia_driver=machine.has_nvidia_driver(),
        compiler=native.compiler(),
        sets=processor.sets(),
        forced="" if _wrong_kernels() else processor.forced(),
        cpus=machine.cpus(),
        load=machine.load(),
        governor=machine.slow_governor(),
        memory=machine.memory(),
        space={folder: machine.free_space(folder) for folder in folders},
        caches=found,
        read_only=tuple(folder for folder in folders if not _is_writable(folder)),
        missing=tuple(packages.missing()),
        variables=variables,
    )


def wrong_variables(environment: Mapping[str, str]) -> Iterator[Problem]:
    """SWIFT_* variables of this process with a wrong value, and those whose name is similar to a known one."""
    if why := _wrong_kernels():
        yield Problem(why, f"unset {processor.VARIABLE}")
    offline = environment.get("SWIFT_OFFLINE", "")
    if offline and offline.lower() not in (*hubs.TRUE, *hubs.FALSE):
        what = f"SWIFT_OFFLINE={offline} is neither true nor false: the network is used"
        yield Problem(what, "export SWIFT_OFFLINE=1")
    cache = environment.get("SWIFT_CACHE", "")
    if cache and Path(cache).expanduser().exists() and not Path(cache).expanduser().is_dir():
        yield Problem(f"SWIFT_CACHE={cache} is a file, not a folder", "export SWIFT_CACHE=FOLDER")
    for name in sorted(environment):
        known = name in (*VARIABLES, *INTERNAL) or name.startswith(TOOL_PREFIX)
        if not known and name.upper().startswith("SWIFT") and (near := closest(name, VARIABLES, cutoff=0.75)):
            yield Problem(f"{name} has no effect: did you mean {near[0]}?", f"unset {name}; export {near[0]}=...")


def _wrong_kernels() -> str:
    try:
        processor.forced()
    except ValueError as error:
        return str(error)
    return ""


def problems(found: Facts) -> list[Problem]:
    """The worst first: what stops work, then what makes it slow."""
    return [problem for check in CHECKS for problem in check(found)]


def _variables(found: Facts) -> Iterator[Problem]:
    yield from found.variables


def _packages(found: Facts) -> Iterator[Problem]:
    if not found.torch.version:
        yield Problem(f"torch {found.torch.error}: no model can be loaded", "make setup")
    if others := [str(each) for each in found.missing if each.name != "torch"]:
        yield Problem(f"required packages are missing: {', '.join(others)}", "pip install swift-agents")


def _disk(found: Facts) -> Iterator[Problem]:
    for folder in found.read_only:
        fix = "export SWIFT_CACHE=FOLDER" if folder == cache_root() else f"chmod u+w {folder}"
        yield Problem(f"{folder} cannot be written", fix)
    largest = max(found.caches, key=lambda folder: found.caches[folder], default=None)
    for folder, free in found.space.items():
        if free < LOW_DISK:
            used = f"du -sh {largest}/*" if largest and found.caches[largest] > GIB else f"df -h {folder}"
            size = f" ({found.caches[largest] / GIB:.1f} GiB of caches)" if largest and used.startswith("du") else ""
            yield Problem(f"{free / GIB:.1f} GiB are free in {folder}: checkpoints and models may not fit", used + size)
            return


def _memory(found: Facts) -> Iterator[Problem]:
    if found.memory.total and found.memory.free < LOW_MEMORY:
        where = "this container" if found.memory.limited else f"{found.memory.total / GIB:.1f} GiB"
        yield Problem(
            f"{found.memory.free / GIB:.1f} GiB of {where} are free: training SmolLM2-135M takes 2.3 GiB",
            "end what takes memory: ps aux --sort=-rss | head",
        )


def _build_of_torch(found: Facts) -> Iterator[Problem]:
    if not found.torch.version or found.torch.gpus:
        return
    if found.nvidia_driver and not found.torch.accelerator:
        yield Problem(
            f"torch {found.torch.version} is a build for CPUs, but there is an NVIDIA GPU", "make TORCH=cuda setup"
        )
    elif found.nvidia_driver:
        yield Problem(f"torch {found.torch.version} finds no GPU, though NVIDIA's driver is installed", "nvidia-smi")


def _compiler(found: Facts) -> Iterator[Problem]:
    if not found.compiler and found.sets:
        yield Problem(
            "there is no C++ compiler: training and serving use torch's functions, which are slower",
            machine.compiler_command(),
        )


def _kernels(found: Facts) -> Iterator[Problem]:
    best = next(iter(found.sets), "")
    if found.forced and found.forced != best:
        yield Problem(
            f"{processor.VARIABLE}={found.forced} keeps {best or 'the default'} from being chosen",
            f"unset {processor.VARIABLE}",
        )


def _threads(found: Facts) -> Iterator[Problem]:
    wanted, threads = os.environ.get("OMP_NUM_THREADS", ""), found.torch.threads
    if not threads:
        return
    if wanted and threads < found.cpus // 2:  # half of them are the cores, where two threads share one
        yield Problem(f"OMP_NUM_THREADS={wanted} uses {threads} of {found.cpus} processors", "unset OMP_NUM_THREADS")
    elif threads > found.cpus:
        why = f"OMP_NUM_THREADS={wanted}" if wanted else "torch"
        yield Problem(
            f"{why} starts {threads} threads on {found.cpus} processors, which wait for each other",
            f"export OMP_NUM_THREADS={found.cpus}",
        )


def _busy(found: Facts) -> Iterator[Problem]:
    if found.load > BUSY * found.cpus:
        yield Problem(
            f"other processes keep the machine busy: load {found.load:.1f} on {found.cpus} processors",
            "ps aux --sort=-%cpu | head",
        )


def _governor(found: Facts) -> Iterator[Problem]:
    if found.governor:
        yield Problem(
            f"the frequency governor {found.governor} keeps the processor slow",
            "sudo cpupower frequency-set -g performance",
        )


CHECKS: tuple[Callable[[Facts], Iterator[Problem]], ...] = (
    *(_packages, _variables, _disk, _memory),
    *(_build_of_torch, _compiler, _kernels, _threads, _busy, _governor),
)


def _torch() -> Torch:
    if not (version := packages.installed("torch")):
        return Torch("", "is not installed")
    try:
        import torch
    except (ImportError, OSError) as error:  # an incomplete installation, or libraries of another system
        return Torch("", f"{version} cannot be imported ({' '.join(str(error).split())[:150]})")
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    gpus += ["Apple's (mps)"] * torch.backends.mps.is_available()
    built = [f"{name} {found}" for name, found in (("CUDA", torch.version.cuda), ("ROCm", torch.version.hip)) if found]
    return Torch(version, "", "".join(built), tuple(gpus), torch.get_num_threads())


def _hugging_face() -> Path:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def _scratch() -> Path:
    with scratch_folder() as folder:
        return Path(folder)


def _is_writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)


def compiler_version(compiler: str) -> str:
    """What a compiler says of itself; empty where it does not run."""
    if not shutil.which(compiler):
        return ""
    output = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return next(iter(output.splitlines()), "")
