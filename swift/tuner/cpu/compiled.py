"""Functions of tensors that torch.compile makes one loop of, where the machine can. Knows no model and no data.

A kernel is computed as it stands until `start` has seen that compiling works. Both ways give the same up to rounding;
compiled, what lies between the operations stays in registers, in fp32.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_OPTIONS: dict[str, Any] = {"cpp.dynamic_threads": True, "cpp_wrapper": True}
"""As many threads as the caller has, not as many as when a kernel was compiled; and called without Python's lock."""


class Kernel(Generic[P, R]):
    """A function of tensors whose last dimension but one (the tokens, mostly) differs from call to call."""

    def __init__(self, plain: Callable[P, R]) -> None:
        self._plain = plain
        self._compiled: Callable[P, R] | None = None
        self.__doc__ = plain.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._compiled is None:
            return self._plain(*args, **kwargs)
        return self._compiled(*map(_loose, args), **kwargs)


def _loose(value: Any) -> Any:
    """A tensor without what would have a kernel compiled again: whether it has a gradient, how many tokens it holds."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    if value.dim() > 1:
        torch._dynamo.maybe_mark_dynamic(value, value.dim() - 2)
    return value


_KERNELS: list[Kernel[Any, Any]] = []


def kernel(plain: Callable[P, R]) -> Kernel[P, R]:
    """The function as a kernel: it has arguments by position, and changes none of them."""
    _KERNELS.append(made := Kernel(plain))
    return made


def start(cache: Path) -> str:
    """Compiles every kernel when it is first called from now on; why that cannot be, or empty.

    `cache` keeps what is compiled for later processes: 4 s to load instead of 20 to compile.
    """
    # torch itself fills this in, with a folder among the temporary ones, when something that compiles is imported
    if Path(os.environ.get(_FOLDER, gettempdir())).is_relative_to(gettempdir()):
        os.environ[_FOLDER] = str(cache)
    try:
        torch.compile(_trial, options=_OPTIONS)(torch.ones(3, 5))
    except Exception as error:  # whatever a machine without a compiler, headers or a place to write answers
        return f"torch.compile: {str(error).strip().splitlines()[0][:150]}"
    for each in _KERNELS:
        each._compiled = torch.compile(each._plain, options=_OPTIONS)
    return ""


def stop() -> None:
    """Computes every kernel as it stands again."""
    for each in _KERNELS:
        each._compiled = None


def _trial(x: Tensor) -> Tensor:
    return x * 2 + 1
