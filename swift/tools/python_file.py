"""The public functions of a Python file as tools."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

from swift.tools.bound_tool import BoundTool, from_function


def read_tools(file: Path) -> list[BoundTool]:
    """Tools from the public functions of a Python file. Executes the file.

    Raises ValueError for a file that is missing, fails to run, or has no public function.
    """
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(
            f"{file}: {'not a Python file' if file.is_file() else 'no such file'}: tools are the public "
            "functions of a .py file, or described in a .json or .jsonl file"
        )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise ValueError(f"{file}: fails to run: {type(error).__name__}: {error}") from error
    found = [
        from_function(each)
        for name, each in vars(module).items()
        if inspect.isfunction(each) and each.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not found:
        raise ValueError(f"{file}: no public function, so there are no tools")
    return found
