"""C++ of ours, compiled once on the user's machine for its processor and called through ctypes. Knows no model.

Sources lie beside the Python that calls them; the headers here are what they share. One source serves AMX, AVX-512
with and without bf16, and AVX2, as the processor has them. Plain C functions with numbers and
addresses, so neither torch's headers nor Python's are needed: a C++ compiler alone, and seconds.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from swift.cache import cache_root

FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"),
    # sums in any order; not -ffast-math, whose libraries change how the whole process treats denormal numbers
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"),
)
LIBRARIES = ("-lstdc++",)  # a compiler named gcc leaves it out
HEADERS = Path(__file__).parent


class Unavailable(Exception):
    """Why this machine computes without C++ of ours, in one line."""


def load(source: Path, **defined: int) -> ctypes.CDLL:
    """The functions of a C++ file, compiled with these names defined.

    Raises Unavailable; other processes may ask for the same at the same time.
    """
    loaded = _load(source, *(f"-D{name}={value}" for name, value in defined.items()))
    if isinstance(loaded, str):
        raise Unavailable(loaded)
    return loaded


@cache
def _load(source: Path, *defined: str) -> ctypes.CDLL | str:
    if reason := _why_not():
        return reason
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None)
    if not compiler:
        return "there is no C++ compiler (g++ or clang++)"
    try:
        library = _built(source, compiler, defined)
        try:
            return ctypes.CDLL(str(library))
        except OSError:
            library.unlink(missing_ok=True)  # the next process makes it anew
            raise
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [str(error)]
        return f"{compiler} does not compile {source.name}: {next((x for x in lines if 'error' in x), lines[0])[:150]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{source.name} cannot be compiled: {str(error)[:150]}"


def _why_not() -> str:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"it is for Linux on x86-64, not {platform.system()} on {platform.machine()}"
    if not {"avx2", "fma"} <= set(_processor().split()):
        return "the processor has no AVX2"
    return ""


def _built(source: Path, compiler: str, defined: tuple[str, ...]) -> Path:
    """The library of a source, from the folder of an earlier run or made now."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    headers = [each.read_bytes() for folder in (HEADERS, source.parent) for each in sorted(folder.glob("*.h"))]
    parts = [source.read_bytes(), *headers, " ".join([version, *FLAGS, *defined, *LIBRARIES, _processor()]).encode()]
    name = f"{source.stem}-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}.so"
    folder = cache_root() / "native"
    library = folder / name
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            made = Path(aside) / name
            command = [compiler, *FLAGS, *defined, f"-I{HEADERS}", str(source), "-o", str(made), *LIBRARIES]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            made.replace(library)
    return library


def _processor() -> str:
    """What the processor can do: a folder of compiled code may be shared by different machines."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith("flags")), "")
