"""Show this machine's hardware and packages, and which kernels it selects for a model."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

PACKAGES = ("torch", "transformers", "peft", "safetensors", "vllm", "bitsandbytes", "openvino")
SHAPE = {
    **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
    **{"num_attention_heads": 9, "num_key_value_heads": 3},
}
"""The shape of SmolLM2-135M, which needs no download."""
BITS = {"bf16": 0, "8 bits": 8, "4 bits": 4}


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift doctor --model_id_or_path smollm2-135m-instruct"

    model_id_or_path: str | None = None
    """Folder, hub id or name of the model whose shape is measured; none uses the shape of SmolLM2-135M"""
    model_type: str | None = None
    """Registered name of the model, instead"""
    again: bool = False
    """Measure again even if a measurement is cached"""
    json: bool = False
    """Print one JSON object"""


def main(cfg: Config) -> None:
    found: dict[str, Any] = {"machine": machine(), "kernels": kernels(cfg)}
    if cfg.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print("\n".join([*lines(found["machine"]), "", *tables(found["kernels"])]))


def machine() -> dict[str, str]:
    """What speed depends on: name -> text."""
    import torch

    from swift import native
    from swift.native import processor

    caches = [f"{size >> 10:,} KiB" for size in processor.caches() if size]
    compiler = native.compiler()
    return {
        "processor": f"{processor.name()}, {torch.get_num_threads()} of {os.cpu_count()} threads",
        "instruction sets": " ".join(processor.sets()) or f"none: {processor.why_none()}",
        "caches": ", ".join(caches) or "unknown",
        "memory": _memory(),
        "GPU": _gpus(),
        "compiler": f"{compiler} ({_first_line(compiler)})" if compiler else "none: install g++ or clang++",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
        processor.VARIABLE: processor.forced() or "not set",
    }


def _memory() -> str:
    from psutil import virtual_memory

    memory = virtual_memory()
    return f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} free"


def _gpus() -> str:
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join(names) or ("Apple's (mps)" if torch.backends.mps.is_available() else "none")


def _first_line(compiler: str) -> str:
    output = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return next(iter(output.splitlines()), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


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
        choices = {name: serving.selection(config, bits, cfg.again) for name, bits in BITS.items()}
        found |= {f"serving, {name}": choice._asdict() for name, choice in choices.items()}
    if config.model_type not in FAMILIES:
        return {**found, "LoRA": f"PEFT's own layers (the fast path does not know {config.model_type})"}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
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


def tables(kernels: Mapping[str, Any]) -> list[str]:
    """The selection for each kind of work, and the measured milliseconds."""
    found: list[str] = []
    for work, choice in kernels.items():
        if isinstance(choice, str):
            found.append(f"{work}: {choice}")
            continue
        found.append(f"{work}: {choice['kernels']} ({choice['how']})")
        rows = [["milliseconds", *next(iter(choice["seconds"].values()), {})]]
        rows += [[name, *(f"{took * 1000:.1f}" for took in each.values())] for name, each in choice["seconds"].items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        if len(rows) > 1:
            for row in rows:
                cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
                found.append("  " + "  ".join(cells))
    return found
