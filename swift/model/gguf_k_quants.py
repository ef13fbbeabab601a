"""A GGUF file in full precision -> one in a K-quant format (mixed 4 to 6 bits), by llama.cpp. Knows no model."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

KINDS = ("Q4_K_M",)


def check() -> None:
    """Raises ValueError if llama.cpp is not installed."""
    if find_spec("llama_cpp") is None:
        raise ValueError(
            "--to_gguf Q4_K_M needs llama.cpp, which is not installed: pip install llama-cpp-python "
            "(it compiles C++ for some minutes), or use Q8_0"
        )


def quantise(full: Path, file: Path, kind: str) -> None:
    """Writes `file` in the format `kind` from the file `full`. Raises OSError if llama.cpp fails."""
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if llama_cpp.llama_model_quantize(str(full).encode(), str(file).encode(), ctypes.byref(settings)):
        raise OSError(f"{file}: llama.cpp could not write it (a full disk?)")
