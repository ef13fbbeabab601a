"""Which device and dtype a model runs on. Loads nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from swift.model.config_files import json_object
from swift.system.nearest import nearest

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def pick_device(device: str = "auto") -> torch.device:
    """The device for auto, cpu, cuda, cuda:1 or mps. Under torchrun each process gets its own GPU.

    Raises ValueError for a device that is unknown or absent.
    """
    cuda = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if cuda else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        picked = torch.device(device)
    except RuntimeError:
        hint = nearest(device, ("auto", "cpu", "cuda", "mps"))
        raise ValueError(f"unknown device {device!r}: auto, cpu, cuda, cuda:1 or mps{hint}") from None
    if picked.type == "cuda" and not cuda:
        raise ValueError(f"device {device}: this machine has no GPU that PyTorch can use")
    if picked.type == "cuda" and picked.index is None:
        picked = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {picked}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0")
    return picked


def pick_dtype(dtype: str, device: torch.device, path: Path | None = None) -> str:
    """One of `DTYPES` for bf16, fp16, fp32 or AUTO. Raises ValueError for what is unknown or does not work.

    AUTO on a GPU is bf16 where supported, else fp16. On a CPU it is bf16 if the weights in the folder `path` are
    published in bf16 and the CPU multiplies it (AVX-512 BF16, AMX), else fp32.
    """
    if dtype == "AUTO":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "bf16" if path and _published_in(path) == "bfloat16" and _has_bf16() else "fp32"
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: AUTO, {', '.join(DTYPES)}")
    if dtype == "fp16" and device.type == "cpu":
        raise ValueError("dtype fp16 does not work on a CPU: use fp32 or bf16")
    return dtype


def has_foreign_bf16(path: Path, device: str) -> bool:
    """Whether AUTO picks fp32 for weights published in bf16, because the CPU does not multiply bf16."""
    on_cpu = pick_device(device).type == "cpu"
    unquantised = "quantization_config" not in _configuration(path)
    return on_cpu and unquantised and _published_in(path) == "bfloat16" and not _has_bf16()


def published_dtype(path: Path) -> torch.dtype:
    """The dtype that the folder's configuration names; fp32 if it names none."""
    found = getattr(torch, _published_in(path), torch.float32)
    return found if isinstance(found, torch.dtype) else torch.float32


def _published_in(path: Path) -> str:
    config = _configuration(path)
    return str(config.get("dtype") or config.get("torch_dtype"))


def _configuration(path: Path) -> dict[str, Any]:
    return json_object(path / "config.json") if (path / "config.json").is_file() else {}


def _has_bf16() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
