"""What a run's speed and numbers depend on besides its flags: the machine and the versions of packages."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("swift-agents", "torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes")


def machine() -> dict[str, str]:
    """Name -> text."""
    import torch
    from psutil import virtual_memory

    from swift.native import processor

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    found = {
        "processor": f"{processor.name()}, {torch.get_num_threads()} of {os.cpu_count()} threads",
        "memory": f"{virtual_memory().total / 2**30:.1f} GiB",
        "GPU": ", ".join(gpus) or ("Apple's (mps)" if torch.backends.mps.is_available() else "none"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # not installed, or run from a checkout
    return found
