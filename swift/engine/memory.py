"""How much memory keys and values may take. Knows no model."""

from __future__ import annotations

import os

import torch

SHARE = 0.25
"""Of a machine's memory on CPUs: half of it for running sequences, half for the prefix cache."""
UNKNOWN = 8 << 30
"""Bytes assumed where the system does not report its memory, as on Windows."""


def kv_memory(device: torch.device) -> int:
    """Bytes for keys and values, of running sequences and of the prefix cache together."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * (1 - SHARE))
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}  # Windows has none
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else UNKNOWN
    return int(total * SHARE)
