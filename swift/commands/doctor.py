"""Show what is wrong with this machine's setup and how to fix it, its hardware and packages, and the chosen kernels."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from swift.flags import flag
from swift.system.progress import tracked

if TYPE_CHECKING:
    from swift.assembly.diagnosis import Facts, Problem

PACKAGES = ("transformers", "peft", "accelerate", "safetensors", "vllm", "bitsandbytes", "openvino")
UNITS = {"AVX2": {"avx2"}, "AVX-512": {"avx512f"}, "bf16": {"avx512_bf16", "amx_bf16"}, "AMX": {"amx_tile"}}
"""What a processor may have -> flags of /proc/cpuinfo, of which one is enough."""
SHAPE = {
    **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
    **{"num_attention_heads": 9, "num_key_value_heads": 3},
}
"""The shape of SmolLM2-135M, which needs no download."""
BITS = {"bf16": 0, "8 bits": 8, "4 bits": 4}


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift doctor"

    model_id_or_path: str | None = flag(None, alias=("model",))
    """Folder, hub id or name of the model whose shape is measured; none uses the shape of SmolLM2-135M"""
    model_type: str | None = None
    """Registered name of the model, instead"""
    measure: bool = True
    """Choose kernels for the model; the first time it compiles and times them, for seconds"""
    times: bool = False
    """Show the measured milliseconds of each kind of work"""
    again: bool = False
    """Measure again even if a measurement is cached"""
    json: bool = False
    """Print one JSON object"""

    def __post_init__(self) -> None:
        for name in ("times", "again"):
            if getattr(self, name) and not self.measure:
                raise ValueError(f"--{name} true does nothing with --measure false")


def main(cfg: Config) -> None:
    from swift.assembly import diagnosis
    from swift.native import processor

    facts = diagnosis.facts()
    found = diagnosis.problems(facts)
    if not cfg.json:
        print("\n".join([*told(found), "", *lines(machine(facts))]), flush=True)
    wrong = any(each.what.startswith(processor.VARIABLE) for each in facts.variables)
    chosen = kernels(cfg) if cfg.measure and facts.torch.version and not wrong else {}
    if cfg.json:
        problems = [each._asdict() for each in found]
        print(
            json.dumps(
                {"problems": problems, "machine": machine(facts), "kernels": chosen}, ensure_ascii=False, indent=2
            )
        )
    elif chosen:
        print("\n".join(["", *tables(chosen, cfg.times)]))


def told(problems: Sequence[Problem]) -> list[str]:
    """What is wrong, each with what to do about it."""
    if not problems:
        return ["nothing is wrong with this machine's setup"]
    count = f"{len(problems)} problem{'s' * (len(problems) != 1)}:"
    return [count, *(line for each in problems for line in (f"- {each.what}", f"    fix: {each.fix}"))]


def machine(facts: Facts) -> dict[str, str]:
    """What speed depends on: name -> text."""
    from swift.assembly.diagnosis import GIB, compiler_version
    from swift.native import processor
    from swift.system import packages

    caches = [f"{size >> 10:,} KiB" for size in processor.caches() if size]
    flags = set(processor.flags().split())
    threads = facts.torch.threads or facts.cpus
    space = {free: folder for folder, free in reversed(facts.space.items())}
    versions = {name: packages.installed(name) for name in PACKAGES}
    return {
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()} in {sys.prefix}",
        "torch": _torch(facts),
        "processor": f"{processor.name()}, {threads} of {os.cpu_count()} threads",
        "units": ", ".join(f"{name} {'yes' if flags & any_of else 'no'}" for name, any_of in UNITS.items()),
        "instruction sets": " ".join(facts.sets) or f"none: {processor.why_none()}",
        "caches": ", ".join(caches) or "unknown",
        "memory": f"{facts.memory.total / GIB:.1f} GiB, {facts.memory.free / GIB:.1f} free",
        "GPU": ", ".join(facts.torch.gpus) or ("not used" if facts.nvidia_driver else "none"),
        "compiler": f"{facts.compiler} ({compiler_version(facts.compiler)})" if facts.compiler else "none",
        "disk": ", ".join(f"{free / GIB:.1f} GiB free in {folder}" for free, folder in space.items()),
        "downloads": ", ".join(
            f"{size / GIB:.1f} GiB in {folder}" if size else f"none in {folder}"
            for folder, size in facts.caches.items()
        ),
        "packages": ", ".join(f"{name} {found}" for name, found in versions.items() if found),
        "extras": _extras(),
        processor.VARIABLE: facts.forced or "not set",
    }


def _torch(facts: Facts) -> str:
    if not facts.torch.version:
        return f"{facts.torch.error}: GPUs and kernels are not looked at"
    return f"{facts.torch.version}, built for {facts.torch.accelerator or 'CPUs'}"


def _extras() -> str:
    from swift.system import packages

    found = packages.extras()
    have, lack = [n for n, missing in found.items() if not missing], [n for n, missing in found.items() if missing]
    parts = [", ".join(have) or "none"]
    return f"{parts[0]}; not installed: {', '.join(lack)} (pip install 'swift-agents[NAME]')" if lack else parts[0]


def kernels(cfg: Config) -> dict[str, Any]:
    """Kind of work -> the selected kernels and the measured seconds, or why none of ours is used."""
    import torch

    from swift.engine import decoder
    from swift.engine.cpu import kernels as serving
    from swift.engine.cpu import native_runner
    from swift.model.decoder_layers import FAMILIES
    from swift.native import shapes
    from swift.tuner.cpu import kernels as training

    config = _config(cfg)
    found: dict[str, Any] = {}
    reason = decoder.why_not_type(config.model_type, config.architectures[0])
    if not reason:
        small = serving.made(shapes.shortened(config, 1))
        reason = decoder.why_not(small) or native_runner.why_not(small) or native_runner.missing()
    if reason:
        found["serving"] = f"torch ({reason})"
    else:
        choices = {
            name: serving.selection(config, bits, cfg.again)
            for name, bits in tracked(BITS.items(), "choose kernels for serving", len(BITS))
        }
        found |= {f"serving, {name}": choice._asdict() for name, choice in choices.items()}
    if config.model_type not in FAMILIES:
        return {**found, "LoRA": f"PEFT's own layers (the fast path does not know {config.model_type})"}
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    for name, dtype in tracked(dtypes.items(), "choose kernels for training", len(dtypes)):
        found[f"LoRA, {name}"] = training.selection(config, dtype, cfg.again)._asdict()
    return found


def _config(cfg: Config) -> Any:
    from transformers import AutoConfig, LlamaConfig

    from swift.model import location

    name = cfg.model_id_or_path or cfg.model_type
    if not name:
        return LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"])
    folder = Path(name).expanduser()  # needs no weights
    path = folder if (folder / "config.json").is_file() else location.locate(name)
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} has no config.json, which the measurement needs: name a folder that has one")
    return AutoConfig.from_pretrained(path)


def lines(machine: Mapping[str, str]) -> list[str]:
    widths = max(map(len, machine))
    return [f"{name:<{widths}}  {text}" for name, text in machine.items()]


def tables(kernels: Mapping[str, Any], times: bool) -> list[str]:
    """The selection for each kind of work; `times`: with the measured milliseconds."""
    found: list[str] = []
    width = max(map(len, kernels))
    for work, choice in kernels.items():
        if isinstance(choice, str):
            found.append(f"{work:<{width}}  {choice}")
            continue
        found.append(f"{work:<{width}}  {choice['kernels']} ({choice['how']})")
        found += _milliseconds(choice["seconds"]) if times else []
    return found


def _milliseconds(seconds: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows = [["milliseconds", *next(iter(seconds.values()), {})]]
    rows += [[name, *(f"{took * 1000:.1f}" for took in each.values())] for name, each in seconds.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in rows)
    return ["  " + "  ".join(each) for each in cells] if len(rows) > 1 else []
