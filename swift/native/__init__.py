"""Compiles this project's C++ on the user's machine, for its processor, and calls it through ctypes. Knows no model.

Sources lie beside the Python that calls them; the headers here are what they share. One source serves AMX, AVX-512
with and without bf16, and AVX2 (`processor`), and is compiled once for each instruction set that is needed. Entry
points are plain C functions, so a C++ compiler and a few seconds are enough: no headers of torch or Python.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from swift.native import processor
from swift.system.atomic_write import atomic_file
from swift.system.cache import cache_root
from swift.system.progress import working

FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"),
    # sums in any order; not -ffast-math, which sets the whole process to flush denormal numbers
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"),
)
LIBRARIES = ("-lstdc++",)  # a compiler driver named gcc does not add it
HEADERS = Path(__file__).parent


class Unavailable(RuntimeError):
    """Why this machine cannot run the C++ code, in one line."""


def load(
    source: Path, kernels: str = "", structures: Sequence[type[ctypes.Structure]] = (), **defined: int
) -> ctypes.CDLL:
    """The library of a C++ file, compiled for an instruction set with these macros defined.

    `kernels`: one of `processor.sets()`; empty takes SWIFT_KERNELS, else the most capable set. `structures`: the
    mirrors of all structures that the library lists (abi.h); their sizes are compared. Raises Unavailable, and
    ValueError where SWIFT_KERNELS is wrong. Safe while other processes load the same file.
    """
    kernels = kernels or default()
    if kernels == processor.TORCH:
        raise Unavailable("torch's own functions were chosen")
    library = _load(source, kernels, *(f"-D{name}={value}" for name, value in defined.items()))
    if isinstance(library, str):
        raise Unavailable(library)
    if structures:
        _compare(source, _listed(library), structures)
        if not library.tiles_permitted():
            raise Unavailable("Linux does not let this process use AMX tiles")
    return library


def declare(library: ctypes.CDLL, **functions: Sequence[Any]) -> None:
    """Sets the argument types of functions that return a status (abi.h).

    A call that fails raises MemoryError or RuntimeError with the library's text; its process goes on.
    """
    for name, types in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, ctypes.c_int
        function.errcheck = partial(_check, library)


class _Listed(ctypes.Structure):
    """`abi::Structure`."""

    _fields_ = [("name", ctypes.c_char_p), ("size", ctypes.c_int64), ("last_offset", ctypes.c_int64)]


def _listed(library: ctypes.CDLL) -> dict[str, tuple[int, int]]:
    """Name of each structure of a library -> its size and the offset of its last field, in bytes."""
    library.structures.restype = ctypes.POINTER(_Listed)
    found: dict[str, tuple[int, int]] = {}
    for each in library.structures():
        if not each.name:
            break
        found[each.name.decode()] = each.size, each.last_offset
    return found


def _compare(source: Path, listed: dict[str, tuple[int, int]], mirrors: Sequence[type[ctypes.Structure]]) -> None:
    """Raises Unavailable unless each structure of a library has a mirror of the same size and last offset."""
    ours = {each.__name__.lstrip("_"): (ctypes.sizeof(each), _last_offset(each)) for each in mirrors}
    for name in sorted(listed.keys() | ours.keys()):
        if listed.get(name) != ours.get(name):
            sizes = f"(size, last offset) is {listed.get(name)} in C++ and {ours.get(name)} in Python"
            raise Unavailable(f"{source.name} and its Python mirror disagree on {name}: {sizes}")


def _last_offset(mirror: type[ctypes.Structure]) -> int:
    offset: int = getattr(mirror, mirror._fields_[-1][0]).offset
    return offset


_OUT_OF_MEMORY = 1  # abi::Status


def _check(library: ctypes.CDLL, status: int, function: Any, arguments: tuple[Any, ...]) -> None:
    if status:
        library.error_text.restype = ctypes.c_char_p
        error = MemoryError if status == _OUT_OF_MEMORY else RuntimeError
        raise error(f"{Path(library._name).stem.partition('-')[0]}: {library.error_text().decode(errors='replace')}")


def default() -> str:
    """SWIFT_KERNELS, else the most capable instruction set. Raises Unavailable where there is none."""
    kernels = processor.forced() or next(iter(processor.sets()), "")
    if not kernels:
        raise Unavailable(processor.why_none())
    return kernels


def fingerprint(source: Path) -> dict[str, str]:
    """What the speed of a source's functions depends on, apart from their arguments: processor, code and torch."""
    code = hashlib.sha256(b"|".join([" ".join(FLAGS).encode(), *_code(source)])).hexdigest()[:16]
    able = hashlib.sha256(processor.flags().encode()).hexdigest()[:16]
    return {"processor": processor.name(), "able": able, "code": code, "torch": version("torch")}


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
            library.unlink(missing_ok=True)  # the next process compiles it again
            raise
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [str(error)]
        return f"{found} does not compile {source.name}: {next((x for x in lines if 'error' in x), lines[0])[:150]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{source.name} cannot be compiled: {str(error)[:150]}"


def _built(source: Path, compiler: str, more: tuple[str, ...]) -> Path:
    """The library of a source: compiled by an earlier process, or now."""
    asked = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60)
    parts = [*_code(source), " ".join([asked.stdout, *FLAGS, *more, *LIBRARIES, processor.flags()]).encode()]
    name = f"{source.stem}-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}.so"
    library = cache_root() / "native" / name
    if not library.is_file():
        with atomic_file(library) as made:
            command = [compiler, *FLAGS, *more, f"-I{HEADERS}", str(source), "-o", str(made), *LIBRARIES]
            with working(f"compile {source.name} for this processor (once)"):
                subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return library


def _code(source: Path) -> list[bytes]:
    """A source and all headers that it may include."""
    headers = [each.read_bytes() for folder in (HEADERS, source.parent) for each in sorted(folder.glob("*.h"))]
    return [source.read_bytes(), *headers]
