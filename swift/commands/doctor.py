"""Tell what this machine has, and which kernels it computes a model with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "safetensors", "vllm", "bitsandbytes", "openvino")
SHAPE = {
    **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
    **{"num_attention_heads": 9, "num_key_value_heads": 3},
}
"""SmolLM2-135M's, which nothing has to be downloaded for."""
BITS = {"bf16": 0, "8 bits": 8, "4 bits": 4}


@dataclass(frozen=True)
class Config:
    model_id_or_path: str | None = None
    """A folder, hub id or name of a model, by whose shape kernels are measured; none: the shape of SmolLM2-135M"""
    model_type: str | None = None
    """The name of a model instead"""
    again: bool = False
    """Measure anew, though this machine's choice is known"""
    json: bool = False
    """Print one JSON object"""


def main(cfg: Config) -> None:
    found: dict[str, Any] = {"machine": machine(), "kernels": kernels(cfg)}
    if cfg.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print("\n".join([*lines(found["machine"]), "", *tables(found["kernels"])]))


def machine() -> dict[str, str]:
    """What speed depends on, a text each."""
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
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return next(iter(said.splitlines()), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def kernels(cfg: Config) -> dict[str, Any]:
    """Kind of work -> the choice and the seconds that it was made by; or why the model goes another way."""
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
    folder = Path(name).expanduser()  # of which weights are not needed
    path = folder if (folder / "config.json").is_file() else location.locate(name)
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} has no config.json, by which kernels are measured: name a folder that has one")
    return AutoConfig.from_pretrained(path)


def lines(machine: Mapping[str, str]) -> list[str]:
    wide = max(map(len, machine))
    return [f"{name:<{wide}}  {text}" for name, text in machine.items()]


def tables(kernels: Mapping[str, Any]) -> list[str]:
    """The choice for each kind of work, and below it milliseconds where they were measured."""
    found: list[str] = []
    for work, told in kernels.items():
        if isinstance(told, str):
            found.append(f"{work}: {told}")
            continue
        found.append(f"{work}: {told['kernels']} ({told['how']})")
        rows = [["milliseconds", *next(iter(told["seconds"].values()), {})]]
        rows += [[name, *(f"{took * 1000:.1f}" for took in each.values())] for name, each in told["seconds"].items()]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        if len(rows) > 1:
            for row in rows:
                cells = [row[0].ljust(wide[0]), *(c.rjust(w) for c, w in zip(row[1:], wide[1:], strict=True))]
                found.append("  " + "  ".join(cells))
    return found
