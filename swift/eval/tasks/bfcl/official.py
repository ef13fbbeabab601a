"""What the task uses of the package bfcl-eval: its data files, tool descriptions and checker. Knows no model.

The package requires the clients of a dozen vendors. Its AST checker imports them only to look up one flag of a model
and its conversion of tools only for replies in text, so stand-ins take the place of those modules while it is imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

TESTED = "2026.3.23"
INSTALL = f"pip install --no-deps bfcl-eval=={TESTED} && pip install 'swift-agents[bfcl]'"
MODEL = "swift"
"""The name under which the checker finds a model that is offered `_` for `.` in the names of functions."""
PACKAGE = "bfcl_eval"


class Official(NamedTuple):
    """Functions of bfcl-eval. They take and return its own JSON values.

    `check(functions, calls, answers, language, category)` -> `{"valid": bool, "error": [...], "error_type": str}`, with
    calls `[{name: {argument: value}}]`. `hinted(rows)` adds the hints on the language and types to their functions, in
    place. `openai_tools(functions)` makes OpenAI's tools of them. `services`: class of a simulated service -> the file
    with its functions.
    """

    check: Callable[[Any, Any, Any, str, str], Mapping[str, Any]]
    hinted: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
    openai_tools: Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]]
    services: Mapping[str, str]


def installed_version() -> str:
    """The version of bfcl-eval. Raises ValueError where it is not installed."""
    if find_spec(PACKAGE) is None:
        raise ValueError(f"--tasks bfcl needs the package bfcl-eval, which is not installed: {INSTALL}")
    return version("bfcl-eval")


@cache
def load() -> Official:
    """Imports the functions. Raises ValueError if the package, or one that these need, is not installed."""
    installed = installed_version()
    try:
        with _without_vendors():
            checker = import_module(f"{PACKAGE}.eval_checker.ast_eval.ast_checker")
            rows = import_module(f"{PACKAGE}.utils")
            tools = import_module(f"{PACKAGE}.model_handler.utils")
            languages = import_module(f"{PACKAGE}.constants.enums").Language
            style = import_module(f"{PACKAGE}.constants.enums").ModelStyle.OPENAI_COMPLETIONS
            types = import_module(f"{PACKAGE}.constants.type_mappings").GORILLA_TO_OPENAPI
            ast_checker, hinted = checker.ast_checker, rows.add_language_specific_hint_to_function_doc
            convert = tools.convert_to_tool
            services = import_module(f"{PACKAGE}.constants.executable_backend_config").MULTI_TURN_FUNC_DOC_FILE_MAPPING
    except ModuleNotFoundError as error:
        raise ValueError(f"--tasks bfcl needs the package {error.name}: {INSTALL}") from None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"bfcl-eval {installed} is not as the tested version {TESTED}: {error}; {INSTALL}") from None
    return Official(
        lambda functions, calls, answers, language, category: ast_checker(
            functions, calls, answers, languages(language), category, MODEL
        ),
        hinted,
        lambda functions: convert(list(functions), types, style),
        services,
    )


def rows(category: str, folder: str = "") -> list[dict[str, Any]]:
    """The rows of a category; with folder `possible_answer` their answers. Raises ValueError for a missing file."""
    return lines(Path(folder) / f"BFCL_v4_{category}.json")


def lines(file: Path) -> list[dict[str, Any]]:
    """The JSON objects of a data file of the package, one a line. Raises ValueError if there is none."""
    installed = installed_version()
    try:
        text = (data_folder() / file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"bfcl-eval {installed} has no file {file}; tested: {INSTALL}") from None
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def data_folder() -> Path:
    """The folder of the package's data files."""
    found = find_spec(PACKAGE)
    assert found is not None and found.submodule_search_locations
    return Path(next(iter(found.submodule_search_locations))) / "data"


@contextmanager
def _without_vendors() -> Iterator[None]:
    """Imports of bfcl-eval within get stand-ins for what imports the clients of vendors or makes folders.

    What was imported so is forgotten afterwards, so that a later import gets the package as it is.
    """
    stand_ins: dict[str, dict[str, Any]] = {
        "constants.model_config": {"MODEL_CONFIG_MAPPING": {MODEL: SimpleNamespace(underscore_to_dot=True)}},
        "constants.eval_config": {},  # makes folders for results beside the package
        "model_handler.parser.java_parser": {"parse_java_function_call": None},  # tree-sitter
        "model_handler.parser.js_parser": {"parse_javascript_function_call": None},
    }
    before = {name: module for name, module in sys.modules.items() if _ours(name)}
    for name in before:
        del sys.modules[name]
    for name, values in stand_ins.items():
        module = ModuleType(f"{PACKAGE}.{name}")
        module.__dict__.update(values)
        sys.modules[module.__name__] = module
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _ours(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _ours(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")
