"""Functions of tensors that torch.compile fuses, where a compiler works. Knows no model and no data.

A kernel runs in eager mode until `start` has compiled a trial function. Both ways agree up to rounding; compiled,
intermediate results stay in registers, in fp32.
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
"""Use the caller's number of threads, not that of compile time; call kernels without Python's lock."""


class Kernel(Generic[P, R]):
    """A function of tensors whose second-to-last dimension (mostly tokens) varies from call to call."""

    def __init__(self, plain: Callable[P, R]) -> None:
        self._plain = plain
        self._compiled: Callable[P, R] | None = None
        self.__doc__ = plain.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._compiled is None:
            return self._plain(*args, **kwargs)
        return self._compiled(*map(_dynamic, args), **kwargs)


def _dynamic(value: Any) -> Any:
    """A tensor without what would trigger recompilation: requires_grad, and a fixed number of tokens."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    if value.dim() > 1:
        torch._dynamo.maybe_mark_dynamic(value, value.dim() - 2)
    return value


_KERNELS: list[Kernel[Any, Any]] = []


def kernel(plain: Callable[P, R]) -> Kernel[P, R]:
    """The function as a kernel. It must take positional arguments and change none of them."""
    _KERNELS.append(made := Kernel(plain))
    return made


def start(cache: Path) -> str:
    """From now on compiles every kernel at its first call. Returns why that is impossible, or an empty string.

    `cache` keeps compiled code for later processes: 4 s to load instead of 20 s to compile.
    """
    # torch sets it to a temporary folder when something that compiles is imported
    if Path(os.environ.get(_FOLDER, gettempdir())).is_relative_to(gettempdir()):
        os.environ[_FOLDER] = str(cache)
    try:
        torch.compile(_trial, options=_OPTIONS)(torch.ones(3, 5))
    except Exception as error:  # a missing compiler, missing headers or a read-only disk raise different errors
        return f"torch.compile: {str(error).strip().splitlines()[0][:150]}"
    for each in _KERNELS:
        each._compiled = torch.compile(each._plain, options=_OPTIONS)
    return ""


def stop() -> None:
    """Runs every kernel in eager mode again."""
    for each in _KERNELS:
        each._compiled = None


def _trial(x: Tensor) -> Tensor:
    return x * 2 + 1
