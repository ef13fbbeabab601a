"""Loads a function from a Python file of the user, FILE.py:NAME. Does not know its purpose."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from swift.system.nearest import closest, nearest_path


def load_function(spec: str) -> Callable[..., Any]:
    """Raises ValueError for a missing file or function, and for an error while importing it."""
    path, _, name = spec.rpartition(":")
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        near = nearest_path(file) if path else ""
        raise ValueError(f"{spec}: no such Python file{near}: your own function is given as FILE.py:NAME")
    known = {key: value for key, value in vars(_imported(file)).items() if callable(value) and not key.startswith("__")}
    if name not in known:
        close = closest(name, known)
        raise ValueError(f"{file}: no function {name!r}{f'; did you mean {close[0]}?' if close else ''}")
    found: Callable[..., Any] = known[name]
    return found


def _imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"swift_own_{file.stem}", file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's module may raise anything
        raise ValueError(f"{file}: {type(error).__name__}: {error}") from error
    return module
