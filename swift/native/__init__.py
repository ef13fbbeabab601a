"""C++ of ours, compiled once on the user's machine for its processor and called through ctypes. Knows no model.

Sources lie beside the Python that calls them; the headers here are what they share. One source serves AMX, AVX-512
with and without bf16, and AVX2 (`processor`), and is compiled for each that is asked for. Plain C functions with
numbers and addresses, so neither torch's headers nor Python's are needed: a C++ compiler alone, and seconds.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from swift.native import processor
from swift.system.atomic_write import atomic_file
from swift.system.cache import cache_root

FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"),
    # sums in any order; not -ffast-math, whose libraries change how the whole process treats denormal numbers
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"),
)
LIBRARIES = ("-lstdc++",)  # a compiler named gcc leaves it out
HEADERS = Path(__file__).parent


class Unavailable(RuntimeError):
    """Why this machine computes without C++ of ours, in one line."""


def load(source: Path, kernels: str = "", **defined: int) -> ctypes.CDLL:
    """The functions of a C++ file, compiled for an instruction set with these names defined.

    `kernels`: one of `processor.sets()`; empty takes what SWIFT_KERNELS says, else the most able. Raises Unavailable,
    and ValueError where SWIFT_KERNELS is wrong; other processes may ask for the same at the same time.
    """
    kernels = kernels or default()
    if kernels == processor.TORCH:
        raise Unavailable("torch's own functions were chosen")
    loaded = _load(source, kernels, *(f"-D{name}={value}" for name, value in defined.items()))
    if isinstance(loaded, str):
        raise Unavailable(loaded)
    return loaded


def default() -> str:
    """The instruction set that is taken where none was measured. Raises Unavailable where there is none."""
    kernels = processor.forced() or next(iter(processor.sets()), "")
    if not kernels:
        raise Unavailable(processor.why_none())
    return kernels


def fingerprint(source: Path) -> dict[str, str]:
    """What the speed of a source's functions depends on beside what they are given: processor, code and torch."""
    read = hashlib.sha256(b"|".join([" ".join(FLAGS).encode(), *_code(source)])).hexdigest()[:16]
    able = hashlib.sha256(processor.flags().encode()).hexdigest()[:16]
    return {"processor": processor.name(), "able": able, "code": read, "torch": version("torch")}


def compiler() -> str:
    """The C++ compiler: $CXX, g++ or clang++; empty where there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), "")


@cache
def _load(source: Path, kernels: str, *defined: str) -> ctypes.CDLL | str:
    found = compiler()
    if not found:
        return "there is no C++ compiler (g++ or clang++)"
    try:
        library = _built(source, found, (*processor.SETS[kernels].without, *defined))
        try:
            return ctypes.CDLL(str(library))
        except OSError:
            library.unlink(missing_ok=True)  # the next process makes it anew
            raise
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [str(error)]
        return f"{found} does not compile {source.name}: {next((x for x in lines if 'error' in x), lines[0])[:150]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{source.name} cannot be compiled: {str(error)[:150]}"


def _built(source: Path, compiler: str, more: tuple[str, ...]) -> Path:
    """The library of a source, from the folder of an earlier run or made now."""
    made_by = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    parts = [*_code(source), " ".join([made_by, *FLAGS, *more, *LIBRARIES, processor.flags()]).encode()]
    name = f"{source.stem}-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}.so"
    library = cache_root() / "native" / name
    if not library.is_file():
        with atomic_file(library) as made:
            command = [compiler, *FLAGS, *more, f"-I{HEADERS}", str(source), "-o", str(made), *LIBRARIES]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return library


def _code(source: Path) -> list[bytes]:
    """A source and all that it may include."""
    headers = [each.read_bytes() for folder in (HEADERS, source.parent) for each in sorted(folder.glob("*.h"))]
    return [source.read_bytes(), *headers]
