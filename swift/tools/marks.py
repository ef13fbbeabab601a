"""What a function says about itself as a tool. Standard library only: the files of users import it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])
_READ_ONLY = "__swift_read_only__"


def read_only(function: Function) -> Function:
    """Marks a function as a tool that changes nothing: it needs no confirmation, and its calls may run in parallel."""
    setattr(function, _READ_ONLY, True)
    return function


def is_read_only(function: Callable[..., object]) -> bool:
    """Whether `read_only` marked the function, also below decorators that use `functools.wraps`."""
    return bool(getattr(function, _READ_ONLY, False))
