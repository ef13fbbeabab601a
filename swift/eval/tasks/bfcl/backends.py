"""BFCL's simulated services for dialogues of several turns, as functions of a worker process. Knows no model.

bfcl-eval evaluates calls as Python text and keeps services as global variables. So they run in a process of their own,
and each function here starts from new services, repeats earlier calls, and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from typing import Any

_PLACE = "bfcl_eval.eval_checker.multi_turn_eval"
_numbers = count()


def execute(id: str, config: dict[str, Any], classes: list[str], steps: list[list[str]]) -> list[str]:
    """The results of the calls of the last step, after those of the earlier ones.

    `id`: of the row, `config`: the initial state of its services, `classes`: their names. Calls are Python text.
    """
    run = import_module(f"{_PLACE}.multi_turn_utils").execute_multi_turn_func_call
    results: list[str] = []
    with _own_services() as name:
        for step in steps:
            results, _ = run(step, config, classes, name, id)
    return results


def verdict(
    id: str, config: dict[str, Any], classes: list[str], turns: list[list[list[str]]], answers: list[list[str]]
) -> dict[str, Any]:
    """The official checker's verdict, `{"valid": bool, "error_type": str, "error_message": str}`.

    `turns`: for each turn its steps, and for each step its calls; `answers`: for each turn the right calls.
    """
    check = import_module(f"{_PLACE}.multi_turn_checker").multi_turn_checker
    row = {"id": id, "initial_config": config, "involved_classes": classes}
    with _own_services() as name:
        found = check(turns, answers, row, id.rpartition("_")[0], name)
    return {key: found[key] for key in ("valid", "error_type", "error_message") if key in found}


@contextmanager
def _own_services() -> Iterator[str]:
    """A name that no other call uses for its services, which are forgotten afterwards."""
    kept = vars(import_module(f"{_PLACE}.multi_turn_utils"))
    name = f"swift{next(_numbers)}x"
    try:
        yield name
    finally:
        for each in [each for each in kept if each.startswith(name)]:
            del kept[each]
